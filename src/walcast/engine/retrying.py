"""Dead letters tried again, in the order of their keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from walcast.engine.aside import Aside
from walcast.model import Batch, DeadLetter, OperatorError, TableId


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a letter that was tried again: applied; refused as before; or it still waits for an earlier one."""

    number: int
    table: TableId
    outcome: Literal["applied", "refused", "waits"]
    message: str = ""


async def retry(
    aside: Aside,
    numbers: Sequence[int] | None,
    revive: Callable[[DeadLetter], Awaitable[Batch]],
    again: Callable[[int, Batch], Awaitable[DeadLetter | None]],
) -> list[Retried]:
    """Tries letters (None: all) again in their order, with all others of their keys. Raises OperatorError for a number that
    there is not, and what the sink raises."""
    results: list[Retried] = []
    stuck: set[int] = set()
    for number in aside.together(numbers):
        letter = aside.letters[number]
        if not stuck.isdisjoint(aside.behind(number)):
            stuck.add(number)
            results.append(Retried(number, letter.table, "waits", "an earlier change of its key is refused"))
            continue
        try:
            batch = await revive(letter)
        except OperatorError as error:
            stuck.add(number)
            results.append(Retried(number, letter.table, "refused", f"{error.message}; {error.hint}"))
            continue
        refused = await again(number, batch)
        if refused is not None:
            stuck.add(number)
            results.append(Retried(number, letter.table, "refused", refused.message))
        else:
            results.append(Retried(number, letter.table, "applied"))
    return results
