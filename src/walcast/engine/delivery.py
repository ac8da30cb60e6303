"""What one opened sink is given: prepared, written, flushed; then durable, then saved. The ledger holds it to that order.

No flush, checkpoint or claim of durability falls between the parts of a split transaction. A table that cannot go on
is recorded in the journal, and its changes are dropped from then on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from walcast.engine import failpoints
from walcast.engine.aside import Aside, LostWithIt
from walcast.engine.history import CHECKPOINT, checkpoint_json
from walcast.engine.inbox import Inbox
from walcast.engine.journal import FileJournal
from walcast.engine.ledger import Ledger
from walcast.engine.metrics import Metrics
from walcast.engine.settings import PipelineSettings
from walcast.engine.tables import FROM_THE_BEGINNING, NEVER, TableBook
from walcast.engine.trail import Trail
from walcast.model import (
    AwaitsTables,
    Batch,
    Builds,
    Checkpoint,
    DeadLetter,
    Durability,
    FatalError,
    Journal,
    OperatorError,
    Relation,
    Sink,
    TableId,
    TableStopped,
    ValuesMissing,
)

log = logging.getLogger("walcast.engine")


class Again(Exception):
    """The sink is to be opened again and the batch sent again, without a table that has just stopped."""


class Delivery:
    """One session of one sink: from its opening to its closing. Calls to the sink are made under `calls`."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        journal: Journal,
        book: TableBook,
        inbox: Inbox,
        ledger: Ledger,
        metrics: Metrics,
        settings: PipelineSettings,
        changed: Callable[[], None],
        aside: Aside | None = None,
        trail: Trail | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.aside = aside
        """Where rows go that the sink refuses; None: it refuses none."""
        self.journal = journal
        self.calls = asyncio.Lock()
        self.unflushed = False
        self.in_parts = False
        self.resumed: Checkpoint | None = None
        """After a failure: what the target held. Batches that are sent again are cut there."""
        self.copied: dict[TableId, int] = {}
        self.save_error: Exception | None = None
        self._book = book
        self._inbox = inbox
        self._ledger = ledger
        self._metrics = metrics
        self._settings = settings
        self._changed = changed
        self._trail = trail
        if isinstance(sink, Builds):
            sink.building = book.building
            sink.may_build = book.may_build
        if isinstance(sink, AwaitsTables):
            sink.awaited = lambda: book.pending
        self._prepared: dict[int, Relation] = {}
        self._written: Checkpoint | None = None
        self._commits: list[float] = []
        self._unflushed_since = 0.0
        self._chunks_unflushed = False
        self._save = asyncio.Event()
        self._save.set()

    @property
    def may_flush(self) -> bool:
        return self.unflushed and not self.in_parts

    @property
    def flush_due(self) -> bool:
        """Though more is waiting."""
        if not self.may_flush:
            return False
        waited = time.monotonic() - self._unflushed_since
        return waited > self._settings.flush_interval or self._inbox.crowded() or self._inbox.splits

    async def put(self, batch: Batch) -> None:
        """Gives the sink a batch, or what it does not have of it. Raises Again, and whatever the sink raises."""
        snapshot = batch.kind == "snapshot"
        wanted = batch if snapshot else self._missing(batch)
        if wanted is not None:
            for relation in wanted.relations:
                if self._prepared.get(relation.oid) != relation and self._carries(wanted, relation):
                    await self._prepare(relation)
            wanted = self._without_stopped(wanted)
        if wanted is not None:
            await self._write(wanted)
        elif not self.unflushed and not self.in_parts:
            self._inbox.settled()
        self._inbox.written(batch)

    async def insert(self, batch: Batch) -> None:
        """Gives the sink a batch that is not the stream's; the position stays. Raises as `put`."""
        for relation in batch.relations:
            await self.prepare(relation)
        await self._write(batch)

    async def prepare(self, relation: Relation) -> None:
        """For a version that the sink was not prepared for in this session."""
        if self._prepared.get(relation.oid) != relation:
            await self._prepare(relation)

    @property
    def written(self) -> Checkpoint | None:
        """What the sink was given last; None: nothing since it was opened."""
        return self._written

    async def flush(self) -> None:
        """Makes all that was accepted durable."""
        if failpoints.active:
            await failpoints.passed("flush.before")
        await self.sink.flush()
        if failpoints.active:
            await failpoints.passed("flush.after")
        self.unflushed = self._chunks_unflushed = False
        self.durable(self._written)

    def durable(self, checkpoint: Checkpoint | None) -> None:
        """All that was written survives the target's crash; where the target keeps the checkpoint, that does, too."""
        self._inbox.settled()
        if checkpoint is None:
            return
        self._ledger.durable(self.name, checkpoint)
        latency = self._metrics.histogram("walcast_latency_seconds", self.name)
        now = time.time()
        for commit in self._commits:
            latency.observe(max(0.0, now - commit))
        self._commits.clear()
        if self._trail is not None:
            self._trail.durable()
        if self.sink.keeps_checkpoint:
            self._ledger.saved(self.name, checkpoint)
        else:
            self._save.set()

    async def keep_saving(self) -> None:
        """Saves the latest durable checkpoint beside the writes, no more often than `save_interval`."""
        try:
            while True:
                await self._save.wait()
                self._save.clear()
                if isinstance(self.journal, FileJournal):
                    await self.save()
                else:
                    async with self.calls:
                        await self.save()
                await asyncio.sleep(self._settings.save_interval)
        except Exception as error:
            self.save_error = error
            self._inbox.wake.set()

    async def save(self) -> None:
        """Saves the checkpoint of a sink that keeps none itself."""
        entry = self._ledger.entries[self.name]
        checkpoint = entry.durable
        if checkpoint is None or checkpoint == entry.saved:
            return
        if failpoints.active:
            await failpoints.passed("save.before")
        await self.journal.save(CHECKPOINT, checkpoint_json(checkpoint))
        self._ledger.saved(self.name, checkpoint)
        if failpoints.active:
            await failpoints.passed("save.after")

    async def try_again(self, number: int, batch: Batch) -> DeadLetter | None:
        """Writes a dead letter's change; see `Aside.again`. Call it under `calls`. Raises OperatorError amid a transaction that
        comes in parts."""
        assert self.aside is not None
        if self.in_parts:
            raise OperatorError(
                f"sink {self.name} is amid a transaction in parts", hint="try again in a moment"
            )
        if self.unflushed:
            await self.flush()
        for relation in batch.relations:
            if self._prepared.get(relation.oid) is None:
                await self._prepare(relation)
        return await self.aside.again(number, batch)

    async def stop_table(self, error: TableStopped) -> None:
        """Records durably that the table cannot go on. Raises FatalError when the sink says so a second time."""
        if error.table in self._book.stopped:
            raise FatalError(
                f"sink {self.name}: {error.table} was stopped, and still is in the way"
            ) from error
        await self._book.stop(error)
        self._metrics.set("walcast_tables_stopped", self.name, to=len(self._book.stopped))
        log.error(
            "table_stopped", extra={"sink": self.name, "table": str(error.table), "reason": error.message}
        )
        self._changed()

    async def _write(self, batch: Batch) -> None:
        snapshot = batch.kind == "snapshot"
        if snapshot and batch.part is not None and batch.part.number == 0:
            table = batch.relations[0].table
            self.copied[table] = 0
            await self._book.copying(table, self._book.copy_starts[table])
        if failpoints.active:
            await failpoints.passed("write.before")
        taken = time.time()
        try:
            durability = await (self.aside or self.sink).write(batch)
        except LostWithIt as lost:
            raise Again from lost
        except ValuesMissing as error:
            await self._come_again(error)
            raise Again from error
        except TableStopped as error:
            await self.stop_table(error)
            if snapshot:
                return
            raise Again from error
        if failpoints.active:
            await failpoints.passed("snapshot.part" if snapshot else "write.after")
        self._count(batch)
        if self._trail is not None:
            self._trail.written(batch, taken)
        if snapshot:
            await self._chunk_written(batch, durability)
        else:
            await self._changes_written(batch, durability)

    async def _changes_written(self, batch: Batch, durability: Durability) -> None:
        if batch.commit_time is not None:
            self._commits.append(batch.commit_time)
        self.in_parts = batch.part is not None and not batch.part.last
        if self.in_parts:
            if failpoints.active:
                await failpoints.passed("part.between")
            return
        self._written = batch.checkpoint or self._written
        if durability is Durability.DURABLE and not self.unflushed:
            self.durable(self._written)
        else:
            self._accepted()

    async def _chunk_written(self, batch: Batch, durability: Durability) -> None:
        """The table is done when its last chunk is durable, and says so then."""
        table = batch.relations[0].table
        self.copied[table] = self.copied.get(table, 0) + len(batch)
        self._metrics.set("walcast_snapshot_rows", self.name, str(table), to=self.copied[table])
        # Not flushed in between: nothing counts before the last chunk.
        self._chunks_unflushed |= durability is Durability.ACCEPTED
        if batch.part is None or not batch.part.last:
            return
        if self._chunks_unflushed or self.unflushed:
            await self.flush()
        self._inbox.settled()
        if failpoints.active:
            await failpoints.passed("table.done.before")
        await self._book.done(table, self._book.copy_starts[table])
        log.info("table_copied", extra={"sink": self.name, "table": str(table), "rows": self.copied[table]})
        if failpoints.active:
            await failpoints.passed("table.done.after")

    async def _prepare(self, relation: Relation) -> None:
        try:
            try:
                await self.sink.prepare(relation)
            except ValuesMissing as error:
                await self._come_again(error)
                await self.sink.prepare(relation)
        except TableStopped as error:
            await self.stop_table(error)
            return
        self._prepared[relation.oid] = relation
        if failpoints.active:
            await failpoints.passed("prepare.after")

    async def _come_again(self, error: ValuesMissing) -> None:
        """Notes, with the data, that all rows of the table are to come again beside the stream."""
        log.warning(
            "rows_come_again", extra={"sink": self.name, "table": str(error.table), "reason": error.message}
        )
        await self._book.build(error.table, {**FROM_THE_BEGINNING, "needed": True})

    def _carries(self, batch: Batch, relation: Relation) -> bool:
        """Whether the batch has anything of that version: what was dropped may be of a version long gone."""
        if relation.table in self._book.stopped:
            return False
        return batch.kind == "snapshot" or any(batch.counts(relation).values())

    def _missing(self, batch: Batch) -> Batch | None:
        if self.resumed is None or batch.checkpoint is None:
            return batch
        if batch.checkpoint.through <= self.resumed.through:
            return None
        resumed, self.resumed = self.resumed, None
        return batch if batch.kind == "idle" else batch.after(resumed, self._book.starts)

    def _without_stopped(self, batch: Batch) -> Batch | None:
        stopped = self._book.stopped
        gone = {relation.table: NEVER for relation in batch.relations if relation.table in stopped}
        if not gone:
            return batch
        return None if batch.kind == "snapshot" else batch.after(None, gone)

    def _accepted(self) -> None:
        if not self.unflushed:
            self.unflushed = True
            self._unflushed_since = time.monotonic()

    def _count(self, batch: Batch) -> None:
        metrics, name = self._metrics, self.name
        metrics.add("walcast_batches_total", name)
        metrics.add("walcast_transactions_total", name, by=batch.transactions)
        metrics.add("walcast_bytes_total", name, by=batch.nbytes)
        for relation in batch.relations:
            for op, count in batch.counts(relation).items():
                if count:
                    metrics.add("walcast_rows_total", name, str(relation.table), op, by=count)
