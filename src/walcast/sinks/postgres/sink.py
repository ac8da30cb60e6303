"""The PostgreSQL sink: a copy in another PostgreSQL, exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Self

from psycopg import sql

from walcast.model import (
    Batch,
    Checkpoint,
    DeadLetter,
    DeadLetterStore,
    Durability,
    Finding,
    Journal,
    OperatorError,
    Relation,
    RowPolicies,
    SinkContext,
    SinkUnavailable,
    TableId,
    WalcastError,
)
from walcast.postgres.connect import application_name, connect
from walcast.sinks.postgres import examination, guard
from walcast.sinks.postgres.config import PostgresSinkConfig
from walcast.sinks.postgres.crew import Crew
from walcast.sinks.postgres.failures import StatementFailed
from walcast.sinks.postgres.line import Line
from walcast.sinks.postgres.origin import Origin
from walcast.sinks.postgres.session import Session
from walcast.sinks.postgres.store import Store
from walcast.sinks.postgres.view import PostgresView
from walcast.sinks.postgres.writer import Writer

log = logging.getLogger("walcast.sinks")

_OLDEST = 130_000
# A plan must not keep the sequential scan of a table that was small when it was made. A backend whose client is gone
# must not hold the checkpoint's row for hours.
_TUNING = b"""
set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;
set default_transaction_read_only = off; set temp_buffers = '32MB'; set check_function_bodies = off;
set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3;
"""
_STATE = sql.SQL(
    "select json_build_array(pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, oid::bigint,"
    " (select system_identifier::text from pg_catalog.pg_control_system()),"
    " (select timeline_id from pg_catalog.pg_control_checkpoint()), datname)"
    " from pg_catalog.pg_database where datname = current_database()"
)
_COUNT = sql.SQL("select count(*) from {}")


class PostgresSink:
    """Implements `walcast.model.Sink`, `KeepsJournal`, `Countable` and `Examinable`.

    Each batch is one transaction of the target with its checkpoint, so that it is there once. A snapshot's chunks go
    over several connections. An error ends the object's use: it is opened again, and reads where the target stands.
    """

    keeps_checkpoint = True

    def __init__(self, config: PostgresSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._context = context
        self._store = Store(context.pipeline, context.sink)
        self._line: Line | None = None
        self._crew: Crew | None = None
        self._alone = config.snapshot_connections == 0
        self.building: Collection[TableId] = ()
        self.may_build: Callable[[Relation], bool] = lambda relation: False
        """See `walcast.model.Builds`."""

    async def __aenter__(self) -> Self:
        self._line = await self._connect()
        try:
            await self._line.open(self._open)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._dismiss()
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def checkpoint(self) -> Checkpoint | None:
        """What the target holds now."""
        line = self._opened()
        found = await line.call(lambda: self._store.checkpoint(line.session))
        line.writer.held = found
        return found

    async def prepare(self, relation: Relation) -> None:
        """Makes or alters the copy's table. Raises TableStopped when it cannot hold this version."""
        line = self._opened()
        await line.call(lambda: line.writer.prepare(relation))

    async def write(self, batch: Batch) -> Durability:
        """One transaction; a source transaction in parts is one, too. Raises TableStopped, Fenced, SinkUnavailable,
        RetryableError, OperatorError; then nothing of the batch is there, or (the connection was lost while it was
        committed) all of it, and the checkpoint says which."""
        return await self.write_aside(batch, (), ())

    async def write_aside(
        self, batch: Batch, letters: Sequence[DeadLetter], gone: Sequence[int]
    ) -> Durability:
        """`write`, and in the same transaction letters into `walcast.dead_letter` and out of it. Raises RowsRefused, for an
        earlier chunk of a snapshot's table, too: then nothing of that batch is there."""
        line = self._opened()
        part = batch.part
        alone = bool(letters or gone)
        if batch.kind == "snapshot" and part is not None and part.number and not part.last and not alone:
            crew = await self._gather()
            if crew is not None:
                await crew.write(batch, line.writer.held)
                line.writer.unflushed = True
                return Durability.ACCEPTED
        if self._crew is not None:
            await self._crew.settle(batch.relations[0].table if batch.kind == "snapshot" else None)
            if batch.kind != "snapshot":
                await self._dismiss()
        return await line.call(lambda: line.writer.write(batch, letters, gone))

    async def flush(self) -> None:
        """Returns once the target's WAL is on disk up to the last commit."""
        line = self._opened()
        if self._crew is not None:
            await self._crew.settle()
        if line.writer.unflushed:
            await line.call(line.writer.flush)

    def journal(self) -> Journal:
        return _Journal(self)

    @property
    def policies(self) -> RowPolicies:
        return self._config.policies

    def dead_letters(self) -> DeadLetterStore:
        return _DeadLetters(self)

    async def load_letters(self) -> list[DeadLetter]:
        line = self._opened()
        return await line.call(lambda: self._store.dead_letters(line.session))

    async def save_letters(self, letters: Sequence[DeadLetter], gone: Sequence[int]) -> None:
        line = self._opened()
        await line.call(lambda: line.writer.set_aside(letters, gone))

    async def count(self, table: TableId) -> int:
        """The rows of the copy's table."""
        line = self._opened()
        schema = self._config.schemas.get(table.schema, table.schema)
        statement = _COUNT.format(sql.Identifier(schema, table.name))
        rows = await line.call(lambda: line.session.query(statement))
        return int(rows[0][0] or 0)

    async def moved(self) -> list[TableId]:
        """See `Movable`."""
        line = self._opened()
        back = {target: source for source, target in self._config.schemas.items()}
        found = await line.call(lambda: self._store.moved(line.session))
        return [TableId(back.get(schema, schema), name) for schema, name in found]

    async def examine(self) -> list[Finding]:
        return await examination.examine(self._config, self._context)

    async def view(self, relations: Sequence[Relation]) -> PostgresView:
        """See `walcast.model.comparing.Comparable`: a snapshot over a connection of its own."""
        name = application_name(self._context.pipeline, f"{self._context.sink}:view")
        connection = await connect(self._config.dsn, application=name, unavailable=SinkUnavailable)
        return await PostgresView.open(connection, self._config.schemas, relations)

    async def load_journal(self) -> dict[str, Any]:
        line = self._opened()
        return await line.call(lambda: self._store.load_journal(line.session))

    async def save_journal(self, key: str, value: Any) -> None:
        """In a transaction of its own; over another connection while one is open for a source transaction in parts."""
        line = self._opened()
        if not line.writer.in_parts:
            await line.call(lambda: self._store.save_journal(line.session, key, value))
            return
        other = await self._connect()
        try:
            await other.call(lambda: self._store.save_journal(other.session, key, value))
        finally:
            await other.close()

    async def _gather(self) -> Crew | None:
        """The crew; None when there is none, or when its connections cannot be had just as the sink's own was."""
        if self._crew is not None or self._alone:
            return self._crew
        crew = Crew()
        try:
            for number in range(self._config.snapshot_connections):
                line = await self._connect()
                crew.join(line)
                await line.open(partial(self._open, origin_suffix=f":copy{number}"))
                if await line.call(line.writer.mark) != self._opened().writer.mark():
                    raise OperatorError("there is no replication origin for them")
        except WalcastError as error:
            log.warning("snapshot_connections_unavailable", extra={"reason": error.message})
            self._alone = True
            await crew.close()
            return None
        except BaseException:
            await crew.close()
            raise
        self._crew = crew
        return crew

    async def _dismiss(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            await crew.close()

    def _open(self, session: Session, origin_suffix: str = "") -> Writer:
        if session.version < _OLDEST:
            raise OperatorError(
                f"the target is PostgreSQL {session.version // 10000}; the copy needs 13 or later",
                hint="upgrade the target",
            )
        session.query(_TUNING, guard.IDENTIFY)
        recovering, read_only, database, system, timeline, name = session.json(_STATE)
        if recovering or read_only:
            raise OperatorError(
                "the target is a standby" if recovering else "the target's database is read-only",
                hint="give the DSN of the primary (target_session_attrs=read-write finds it among several hosts)",
            )
        session.query(b"set synchronous_commit = " + self._config.synchronous_commit.encode())
        role = self._take_role(session)
        origin = Origin(
            f"walcast:{database}:{self._context.pipeline}:{self._context.sink}{origin_suffix}",
            self._config.origin,
        )
        writer = Writer(session, self._store, self._config, role, origin, self)
        source = self._context.source
        # A copy of the source's disk that was promoted has its identifier, and a timeline of its own.
        here, there = (int(system), timeline, name), (source.system_id, source.timeline, source.database)
        writer.onto_source = here == there
        writer.open()
        if not origin_suffix:
            guard.report(session, self._context.pipeline, self._context.sink)
        return writer

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

    async def _connect(self) -> Line:
        name = application_name(self._context.pipeline, self._context.sink)
        connection = await connect(self._config.dsn, application=name, unavailable=SinkUnavailable)
        return Line(connection, f"walcast-{self._context.sink}")

    def _opened(self) -> Line:
        if self._line is None:
            raise RuntimeError("the sink is not open")
        return self._line


class _DeadLetters:
    """The dead letters, in the target's `walcast.dead_letter`."""

    def __init__(self, sink: PostgresSink) -> None:
        self._sink = sink

    async def load(self) -> list[DeadLetter]:
        return await self._sink.load_letters()

    async def save(self, letters: Sequence[DeadLetter], gone: Sequence[int] = ()) -> None:
        await self._sink.save_letters(letters, gone)


class _Journal:
    """The pipeline's journal, in the target's `walcast.journal`."""

    def __init__(self, sink: PostgresSink) -> None:
        self._sink = sink

    async def load(self) -> dict[str, Any]:
        return await self._sink.load_journal()

    async def save(self, key: str, value: Any) -> None:
        await self._sink.save_journal(key, value)
