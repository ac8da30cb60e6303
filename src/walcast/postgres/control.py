"""The control connection: asks the source's catalog, and is watched while it is silent.

A server that is told to stop fast ends its ordinary backends at once, but waits for walsenders whose reader has
stalled. So the moment this connection ends, whoever reads the stream is told, and hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import ConnStatus
from psycopg.pq.abc import PGconn

from walcast.model.secret import Secret
from walcast.postgres.connect import Connection, connect, describe
from walcast.postgres.faults import explain

log = logging.getLogger("walcast.postgres")

Row = tuple[Any, ...]
T = TypeVar("T")


class Control:
    """One connection in autocommit, opened again when it was lost. Queries queue up; the watching never blocks.

    An answer that takes longer than `patience` (seconds) counts as a lost connection.
    """

    def __init__(self, dsn: Secret, application: str, patience: float = 60.0) -> None:
        self._dsn = dsn
        self._patience = patience
        self._application = application
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._watched: int | None = None
        self.on_lost: Callable[[], None] | None = None
        """Called in the event loop as soon as the connection ended by the other side's doing."""

    @property
    def version(self) -> int:
        """server_version_num of the open connection; 0 when there is none."""
        return self._connection.info.server_version if self._connection is not None else 0

    async def open(self) -> None:
        """Connects unless it is connected. Raises OperatorError, SourceUnavailable."""
        async with self._lock:
            await self._opened()

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def ask(
        self, question: Callable[[Connection], Awaitable[T]], doing: str = "asking the source's catalog"
    ) -> T:
        """What `question` makes of the connection, which is its alone meanwhile. A lost connection is opened again by the
        next call. Raises what `faults.explain` makes of psycopg's errors."""
        async with self._lock:
            connection = await self._opened()
            # Cancelling would ask the server, which may be out of reach: the line is cut instead.
            alarm = asyncio.get_running_loop().call_later(self._patience, hang_up, connection.pgconn)
            try:
                return await question(connection)
            except psycopg.Error as error:
                if connection.closed or connection.broken:
                    await self._lost()
                raise explain(error, doing) from None
            finally:
                alarm.cancel()

    async def rows(
        self, query: LiteralString | sql.Composed, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Row]:
        """The rows of a query."""

        async def fetch(connection: Connection) -> list[Row]:
            return await (await connection.execute(query, params or None)).fetchall()

        return await self.ask(fetch)

    async def row(
        self, query: LiteralString | sql.Composed, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> Row | None:
        found = await self.rows(query, params)
        return found[0] if found else None

    async def _opened(self) -> Connection:
        if self._connection is None or self._connection.closed:
            await self._drop()
            self._connection = await connect(self._dsn, application=self._application)
            self._watch(self._connection)
        return self._connection

    def _watch(self, connection: Connection) -> None:
        # A descriptor of its own: psycopg registers the socket itself while a query runs.
        self._watched = os.dup(connection.fileno())
        asyncio.get_running_loop().add_reader(self._watched, self._readable)

    def _readable(self) -> None:
        connection = self._connection
        if connection is None or self._lock.locked():
            return  # the running query reads it
        with contextlib.suppress(psycopg.Error):
            connection.pgconn.consume_input()
            connection.pgconn.notifies()
        if connection.pgconn.status != ConnStatus.OK:
            self._unwatch()
            task = asyncio.ensure_future(self._ended())
            task.add_done_callback(lambda done: done.exception())

    async def _ended(self) -> None:
        async with self._lock:
            if self._connection is not None and self._connection.pgconn.status != ConnStatus.OK:
                await self._lost()

    async def _lost(self) -> None:
        log.warning("source_connection_lost", extra={"source": describe(self._dsn)})
        await self._drop()
        if self.on_lost is not None:
            self.on_lost()

    async def _drop(self) -> None:
        self._unwatch()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _unwatch(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            os.close(self._watched)
            self._watched = None


def hang_up(pgconn: PGconn) -> None:
    """Shuts a connection's socket at once, from any thread, whoever else is using it: the server sees its end, and so
    does a reader."""
    try:
        duplicate = os.dup(pgconn.socket)
    except (psycopg.Error, OSError):
        return
    with socket.socket(fileno=duplicate) as line, contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
