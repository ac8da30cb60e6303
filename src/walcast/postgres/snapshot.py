"""The first copy: tables read by parallel workers that all see the moment at which a slot begins.

    leader: lock tables (nobody may rewrite them before they are read)
    slot created -> consistent point + exported snapshot -> workers import it -> the exporter may go
    pieces (tables, page ranges) -> CopyWorkers -> chunks: part 0 first, last part last, by table

Locks come before the slot: a table rewritten between the two would look empty under the snapshot, and the stream does
not repeat its rows.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Literal

import psycopg
from psycopg import sql

from walcast.decode import StreamBatch, snapshot_frames
from walcast.decode.frames import Frames
from walcast.model import Lsn, OperatorError, Part, Relation, SourceUnavailable, TableId
from walcast.postgres.catalog import describe_relations
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.copyout import Chunk, CopyWorkers, Piece
from walcast.postgres.faults import explain
from walcast.postgres.pieces import Leaf, read_leaves, statements
from walcast.postgres.published import Published, lock_timeout, published_tables
from walcast.postgres.relations import Relations, announcement
from walcast.postgres.slots import OpenTransaction, create_slot
from walcast.postgres.typeinfo import load_types

log = logging.getLogger("walcast.postgres")
_GIVING_WAY = 0.1
"""Seconds."""


@dataclass(slots=True)
class Progress:
    """How far a snapshot is. Expected figures are the server's estimates."""

    tables: int = 0
    tables_done: int = 0
    rows: int = 0
    rows_expected: int = 0
    bytes: int = 0
    """Bytes received; the rows' size on the wire, not on the server's disk."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def eta(self) -> float | None:
        """Seconds to go; None when it cannot be told yet."""
        if not self.rows or not self.rows_expected:
            return None
        return max(0.0, self.seconds * (self.rows_expected / self.rows - 1))


_BEGIN: Final = "begin transaction isolation level repeatable read, read only"


class _InTheWay(Exception):
    """A transaction that the slot waits for waits for our lock."""


@dataclass(frozen=True, slots=True)
class Export:
    """A slot's snapshot, kept by `exporter` until its next command. `leader` holds the locks of `tables`."""

    lsn: Lsn
    snapshot: str
    exporter: Connection
    leader: Connection
    tables: Sequence[Published]

    async def close(self) -> None:
        await self.exporter.close()
        await self.leader.close()


async def export(config: SourceConfig, tables: Sequence[Published], *, temporary: bool) -> Export:
    """Locks the tables, creates the slot (the configured one, or a temporary one) and exports its snapshot.

    Somebody may want a table for himself (TRUNCATE, most of ALTER TABLE) after it was locked: his transaction waits for our
    lock, the slot for his transaction, and the server cannot see that they wait for each other. Then the locks are given
    up, so that he goes first. Raises OperatorError (a right is missing, no slot is free, ...), SourceUnavailable.
    """
    while True:
        try:
            return await _export(config, tables, temporary=temporary)
        except _InTheWay as other:
            log.warning("snapshot_gives_way", extra={"to": str(other)})
        await asyncio.sleep(_GIVING_WAY)


async def _export(config: SourceConfig, tables: Sequence[Published], *, temporary: bool) -> Export:
    slot = f"walcast_snapshot_{secrets.token_hex(6)}" if temporary else config.slot
    leader = await connect(config.dsn, application=application_name(config.name, "snapshot"))
    exporter: Connection | None = None
    try:
        await _lock(leader, tables, config.snapshot_lock_timeout)
        exporter = await connect(
            config.dsn, application=application_name(config.name, "slot"), replication=True
        )
        control = await connect(config.dsn, application=application_name(config.name, "control"))
        async with control:
            created = await create_slot(
                exporter,
                slot,
                temporary=temporary,
                failover=config.failover and not temporary,
                export=True,
                control=control,
                waiting=lambda found: _say_waiting(slot, leader.info.backend_pid, found),
            )
    except BaseException:
        await leader.close()
        if exporter is not None:
            await exporter.close()
        raise
    if created.snapshot is None:
        raise SourceUnavailable(f"slot {slot} exported no snapshot", hint="try again")
    return Export(created.consistent_point, created.snapshot, exporter, leader, tables)


