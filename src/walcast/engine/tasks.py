"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

log = logging.getLogger("walcast.engine")

_PATIENCE = 1.0
_TRIES = 10


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels the tasks and waits for them; again when they went on all the same.

    One cancellation can be lost: before Python 3.12 `asyncio.wait_for` swallows it when what it waits for is done at
    the same moment. A task that goes on after ten of them is left alone.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    for _ in range(_TRIES):
        if not left:
            return
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_PATIENCE)
    log.error("tasks_left", extra={"tasks": [task.get_name() for task in left]})


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs it while the context is open."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
