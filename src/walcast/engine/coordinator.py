"""Who reads what from where: lets sinks in, copies their tables, streams to them, and opens the source again.

    opened --admitted--> tables missing --copied--> streaming --stalled or failed--> opened again
                              beside the stream      one stream, from the slowest checkpoint

Attaching a sink means opening the stream again, and happens between transactions only: the parts of one that was cut
off would have to come again from the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing

from walcast.engine import failpoints
from walcast.engine.admission import Admissions
from walcast.engine.backoff import Backoff
from walcast.engine.delivery import Delivery
from walcast.engine.ledger import Ledger
from walcast.engine.metrics import Metrics
from walcast.engine.policy import Action, Verdict, classify
from walcast.engine.recent import Recent
from walcast.engine.settings import PipelineSettings
from walcast.engine.statefile import StateFile
from walcast.engine.status import SinkState
from walcast.engine.tasks import end
from walcast.engine.trail import Arrivals
from walcast.engine.worker import SinkWorker
from walcast.model import (
    Batch,
    Checkpoint,
    DropsSlot,
    FatalError,
    KnowsVisibility,
    Lsn,
    SlotInUse,
    SnapshotTable,
    Source,
    SourceUnavailable,
    TableId,
    TableStopped,
)

log = logging.getLogger("walcast.engine")


class _AllStopped(Exception):
    """No sink is left."""


class Coordinator:
    """Decides, and holds the tasks that read the source. `look` makes it look again."""

    def __init__(
        self, source: Source, ledger: Ledger, state: StateFile, settings: PipelineSettings, metrics: Metrics
    ) -> None:
        self.workers: list[SinkWorker] = []
        self.admissions = Admissions(source, ledger, state, settings)
        self.stopping = False
        self.relist = True
        """The list of tables is to be read again."""
        self.problem: Verdict | None = None
        """What is wrong with the source."""
        self.tables: Sequence[SnapshotTable] = ()
        self.claim: Callable[[str, list[TableId]], Iterable[TableId]] | None = None
        """Asked about tables that a streaming sink has never had: those that it returns are not copied from here."""
        self._source = source
        self._open = True
        self.recent = Recent()
        self.arrivals = Arrivals()
        self._ledger = ledger
        self._state = state
        self._settings = settings
        self._metrics = metrics
        self._backoff = Backoff(settings.backoff_first, settings.backoff_most, settings.retry_limit)
        self._changed = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._copy: asyncio.Task[None] | None = None
        self._mid_transaction = False
        self._yield = False
        self._asked: list[tuple[SinkWorker, Delivery | None, set[TableId]]] = []

    @property
    def streaming(self) -> bool:
        return self._pump is not None and not self._pump.done()

    def look(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Until stopped. Raises what the source cannot recover from or, when every sink has stopped, the first one's
        error."""
        with contextlib.suppress(TimeoutError):  # one that hangs does not hold up the others
            async with asyncio.timeout(self._settings.stall_limit):
                while not self.stopping and not all(worker.tried for worker in self.workers):
                    await self._wait()
        while not self.stopping:
            try:
                await self._step()
            except _AllStopped:
                raise self._first_error() from None
            except Exception as error:
                await self._recover(error)
                continue
            await self._wait()

    async def end(self) -> None:
        """Ends the stream and the snapshot. The stream carries confirmations: they are to be made before."""
        await self._cancel_copy()
        await self._cancel_pump()

    async def close_source(self) -> None:
        if self._open:
            self._open = False
            await self._source.__aexit__(None, None, None)

    async def copy_anew(self, worker: SinkWorker, tables: Sequence[TableId] | None) -> None:
        """Has tables (None: all) copied anew: the sink is opened again, and goes on when they are there."""
        await self._state.ask_anew(worker.name, tables)
        self.relist = True
        worker.drop()
        self.look()

    async def release(self, worker: SinkWorker) -> None:
        """Lets go a sink that holds the slot back. When it is back, everything is copied anew."""
        await self._state.ask_anew(worker.name, None)
        self._ledger.release(worker.name)
        worker.release()
        log.error("sink_released", extra={"sink": worker.name})

    async def drop_slot(self) -> None:
        """Drops the slot that nobody follows any more, if the source can. Every sink is copied anew when it is back, with
        a new slot."""
        if not isinstance(self._source, DropsSlot):
            return
        for worker in self.workers:
            await self._state.ask_anew(worker.name, None)
        await self._cancel_pump()
        if await self._source.drop_slot():
            self._ledger.confirmed = Lsn(0)
            log.error("slot_dropped", extra={"reason": "it kept more WAL than wal_budget"})

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _step(self) -> None:
        """One look around. Everything that blocks is in a task of its own."""
        await self._collect()
        if all(worker.finished and not worker.pausing for worker in self.workers):
            raise _AllStopped
        for worker in self.workers:
            ended = worker.finished and not worker.pausing
            if ended and self._settings.on_stall == "release" and worker.holds:
                await self.release(worker)
        waiting = [worker for worker in self.workers if worker.waiting]
        if waiting:
            await self.admissions.decide(self.workers, waiting)
            self.relist = True
        if self.relist or any(worker.inbox.unknown for worker in self.workers):
            await self._list_tables()
        if self._more_to_come():
            return
        await self._note_vanished()
        await self._begin_copy()
        await self._begin_stream()

    def _more_to_come(self) -> bool:
        """Sinks that come together are served together; one that hangs while it comes is not waited for."""
        limit = self._settings.stall_limit
        if any(worker.entering(limit) for worker in self.workers):
            asyncio.get_running_loop().call_later(limit, self.look)
            return True
        return False

    async def _collect(self) -> None:
        if self._copy is not None and self._copy.done():
            copy, self._copy = self._copy, None
            try:
                copy.result()
            except TableStopped as error:
                for worker in self.workers:
                    if worker.state is SinkState.COPYING:
                        await worker.stop_tables([error])
                        worker.drop()
        if self._pump is not None and self._pump.done():
            pump, self._pump = self._pump, None
            pump.result()

    async def _list_tables(self) -> None:
        self.tables = await self._source.tables()
        self.relist = False
        wanted = [item.table for item in self.tables]
        for worker in self.workers:
            worker.inbox.unknown = False
            worker.book.select(wanted)

    # -- snapshots

    async def _begin_copy(self) -> None:
        if self.claim is not None:
            for worker in self.workers:
                new = sorted(table for table in worker.book.pending if table not in worker.book.states)
                if new and worker.state is SinkState.STREAMING:
                    worker.book.claim(self.claim(worker.name, new))
        lacking = [worker for worker in self.workers if worker.streaming and worker.book.pending]
        if lacking and await self._between_transactions():
            for worker in lacking:
                worker.inbox.detach()
        group = [worker for worker in self.workers if worker.free and worker.book.pending]
        if self._copy is not None or not group:
            return
        pending = set().union(*(worker.book.pending for worker in group))
        tables = [item.table for item in self.tables if item.table in pending]
        session = object()
        for worker in group:
            worker.begin_copy(session)
        self._copy = asyncio.create_task(self._run_copy(session, group, tables), name="walcast snapshot")

    async def _run_copy(self, session: object, group: list[SinkWorker], tables: list[TableId]) -> None:
        log.info("snapshot_begins", extra={"tables": len(tables), "sinks": [worker.name for worker in group]})
        try:
            if failpoints.active:
                await failpoints.passed("snapshot.begin")
            async with aclosing(self._source.snapshot(tables)) as chunks:  # type: ignore[type-var]  # a generator
                async for chunk in chunks:
                    await self._put_chunk(session, group, chunk)
                    self._backoff.reset()
                    del chunk
                    if not any(worker.inbox.session is session for worker in group):
                        return
            for worker in group:
                if worker.inbox.session is session:
                    self._asked.append((worker, worker.delivery, set(tables)))
                    worker.inbox.detach()
            log.info("snapshot_read", extra={"tables": len(tables)})
        finally:
            self.look()

    async def _put_chunk(self, session: object, group: list[SinkWorker], chunk: Batch) -> None:
        table = chunk.relations[0].table
        for worker in group:
            if worker.inbox.session is session and table in worker.book.pending:
                worker.book.copy_starts[table] = self._source.starts[table]
                await self._put(worker, session, chunk)

    async def _note_vanished(self) -> None:
        """A table that was asked for and of which nothing came: it was dropped or taken away meanwhile."""
        asked, self._asked = self._asked, []
        for worker, delivery, tables in asked:
            if worker.delivery is not delivery:
                continue
            if not worker.free:
                self._asked.append((worker, delivery, tables))
                continue
            gone = tables & worker.book.pending
            await worker.stop_tables(
                [
                    TableStopped(
                        table,
                        "the snapshot brought nothing of it: it was dropped, or is no longer published",
                        hint="publish it again and copy it anew with `walcast resync TABLE`; or exclude it",
                    )
                    for table in sorted(gone)
                ]
            )

    # -- the stream

    async def _begin_stream(self) -> None:
        ready = [worker for worker in self.workers if worker.free and not worker.book.pending]
        attached = [worker for worker in self.workers if worker.streaming]
        if self._pump is not None:
            if attached and not (ready and await self._between_transactions()):
                return
            await self._cancel_pump()
        if not attached and not ready:
            return
        session, fed = object(), attached + ready
        for worker in fed:
            worker.begin_stream(session)
        after = _slowest([worker.position for worker in fed])
        self._pump = asyncio.create_task(self._run_pump(session, fed, after), name="walcast stream")

    async def _between_transactions(self) -> bool:
        """Ends the stream unless it is amid a transaction; then it ends by itself at the next boundary."""
        if self._pump is not None and self._mid_transaction and not self._pump.done():
            self._yield = True
            return False
        await self._cancel_pump()
        return True

    async def _run_pump(self, session: object, workers: list[SinkWorker], after: Checkpoint | None) -> None:
        self._yield = self._mid_transaction = False
        self._metrics.add("walcast_stream_opened_total")
        log.info("stream_begins", extra={"after": str(after), "sinks": [worker.name for worker in workers]})
        try:
            if not self.recent.known and isinstance(self._source, KnowsVisibility):
                self.recent.begin(await self._source.unsettled())
            async with aclosing(self._source.stream(after)) as stream:  # type: ignore[type-var]  # a generator
                async for batch in stream:
                    self.recent.note(batch)
                    self.arrivals.note(batch)
                    if self.stopping:  # kept open: it still carries confirmations
                        await asyncio.get_running_loop().create_future()
                    self._mid_transaction = batch.part is not None and not batch.part.last
                    full = [worker for worker in workers if not worker.inbox.offer(session, batch)]
                    for worker in full:
                        await self._put(worker, session, batch)
                    del batch
                    if self.problem is not None:
                        self.problem = None
                    self._backoff.reset()
                    if any(worker.inbox.unknown for worker in workers):
                        self.look()
                    if self._yield and not self._mid_transaction:
                        return
            raise SourceUnavailable("the stream ended", hint="it is opened again")
        finally:
            self._mid_transaction = False
            self.look()

    async def _put(self, worker: SinkWorker, session: object, batch: Batch) -> None:
        """Waits until the sink has room; detaches it when it has stalled while others could go on."""
        while not worker.inbox.offer(session, batch):
            others = any(other.attached for other in self.workers if other is not worker)
            limit = self._settings.stall_limit if others else None
            if await worker.inbox.wait_room(session, limit):
                continue
            worker.stalled()
            if self._settings.on_stall == "release":
                await self.release(worker)

    # -- failures of the source

    async def _recover(self, error: Exception) -> None:
        """Opens the source again, with backoff. Raises the error when that cannot help or took too long."""
        held = isinstance(error, SlotInUse)  # perhaps by our own last connection: nothing else is wrong
        await self._cancel_pump()
        if not held:
            await self._cancel_copy()
        for worker in self.workers:
            if worker.state is not SinkState.COPYING:
                worker.rewind()
            elif not held:
                worker.drop()
        while not self.stopping:
            self.problem = verdict = classify(error)
            wait = self._backoff.next() if verdict.action is Action.RETRY else None
            if wait is None and isinstance(error, SlotInUse) and self._settings.hot_spare:
                wait = self._settings.backoff_most
            if wait is None:
                raise error
            self._metrics.add("walcast_source_retries_total")
            fields = {"error": verdict.code, "reason": verdict.message, "hint": verdict.remedy}
            log.warning("source_retry", extra={**fields, "wait": round(wait, 3)})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    while not self.stopping:
                        await self._wait()
            if held:
                break
            try:
                await self._reopen()
            except Exception as again:
                error = again
            else:
                break
        self.look()

    async def _reopen(self) -> None:
        await self.close_source()
        await self._source.__aenter__()
        self._open = True
        slot = await self._source.slot()
        position = await self._source.position()
        moved = slot is None or (slot.confirmed or Lsn(0)) > self._ledger.confirmed
        back = any(
            worker.position is not None and worker.position.through > position for worker in self.workers
        )
        if moved or back or self._source.identity != self.admissions.identity:
            for worker in self.workers:
                worker.drop()  # each is judged anew
        self.relist = True

    def _first_error(self) -> Exception:
        errors = (worker.error for worker in self.workers if worker.error is not None)
        return next(errors, FatalError("every sink has ended"))

    async def _cancel_copy(self) -> None:
        copy, self._copy = self._copy, None
        await end(copy)

    async def _cancel_pump(self) -> None:
        pump, self._pump = self._pump, None
        await end(pump)


def _slowest(positions: Sequence[Checkpoint | None]) -> Checkpoint | None:
    """None when one of them is still where the slot is."""
    known = [position for position in positions if position is not None]
    if len(known) < len(positions):
        return None
    return min(known, key=lambda checkpoint: (checkpoint.epoch, checkpoint.through))
