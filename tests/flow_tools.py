"""A pipeline that runs while a test looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import walcast
from walcast import engine


async def ready(
    flow: engine.Pipeline | walcast.Pipeline, task: asyncio.Task[None], patience: float = 20
) -> None:
    """Until it streams, or has ended."""
    async with asyncio.timeout(patience):
        while not flow.status().ready and not task.done():  # noqa: ASYNC110  # a status has no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(flow: engine.Pipeline | walcast.Pipeline, patience: float = 20) -> AsyncIterator[None]:
    """Runs it; ready when the body begins. Raises what ended it."""
    task = asyncio.create_task(flow.run())
    try:
        await ready(flow, task, patience)
        yield
    finally:
        flow.stop()
        await task
