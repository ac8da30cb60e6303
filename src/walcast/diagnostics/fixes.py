"""The safe steps, by name. Each looks again before it acts: what was found may be gone by now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from walcast.diagnostics.case import Case
from walcast.model import Fix
from walcast.postgres.passing import drop_passing
from walcast.postgres.wanted import ensure_wanted


async def _publish(case: Case, target: str) -> None:
    await ensure_wanted(case.connection, case.setup.source)


async def _drop_publication(case: Case, target: str) -> None:
    await drop_passing(case.connection, target)


async def _chmod(case: Case, target: str) -> None:
    Path(target).chmod(0o600)


ACTIONS: Final[dict[str, Callable[[Case, str], Awaitable[None]]]] = {
    "publish": _publish,
    "drop_publication": _drop_publication,
    "chmod": _chmod,
}


async def apply(case: Case, fix: Fix) -> None:
    """Does it. Raises WalcastError, OSError."""
    await ACTIONS[fix.action](case, fix.target)
