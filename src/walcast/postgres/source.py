"""PostgreSQL as a source: one logical replication slot, its snapshot and its stream.

control connection    asks, and is watched: when it ends, the stream hangs up at once
replication           COPY BOTH, read by a thread of its own            (link.py, stream.py)
snapshot workers      COPY OUT under the slot's exported snapshot       (snapshot.py, copyout.py)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final, LiteralString, Self

from walcast.decode import NATIVE, TWIN
from walcast.decode.letters import letter_batch
from walcast.model import (
    Batch,
    Checkpoint,
    DeadLetter,
    FatalError,
    Lsn,
    OperatorError,
    SlotState,
    SnapshotTable,
    SourceIdentity,
    SourceUnavailable,
    TableId,
    Visibility,
)
from walcast.model.secret import Secret
from walcast.postgres.catalog import describe_relations, identity, list_tables
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name
from walcast.postgres.control import Control
from walcast.postgres.cut import nudge, unsettled
from walcast.postgres.ddl import Shapes
from walcast.postgres.published import Published, lock_timeout, published_tables
from walcast.postgres.relations import Relations
from walcast.postgres.selection import BOOKKEEPING, Pattern
from walcast.postgres.slots import drop_slot, slot_state
from walcast.postgres.snapshot import Export, Progress, Snapshot, export
from walcast.postgres.standing import read_history
from walcast.postgres.stream import Mode, Stream

__all__ = ["PostgresSource", "SourceConfig"]

log = logging.getLogger("walcast.postgres")

_OLDEST: Final = 130_000
_OLDEST_STANDBY: Final = 160_000

_EXPORT_KEPT: Final = 60.0
"""Seconds for which a new slot's snapshot waits to be used; later ones are taken under a temporary slot."""

_POSITION: Final[LiteralString] = """
select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_insert_lsn() end::text
"""
_STANDING: Final[LiteralString] = "select current_setting('wal_level'), pg_catalog.pg_is_in_recovery()"


