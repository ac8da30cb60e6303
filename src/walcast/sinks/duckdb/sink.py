"""The DuckDB sink: batches, and the checkpoint after them, in one DuckDB transaction.

A commit costs as much as a thousand rows, so a write only adds to the open transaction, and a flush commits it. The
pipeline flushes at once when nothing more comes, and every tenth of a second while it does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from walcast.model import (
    Batch,
    Checkpoint,
    Durability,
    Journal,
    Relation,
    RetryableError,
    SinkContext,
    TableId,
    TableStopped,
)
from walcast.sinks.duckdb.apply import Applier
from walcast.sinks.duckdb.columns import ColumnChoices, quoted
from walcast.sinks.duckdb.config import DuckDBSinkConfig
from walcast.sinks.duckdb.store import Store, configuration, translated
from walcast.sinks.duckdb.tables import RESYNC, Table, Tables

log = logging.getLogger("walcast.sinks.duckdb")

_TARGET = """select target_schema, target_table from _walcast.tables
    where pipeline = ? and sink = ? and source_schema = ? and source_table = ?"""


class DuckDBSink:
    """Keeps tables of a DuckDB file in step. Exactly once: data and checkpoint are one transaction.

    A transaction that comes in parts is never split: DuckDB keeps what does not fit `memory_limit` on disk, and readers
    see all of it or nothing. Columns dropped at the source keep their last values.
    """

    keeps_checkpoint = True

    def __init__(self, config: DuckDBSinkConfig, context: SinkContext) -> None:
        settings = configuration(config.memory_limit, config.threads)
        choices = ColumnChoices(config.numeric, config.json, config.arrays)
        self._store = Store(config.path, context.pipeline, context.sink, settings)
        self._tables = Tables(self._store, config.schema, choices)
        self._applier = Applier(self._store, choices)
        self._prepared: dict[TableId, Table] = {}
        self._reached: Checkpoint | None = None
        self._next_part = 0

    async def __aenter__(self) -> Self:
        try:
            await self._store.open()
        except BaseException:
            await self._store.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.close()

    async def checkpoint(self) -> Checkpoint | None:
        return self._store.checkpoint

    async def prepare(self, relation: Relation) -> None:
        await self._store.call(self._prepare, relation)

    async def write(self, batch: Batch) -> Durability:
        return await self._store.call(self._write, batch)

    async def flush(self) -> None:
        await self._store.call(self._flush)

    def journal(self) -> Journal:
        return self._store.journal()

    async def count(self, table: TableId) -> int:
        """Rows of the copy of a source table; 0 when there is no copy."""
        name = await self._store.call(self._target, table)
        if name is None:
            return 0
        _, rows = await self._store.read(f"select count(*) from {name}")
        return int(rows[0][0])

    async def query(self, statement: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Answers one SELECT from committed data, beside the writer: column names, and the first 10,000 rows as text."""
        return await self._store.read(statement)

    def _prepare(self, relation: Relation) -> None:
        stopped: TableStopped | None = None
        with self._whole_or_nothing():
            self._store.begin()
            try:
                self._prepared[relation.table] = self._tables.ready(relation)
            except TableStopped as error:
                stopped = error  # nothing was changed: what the open transaction holds stays
        if stopped is not None:
            raise stopped

    def _write(self, batch: Batch) -> Durability:
        with self._whole_or_nothing():
            if batch.kind == "changes":
                self._follow_parts(batch)
            self._store.begin()
            for relation in batch.relations:
                if batch.kind == "snapshot" or any(batch.counts(relation).values()):
                    self._apply(self._table(relation), batch)
        self._reached = batch.checkpoint or self._reached
        return Durability.ACCEPTED

    def _flush(self) -> None:
        if not self._next_part:
            with self._whole_or_nothing():
                self._store.commit(self._reached)

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """On an error the open transaction is rolled back, with all that it holds."""
        try:
            with translated(self._store.path):
                yield
        except BaseException:
            self._store.rollback()
            self._prepared.clear()
            self._reached, self._next_part = None, 0
            raise

    def _follow_parts(self, batch: Batch) -> None:
        number = batch.part.number if batch.part is not None else 0
        if number != self._next_part:
            raise RetryableError(
                "a transaction broke off between its parts; it has to come again from the first"
            )
        self._next_part = number + 1 if batch.part is not None and not batch.part.last else 0

    def _table(self, relation: Relation) -> Table:
        table = self._prepared.get(relation.table)
        if table is None or table.relation != relation:
            table = self._prepared[relation.table] = self._tables.ready(relation)
        return table

    def _apply(self, table: Table, batch: Batch) -> None:
        if batch.kind == "snapshot":
            if table.rebuild:
                table = self._prepared[table.relation.table] = self._tables.rebuilt(table)
            self._applier.snapshot(table, batch)
        elif table.rebuild:
            raise table.stopped("its copy no longer follows the source", RESYNC)
        else:
            self._applier.changes(table, batch)

    def _target(self, table: TableId) -> str | None:
        rows = self._store.execute(_TARGET, [*self._store.owner, *table])
        return f"{quoted(rows[0][0])}.{quoted(rows[0][1])}" if rows else None