class Snapshot:
    """One run over some tables under one exported snapshot, which it closes."""

    def __init__(
        self,
        config: SourceConfig,
        export: Export,
        relations: Relations,
        *,
        starts: dict[TableId, Lsn],
        progress: Progress,
        epoch: int,
    ) -> None:
        self._config = config
        self._export = export
        self._relations = relations
        self._starts = starts
        self._progress = progress
        self._epoch = epoch
        self._workers: list[Connection] = []

    async def chunks(self, tables: Sequence[TableId]) -> AsyncGenerator[StreamBatch, None]:
        """Their rows. Raises SourceUnavailable when a connection is lost; finished tables stay finished."""
        copying: CopyWorkers | None = None
        try:
            await self._import()
            described, pieces = await self._plan(tables)
            chunk_memory = 3 * self._config.snapshot_chunk_bytes  # with its index, when rows are narrow
            copying = CopyWorkers(
                self._workers,
                pieces,
                lsn=self._export.lsn,
                chunk_bytes=self._config.snapshot_chunk_bytes,
                chunk_rows=self._config.snapshot_chunk_rows,
                limit=max(len(self._workers), self._config.budget_bytes // chunk_memory),
            )
            async with (
                aclosing(copying.chunks()) as chunks,
                aclosing(self._ordered(chunks, described, pieces)) as batches,
            ):
                async for batch in batches:
                    yield batch
        except psycopg.Error as error:
            raise explain_copy(error) from None
        finally:
            if copying is not None:
                await copying.stop()
            await self.close()

    async def close(self) -> None:
        await asyncio.gather(*(c.close() for c in self._workers), self._export.close())

    async def _import(self) -> None:
        """Opens the workers and lets the slot's connection go: from here on they hold the snapshot themselves."""
        for _ in range(self._config.snapshot_workers - 1):
            worker = await connect(
                self._config.dsn, application=application_name(self._config.name, "snapshot")
            )
            self._workers.append(worker)
            if not await _lock_too(worker, self._export.tables):
                self._workers.remove(worker)
                await worker.close()
                break
        self._workers.append(self._export.leader)
        name = sql.Literal(self._export.snapshot)
        for worker in self._workers:
            await worker.execute(sql.SQL("set transaction snapshot {}").format(name))
        await self._export.exporter.close()

    async def _plan(self, tables: Sequence[TableId]) -> tuple[list[Relation], list[Piece]]:
        leader = self._export.leader
        published = await published_tables(
            leader, self._config.publication, self._config.snapshot_lock_timeout
        )
        missing = [table for table in tables if table not in published]
        if missing:
            raise OperatorError(
                f"publication {self._config.publication!r} does not have {', '.join(map(str, missing[:5]))}",
                hint="add the table to the publication, or leave it out of the selection",
            )
        wanted = [published[table] for table in tables]
        found = await describe_relations(leader, [p.oid for p in wanted])
        described = [_published_shape(found.get(p.table) or Relation(p.oid, p.table, ()), p) for p in wanted]
        types = await load_types(leader, {c.type.oid for r in described for c in r.columns})
        self._relations.add_types(types)
        leaves = await read_leaves(leader, wanted)
        pieces = [
            piece
            for number, (relation, item) in enumerate(zip(described, wanted, strict=True))
            for piece in self._pieces(number, relation, item, leaves[item.oid], leader.info.server_version)
        ]
        self._progress.tables += len(tables)
        self._progress.rows_expected += sum(leaf.rows for p in wanted for leaf in leaves[p.oid])
        return described, pieces

    def _pieces(
        self, number: int, relation: Relation, item: Published, leaves: Sequence[Leaf], version: int
    ) -> list[Piece]:
        binary = self._config.binary != "off" and self._relations.readable_in_binary(relation)
        if self._config.binary == "on" and not binary:
            raise OperatorError(
                f"{relation.table} has a column whose type has no binary form", hint="set binary = auto"
            )
        form: Literal["binary", "text"] = "binary" if binary else "text"
        split = self._config.snapshot_split_bytes if version >= 140_000 else None
        return [
            Piece(number, announcement(relation), statement.as_bytes(), form)
            for statement in statements(relation, item, leaves, form, split)
        ]

    async def _ordered(
        self, chunks: AsyncGenerator[Chunk, None], described: Sequence[Relation], pieces: Sequence[Piece]
    ) -> AsyncGenerator[StreamBatch, None]:
        """Numbers the parts. One chunk of each table is held back, so that the last one can be marked."""
        left = [sum(piece.table == number for piece in pieces) for number in range(len(described))]
        sent = [0] * len(described)
        held: dict[int, Frames] = {}
        async for piece, frames, nbytes in chunks:
            number = piece.table
            if frames is None:
                left[number] -= 1
                if left[number] == 0:
                    last = held.pop(number, None) or self._empty(piece)
                    yield self._batch(described[number], last, Part(sent[number], True))
                    self._progress.tables_done += 1
                continue
            self._progress.rows += len(frames)
            self._progress.bytes += nbytes
            before = held.get(number)
            held[number] = frames
            if before is not None:
                sent[number] += 1
                yield self._batch(described[number], before, Part(sent[number] - 1, False))

    def _batch(self, relation: Relation, frames: Frames, part: Part) -> StreamBatch:
        if part.number == 0:
            self._starts[relation.table] = self._export.lsn
            log.info("table_snapshot_started", extra={"table": str(relation.table), "lsn": self._export.lsn})
        return StreamBatch(frames, [relation], self._relations.catalog, epoch=self._epoch, part=part)

    def _empty(self, piece: Piece) -> Frames:
        frames: Frames = snapshot_frames(piece.relation, [], piece.format, self._export.lsn)
        return frames


def explain_copy(error: psycopg.Error) -> Exception:
    """A failed COPY in our tree."""
    found = explain(error, "reading tables for the snapshot")
    if error.sqlstate == "42501":
        hint = "grant select on the table (and usage on its schema) to the role; with row security also bypassrls"
        return OperatorError(found.message, hint=hint)
    return found


def _published_shape(relation: Relation, published: Published) -> Relation:
    columns = tuple(c for c in relation.columns if c.name in published.columns)
    return Relation(relation.oid, relation.table, columns, relation.identity)


async def _lock(leader: Connection, tables: Sequence[Published], timeout: float) -> None:
    try:
        await leader.execute(_BEGIN)
        if tables:
            async with lock_timeout(leader, timeout):
                await leader.execute(sql.SQL("lock table {} in access share mode").format(_names(tables)))
    except psycopg.Error as error:
        raise explain_copy(error) from None


async def _lock_too(worker: Connection, tables: Sequence[Published]) -> bool:
    """Locks what the leader has locked, if nobody else waits for a table. A worker that waited behind him would wait for the
    leader, who waits for his workers, and the server cannot see that: then the leader, who has his locks, goes without."""
    await worker.execute(_BEGIN)
    if not tables:
        return True
    try:
        await worker.execute(sql.SQL("lock table {} in access share mode nowait").format(_names(tables)))
    except psycopg.errors.LockNotAvailable:
        log.warning("snapshot_with_fewer_workers", extra={"reason": "somebody waits for a table's lock"})
        return False
    return True


def _names(tables: Sequence[Published]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{}{}").format(sql.SQL("" if t.partitioned else "only "), sql.Identifier(*t.table))
        for t in tables
    )


def _say_waiting(slot: str, leader: int, found: Sequence[OpenTransaction]) -> None:
    for transaction in found:
        if leader in transaction.waits_for:
            raise _InTheWay(str(transaction))
    log.warning("slot_waits_for_transactions", extra={"slot": slot, "open": "; ".join(map(str, found[:5]))})