class PostgresSource:
    """Implements `walcast.model.Source`; an async context manager. `config` may be a DSN.

    `epoch` is stamped on every checkpoint; the pipeline sets it. `progress` is the running snapshot's.
    """

    def __init__(self, config: SourceConfig | str) -> None:
        self.config = SourceConfig(Secret(config)) if isinstance(config, str) else config
        self.epoch = 1
        self.progress = Progress()
        self._include = [Pattern.parse(text) for text in self.config.include]
        self._exclude = [Pattern.parse(text) for text in self.config.exclude]
        self._control = Control(
            self.config.dsn, application_name(self.config.name, "control"), self.config.receive_timeout
        )
        self._control.on_lost = self._control_lost
        self._identity: SourceIdentity | None = None
        self._starts: dict[TableId, Lsn] = {}
        self._export: Export | None = None
        self._closing: asyncio.Future[None] | None = None
        self._stream: Stream | None = None
        self._mode = Mode()

    async def __aenter__(self) -> Self:
        await self._control.open()
        try:
            self._identity = await self._control.ask(self._look)
        except BaseException:
            await self._control.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._drop_export()
        await self._control.close()

    @property
    def identity(self) -> SourceIdentity:
        if self._identity is None:
            raise FatalError("the source is not open", hint="use it as an async context manager")
        return self._identity

    @property
    def starts(self) -> Mapping[TableId, Lsn]:
        return self._starts

    async def slot(self) -> SlotState | None:
        return await self._control.ask(lambda connection: slot_state(connection, self.config.slot))

    async def create_slot(self) -> Lsn:
        """See `Source.create_slot`. Waits for every transaction that is open now; the log says whose.

        Raises OperatorError, with the remedy, when the role or the server does not allow it.
        """
        await self._drop_export()
        wanted = await self._control.ask(self._selected_tables)
        made = self._export = await export(self.config, list(wanted.values()), temporary=False)
        asyncio.get_running_loop().call_later(_EXPORT_KEPT, self._expire, made)
        return made.lsn

    async def drop_slot(self) -> bool:
        """See `DropsSlot`."""
        return await self._control.ask(lambda connection: drop_slot(connection, self.config.slot))

    async def tables(self) -> Sequence[SnapshotTable]:
        """The published tables that match the selection, with the server's estimates. Raises OperatorError when there is
        no such publication."""

        async def look(connection: Connection) -> list[SnapshotTable]:
            wanted = await self._selected_tables(connection)
            async with lock_timeout(connection, self.config.snapshot_lock_timeout):
                known = {table.oid: table for table in await list_tables(connection)}
            return [
                SnapshotTable(item.table, known[item.oid].rows, known[item.oid].bytes)
                for item in wanted.values()
                if item.oid in known
            ]

        return await self._control.ask(look)

    async def snapshot(self, tables: Sequence[TableId]) -> AsyncGenerator[Batch, None]:
        """See `Source.snapshot`. May run beside the stream. Raises OperatorError, SourceUnavailable."""
        taken, self._export = self._export, None
        if not tables:
            if taken is not None:
                await taken.close()
            return
        if taken is None:
            wanted = await self._control.ask(self._selected_tables)
            chosen = [wanted[table] for table in tables if table in wanted]
            taken = await export(self.config, chosen, temporary=True)
        self.progress = Progress()
        run = Snapshot(
            self.config,
            taken,
            Relations(self._control),
            starts=self._starts,
            progress=self.progress,
            epoch=self.epoch,
        )
        async with aclosing(run.chunks(tables)) as chunks:
            async for batch in chunks:
                yield batch

    async def stream(self, after: Checkpoint | None) -> AsyncGenerator[Batch, None]:
        """See `Source.stream`. One at a time.

        Raises SlotLost, SlotInUse, SourceUnavailable, SpoolFull, OperatorError, DecodeError.
        """
        if self._stream is not None:
            raise FatalError("the source is being streamed already", hint="close that stream first")
        await self._check_history()
        shapes = Shapes() if self.config.ddl_capture else None
        stream = self._stream = Stream(
            self.config,
            self._control,
            Relations(self._control, shapes),
            shapes,
            self._mode,
            database=self.identity.database,
            selected=self.selects,
            epoch=lambda: self.epoch,
        )
        try:
            async with aclosing(stream.batches(after)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._stream = None

    async def confirm(self, through: Lsn) -> None:
        """Lets the slot go up to here. Without a stream there is nobody to tell; the next one begins by telling."""
        if self._stream is not None:
            self._stream.confirm(through)

    async def position(self) -> Lsn:
        """Where WAL is inserted now; on a standby, what it has replayed."""
        row = await self._control.row(_POSITION)
        return Lsn.parse(row[0]) if row and row[0] else Lsn(0)

    async def visibility(self) -> Visibility:
        row = await self._control.row("select pg_catalog.pg_current_snapshot()::text")
        return Visibility.parse(row[0] if row else "1:1:")

    async def unsettled(self) -> Sequence[int]:
        return await self._control.ask(unsettled)

    async def nudge(self) -> None:
        await self._control.ask(nudge)

    async def timeline_end(self, timeline: int) -> Lsn | None:
        """Where the source's history left a timeline: where a standby was promoted. None when it never was on it."""
        if timeline >= self.identity.timeline:
            return None
        name = application_name(self.config.name, "control")
        return (await read_history(self.config.dsn, name, self.identity.timeline)).end_of(timeline)

    def reselect(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        """Other tables are wanted from now on. Raises ConfigError for a pattern that is none; then nothing changes."""
        wanted = [Pattern.parse(text) for text in include], [Pattern.parse(text) for text in exclude]
        self._include, self._exclude = wanted
        self.config = replace(self.config, include=tuple(include), exclude=tuple(exclude))

    async def revive(self, letter: DeadLetter) -> Batch:
        """See `walcast.model.Revives`. Raises OperatorError when the table has other columns by now."""
        kept = letter.relation
        known = await self._control.ask(lambda connection: describe_relations(connection, {kept.oid}))
        now = next((found for found in known.values() if found.oid == kept.oid), None)
        types = (
            {} if now is None else {column.name: (column.type.oid, column.typmod) for column in now.columns}
        )
        if now is None or any(types.get(c.name) != (c.type.oid, c.typmod) for c in kept.columns):
            raise OperatorError(
                f"{kept} has been altered since dead letter {letter.number} was set aside",
                hint=f"take the row from the source as it is now: walcast resync {kept}",
            )
        return letter_batch(letter, replace(kept, table=now.table), NATIVE or TWIN)

    def poke(self) -> None:
        if self._stream is not None and self._stream.link is not None:
            self._stream.link.poke()

    def stats(self) -> dict[str, int]:
        """The reader's counters; empty while there is no stream."""
        link = self._stream.link if self._stream is not None else None
        return link.stats() if link is not None else {}

    async def _look(self, connection: Connection) -> SourceIdentity:
        version = connection.info.server_version
        if version < _OLDEST:
            raise OperatorError(
                f"PostgreSQL {version // 10_000} is too old: Walcast reads 13 and later",
                hint="upgrade the source",
            )
        row = await (await connection.execute(_STANDING)).fetchone()
        level, standby = row if row is not None else ("", False)
        if level != "logical":
            raise OperatorError(
                f"wal_level is {level}, not logical",
                hint="alter system set wal_level = 'logical', then restart the server (a standby: its primary, too)",
            )
        if standby and version < _OLDEST_STANDBY:
            raise OperatorError(
                "before PostgreSQL 16 a standby has no logical slots", hint="connect to the primary"
            )
        return await identity(connection)

    async def _check_history(self) -> None:
        """The pipeline has decided for one history; the server may have been replaced meanwhile."""
        now = await self._control.ask(identity)
        then = self.identity
        if (now.system_id, now.timeline) != (then.system_id, then.timeline):
            self._identity = now
            raise SourceUnavailable(
                f"the source is on another history: system {now.system_id}, timeline {now.timeline}",
                hint="the pipeline decides anew where to go on",
            )

    def selects(self, table: TableId) -> bool:
        """Whether a table is among those that the settings include."""
        if table.schema == BOOKKEEPING:  # `for all tables` sends it, too
            return False
        included = not self._include or any(pattern.matches(table) for pattern in self._include)
        return included and not any(pattern.matches(table) for pattern in self._exclude)

    async def _selected_tables(self, connection: Connection) -> dict[TableId, Published]:
        published = await published_tables(
            connection, self.config.publication, self.config.snapshot_lock_timeout
        )
        return {table: item for table, item in published.items() if self.selects(table)}

    def _expire(self, made: Export) -> None:
        """Nobody came for the new slot's snapshot: its locks would stand in somebody's way."""
        if self._export is made:
            self._export = None
            self._closing = asyncio.ensure_future(made.close())

    async def _drop_export(self) -> None:
        taken, self._export = self._export, None
        if taken is not None:
            await taken.close()

    def _control_lost(self) -> None:
        if self._stream is not None and self._stream.link is not None:
            self._stream.link.hang_up(
                SourceUnavailable(
                    "the server ended the control connection: it stops, restarts or was cut off",
                    hint="it is tried again",
                )
            )
