"""The DuckDB sink: batches, and the checkpoint after them, in one DuckDB transaction.

A commit costs as much as a thousand rows, so a write only adds to the open transaction, and a flush commits it. The
pipeline flushes at once when nothing more comes, and every tenth of a second while it does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from walcast.model import (
    Batch,
    Checkpoint,
    DeadLetter,
    DeadLetterStore,
    Durability,
    Finding,
    Journal,
    Refusal,
    Relation,
    RetryableError,
    RowPolicies,
    RowsRefused,
    SinkContext,
    TableId,
    TableStopped,
)
from walcast.sinks.duckdb.apply import Applier
from walcast.sinks.duckdb.columns import ColumnChoices, quoted
from walcast.sinks.duckdb.config import DuckDBSinkConfig
from walcast.sinks.duckdb.faults import ConstraintBroken, translated
from walcast.sinks.duckdb.loading import ValueRefused
from walcast.sinks.duckdb.records import DuckDBDeadLetters, DuckDBJournal
from walcast.sinks.duckdb.refusals import in_the_way, unfit
from walcast.sinks.duckdb.seal import Seal
from walcast.sinks.duckdb.store import Store, configuration
from walcast.sinks.duckdb.tables import RESYNC, Table, Tables
from walcast.sinks.duckdb.view import DuckDBView

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
        self._seal = Seal(config.path, context.sink)
        self._tables = Tables(self._store, config.schema, choices, self)
        self._applier = Applier(self._store, choices)
        self.building: Collection[TableId] = ()
        self.may_build: Callable[[Relation], bool] = lambda relation: False
        """See `walcast.model.Builds`."""
        self._prepared: dict[TableId, Table] = {}
        self._policies = config.policies
        self._accepted = False
        """The open transaction holds batches that were accepted."""
        self._reached: Checkpoint | None = None
        self._next_part = 0

    async def __aenter__(self) -> Self:
        try:
            await self._store.open(self._seal)
        except BaseException:
            await self._store.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.close()

    async def examine(self) -> Sequence[Finding]:
        """See `walcast.model.Examinable`."""
        return self._seal.examine()

    async def checkpoint(self) -> Checkpoint | None:
        return self._store.checkpoint

    async def prepare(self, relation: Relation) -> None:
        await self._store.call(self._prepare, relation)

    async def write(self, batch: Batch) -> Durability:
        """Raises TableStopped, RowsRefused (then the rest is as it was before, or lost), and what `translated` does."""
        return await self._store.call(self._write, batch, (), ())

    @property
    def policies(self) -> RowPolicies:
        return self._policies

    def dead_letters(self) -> DeadLetterStore:
        return DuckDBDeadLetters(self._store)

    async def write_aside(
        self, batch: Batch, letters: Sequence[DeadLetter], gone: Sequence[int]
    ) -> Durability:
        """`write`, and in the same transaction letters into `_walcast.dead_letters` and out of it."""
        return await self._store.call(self._write, batch, letters, gone)

    async def flush(self) -> None:
        await self._store.call(self._flush)

    def journal(self) -> Journal:
        return DuckDBJournal(self._store)

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

    async def view(self, relations: Sequence[Relation]) -> DuckDBView:
        """See `walcast.model.comparing.Comparable`: a read transaction beside the writer."""
        view = DuckDBView(self._store)
        await view.open(relations)
        return view

    async def moved(self) -> list[TableId]:
        return await self._store.call(self._moved)

    def _moved(self) -> list[TableId]:
        with self._whole_or_nothing():
            self._store.begin()
            rebuilt = self._tables.moved()
            self._store.commit(None)
        return rebuilt

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

    def _write(self, batch: Batch, letters: Sequence[DeadLetter], gone: Sequence[int]) -> Durability:
        alone = not self._accepted
        try:
            with self._whole_or_nothing():
                if batch.kind == "changes":
                    self._follow_parts(batch)
                self._apply_all(batch)
                if letters or gone:
                    self._store.set_aside(letters, gone)
        except ValueRefused as refused:
            if self._policies.data != "stop":
                self._refuse_values(batch, refused, alone)
            raise
        except ConstraintBroken as broken:
            if self._policies.integrity != "stop":
                self._refuse_rows(batch, broken, alone)
            raise
        self._reached = batch.checkpoint or self._reached
        self._accepted = True
        if self._policies.integrity != "stop" or (batch.kind == "snapshot" and self._policies.data != "stop"):
            self._flush()  # a row that is refused later must not cost what was written before it
        return Durability.ACCEPTED

    def _apply_all(self, batch: Batch) -> None:
        self._store.begin()
        for relation in batch.relations:
            if batch.kind == "snapshot" or any(batch.counts(relation).values()):
                self._apply(self._table(relation), batch)

    def _refuse_values(self, batch: Batch, refused: ValueRefused, alone: bool) -> None:
        """Raises RowsRefused for all rows of the table that do not fit; the transaction was rolled back."""
        with translated(self._store.path):
            table = next(r for r in batch.relations if r.table == refused.table)
            ready, number = self._tables.ready(table), list(batch.relations).index(table)
            places = [
                place for place, raw in enumerate(batch.raw()) if raw.op != b"M" and raw.relation == number
            ]
            most = self._policies.limit + 1
            found = unfit(batch, places, lambda some: self._applier.fits(ready, some), most)
        if found:
            refusals = [Refusal(place, "data", "ValueRange", refused.message) for place in sorted(found)]
            raise RowsRefused(batch, refusals, "undone" if alone else "lost")

    def _refuse_rows(self, batch: Batch, broken: ConstraintBroken, alone: bool) -> None:
        """The same for rows that break a constraint. They can be found only after what the copy holds, so not in a later part
        of a transaction: those before it were rolled back, too."""
        if not alone:
            return
        with translated(self._store.path):
            places = [place for place, raw in enumerate(batch.raw()) if raw.op != b"M"]
            found = in_the_way(batch, places, self._would_apply, self._policies.limit + 1)
        if found:
            refusals = [Refusal(place, "integrity", "Constraint", broken.message) for place in found]
            raise RowsRefused(batch, refusals)

    def _would_apply(self, batch: Batch) -> bool:
        try:
            with translated(self._store.path):
                self._apply_all(batch)
        except ConstraintBroken:
            return False
        finally:
            self._store.rollback()
            self._prepared.clear()
        return True

    def _flush(self) -> None:
        if not self._next_part:
            with self._whole_or_nothing():
                self._store.commit(self._reached)
            self._accepted = False

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
            self._accepted = False
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
            self._applier.changes(table, batch, building=table.relation.table in self.building)

    def _target(self, table: TableId) -> str | None:
        rows = self._store.execute(_TARGET, [*self._store.owner, *table])
        return f"{quoted(rows[0][0])}.{quoted(rows[0][1])}" if rows else None
