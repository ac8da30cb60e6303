"""The end of a sink whose target is used from one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


async def closed(worker: ThreadPoolExecutor, close: Callable[[], None]) -> None:
    """Lets go of the target in the worker's thread, and of the worker: also when the closing itself is called off, since the
    next to open the target may be ourselves."""
    closing = worker.submit(close)
    worker.shutdown(wait=False)
    try:
        await asyncio.shield(asyncio.wrap_future(closing))
    except asyncio.CancelledError:
        closing.result()
        raise
