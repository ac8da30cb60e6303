"""The PostgreSQL sink: a copy in another PostgreSQL, exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import psycopg
from psycopg import sql

from walcast.model import (
    Batch,
    Checkpoint,
    Durability,
    Journal,
    OperatorError,
    Relation,
    SinkContext,
    SinkUnavailable,
    TableId,
)
from walcast.postgres.connect import Connection, application_name, connect
from walcast.sinks.postgres.config import PostgresSinkConfig
from walcast.sinks.postgres.failures import StatementFailed
from walcast.sinks.postgres.origin import Origin
from walcast.sinks.postgres.session import Session
from walcast.sinks.postgres.store import Store
from walcast.sinks.postgres.writer import Writer

log = logging.getLogger("walcast.sinks")
T = TypeVar("T")

_OLDEST = 130_000
# A plan must not keep the sequential scan of a table that was small when it was made. A backend whose client is gone
# must not hold the checkpoint's row for hours.
_TUNING = b"""
set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;
set default_transaction_read_only = off; set temp_buffers = '32MB'; set check_function_bodies = off;
set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3;
"""
_STATE = sql.SQL(
    "select json_build_array(pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, oid::bigint)"
    " from pg_catalog.pg_database where datname = current_database()"
)
_COUNT = sql.SQL("select count(*) from {}")


class PostgresSink:
    """Implements `walcast.model.Sink`, `KeepsJournal` and `Countable`.

    Each batch is one transaction of the target with its checkpoint, so that it is there once. The connection blocks
    in a thread of its own. An error ends the object's use: it is opened again, and reads where the target stands.
    """

    keeps_checkpoint = True

    def __init__(self, config: PostgresSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._context = context
        self._store = Store(context.pipeline, context.sink)
        self._calls = asyncio.Lock()
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._writer: Writer | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._connection = await self._connect()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"walcast-{self._context.sink}")
        try:
            self._session = Session(self._connection.pgconn)
            await self._blocking(self._open, self._session)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._connection is not None:
            await self._connection.close()
        if self._thread is not None:
            self._thread.shutdown(wait=False)
        self._connection = self._session = self._writer = self._thread = None

    async def checkpoint(self) -> Checkpoint | None:
        """What the target holds now."""
        session, writer = self._opened()
        found = await self._call(lambda: self._store.checkpoint(session))
        writer.held = found
        return found

    async def prepare(self, relation: Relation) -> None:
        """Makes or alters the copy's table. Raises TableStopped when it cannot hold this version."""
        _, writer = self._opened()
        await self._call(lambda: writer.prepare(relation))

    async def write(self, batch: Batch) -> Durability:
        """One transaction; a source transaction in parts is one, too. Raises TableStopped, Fenced, SinkUnavailable,
        RetryableError, OperatorError; then nothing of the batch is there, or (the connection was lost while it was
        committed) all of it, and the checkpoint says which."""
        _, writer = self._opened()
        return await self._call(lambda: writer.write(batch))

    async def flush(self) -> None:
        """Returns once the target's WAL is on disk up to the last commit."""
        _, writer = self._opened()
        if writer.unflushed:
            await self._call(writer.flush)

    def journal(self) -> Journal:
        return _Journal(self)

    async def count(self, table: TableId) -> int:
        """The rows of the copy's table."""
        session, _ = self._opened()
        schema = self._config.schemas.get(table.schema, table.schema)
        rows = await self._call(lambda: session.query(_COUNT.format(sql.Identifier(schema, table.name))))
        return int(rows[0][0] or 0)

    async def load_journal(self) -> dict[str, Any]:
        session, _ = self._opened()
        return await self._call(lambda: self._store.load_journal(session))

    async def save_journal(self, key: str, value: Any) -> None:
        """In a transaction of its own; over another connection while one is open for a source transaction in parts."""
        session, writer = self._opened()
        if not writer.in_parts:
            await self._call(lambda: self._store.save_journal(session, key, value))
            return
        connection = await self._connect()
        try:
            other = Session(connection.pgconn)
            await self._call(lambda: self._store.save_journal(other, key, value))
        finally:
            await connection.close()

    def _open(self, session: Session) -> None:
        if session.version < _OLDEST:
            raise OperatorError(
                f"the target is PostgreSQL {session.version // 10000}; the copy needs 13 or later",
                hint="upgrade the target",
            )
        session.query(_TUNING)
        recovering, read_only, database = session.json(_STATE)
        if recovering or read_only:
            raise OperatorError(
                "the target is a standby" if recovering else "the target's database is read-only",
                hint="give the DSN of the primary (target_session_attrs=read-write finds it among several hosts)",
            )
        session.query(b"set synchronous_commit = " + self._config.synchronous_commit.encode())
        role = self._take_role(session)
        origin = Origin(
            f"walcast:{database}:{self._context.pipeline}:{self._context.sink}", self._config.origin
        )
        self._writer = Writer(session, self._store, self._config, role, origin)
        self._writer.open()

    def _take_role(self, session: Session) -> str:
        """The session_replication_role in effect."""
        if self._config.replication_role == "off":
            return "origin"
        try:
            session.query(b"set session_replication_role = replica")
        except StatementFailed as failure:
            if self._config.replication_role == "on":
                raise failure.error("setting session_replication_role") from None
            log.warning(
                "replication_role_unavailable",
                extra={"effect": "the copy's triggers and foreign keys act on what is written"},
            )
            return "origin"
        return "replica"

    async def _connect(self) -> Connection:
        name = application_name(self._context.pipeline, self._context.sink)
        return await connect(self._config.dsn, application=name, unavailable=SinkUnavailable)

    def _opened(self) -> tuple[Session, Writer]:
        if self._session is None or self._writer is None:
            raise RuntimeError("the sink is not open")
        return self._session, self._writer

    async def _call(self, work: Callable[[], T]) -> T:
        async with self._calls:
            return await self._blocking(work)

    async def _blocking(self, work: Callable[..., T], *args: Any) -> T:
        """Runs in the sink's thread. A cancelled call ends the connection: what it was doing is over before it returns."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await self._give_up(future)
            raise
        except StatementFailed as failure:
            raise failure.error("working") from None

    async def _give_up(self, future: asyncio.Future[Any]) -> None:
        """The thread must be out of libpq before the connection is closed."""
        if self._connection is None or self._session is None or future.done():
            return
        with contextlib.suppress(psycopg.Error):
            await asyncio.shield(self._connection.cancel_safe(timeout=5))
        done, _ = await asyncio.wait([future], timeout=5)
        if not done:
            with contextlib.suppress(psycopg.Error, OSError):
                self._session.abort()
            done, _ = await asyncio.wait([future], timeout=5)
        for ended in done:
            ended.exception()  # seen: it ended because it was told to


class _Journal:
    """The pipeline's journal, in the target's `walcast.journal`."""

    def __init__(self, sink: PostgresSink) -> None:
        self._sink = sink

    async def load(self) -> dict[str, Any]:
        return await self._sink.load_journal()

    async def save(self, key: str, value: Any) -> None:
        await self._sink.save_journal(key, value)
