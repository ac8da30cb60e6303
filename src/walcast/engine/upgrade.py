"""Brings a journal of an older Walcast to the present format, and refuses one of a newer.

A step changes keys so that it can be done again; the number is written last. A crash in between repeats the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from walcast.model import FORMAT, Journal, check_format

log = logging.getLogger("walcast.engine")

KEY: Final = "format"


def _note(content: Mapping[str, Any]) -> dict[str, Any]:
    """From before the number was written: nothing else differs."""
    return {}


STEPS: Final[tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...]] = (_note,)
"""STEPS[n] makes of format n what format n + 1 wants: the keys to write, None deletes one."""


def format_of(content: Mapping[str, Any], where: str) -> int:
    """The format of a journal's content. Raises OperatorError when it is a newer one."""
    found = int(content.get(KEY, 0))
    check_format(found, where)
    return found


async def load_journal(journal: Journal, where: str) -> dict[str, Any]:
    """The journal's content in the present format, durable as such. Raises OperatorError when it is a newer one's."""
    content = await journal.load()
    found = format_of(content, where)
    for number, step in enumerate(STEPS[found:], start=found):
        for key, value in step(content).items():
            await journal.save(key, value)
        if content:
            log.info("state_upgraded", extra={"where": where, "from": number, "to": number + 1})
    if found < FORMAT:
        await journal.save(KEY, FORMAT)
        content = await journal.load()
    return content
