"""A connection to the target whose calls block in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg

from walcast.postgres.connect import Connection
from walcast.sinks.postgres.failures import StatementFailed
from walcast.sinks.postgres.session import Session
from walcast.sinks.postgres.writer import Writer

T = TypeVar("T")


class Line:
    """Connection, session and thread; and what writes over it, once it is `open`."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.session = Session(connection.pgconn)
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._calls = asyncio.Lock()
        self._writer: Writer | None = None

    @property
    def writer(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("the sink is not open")
        return self._writer

    async def open(self, make: Callable[[Session], Writer]) -> None:
        self._writer = await self.call(lambda: make(self.session))

    async def close(self) -> None:
        await self._connection.close()
        self._thread.shutdown(wait=False)

    async def call(self, work: Callable[[], T]) -> T:
        """Runs it in the thread, after what runs there. A cancelled call ends the connection: what it was doing is over
        before it returns."""
        async with self._calls:
            future = asyncio.get_running_loop().run_in_executor(self._thread, work)
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                await self._give_up(future)
                raise
            except StatementFailed as failure:
                raise failure.error("working") from None

    async def _give_up(self, future: asyncio.Future[T]) -> None:
        """The thread must be out of libpq before the connection is closed."""
        if future.done():
            return
        with contextlib.suppress(psycopg.Error):
            await asyncio.shield(self._connection.cancel_safe(timeout=5))
        done, _ = await asyncio.wait([future], timeout=5)
        if not done:
            with contextlib.suppress(psycopg.Error, OSError):
                self.session.abort()
            done, _ = await asyncio.wait([future], timeout=5)
        for ended in done:
            ended.exception()  # seen: it ended because it was told to
