"""One sink's life: opened, admitted, fed from its inbox; opened again when it fails; stopped when that cannot help."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from walcast.engine import failpoints
from walcast.engine.aside import Aside
from walcast.engine.backoff import Backoff
from walcast.engine.deadfile import FileDeadLetters, dead_file
from walcast.engine.delivery import Again, Delivery
from walcast.engine.fence import Action, Fence, FenceLost, Take, outcome
from walcast.engine.history import CHECKPOINT, HISTORY, Admission, History, Record, checkpoint_of
from walcast.engine.inbox import Inbox
from walcast.engine.journal import FileJournal
from walcast.engine.ledger import Ledger
from walcast.engine.metrics import Metrics
from walcast.engine.policy import Action as Policy
from walcast.engine.policy import Verdict, classify
from walcast.engine.recent import Recent
from walcast.engine.settings import PipelineSettings
from walcast.engine.sieve import Suspects
from walcast.engine.status import SinkState
from walcast.engine.tables import TableBook
from walcast.engine.tasks import end
from walcast.engine.trail import Arrivals, Trail
from walcast.engine.upgrade import load_journal
from walcast.model import (
    Batch,
    Checkpoint,
    Fenced,
    KeepsDeadLetters,
    KeepsJournal,
    Movable,
    ReadsAhead,
    SetsAside,
    Sink,
    Source,
    TableStopped,
)

log = logging.getLogger("walcast.engine")
T = TypeVar("T")
Make = Callable[[], AbstractAsyncContextManager[Sink]]
_AGAIN = 0.02
_TAKING = 10.0
"""Seconds that the source may take to give a snapshot and its position, for which the sink stands still."""
_SETTLING = 1.0
"""Seconds from the start of the stream: what was committed before, and waits for nothing, is visible by then."""

_DOUBTED = (
    "it may have read what the promoted standby never got: what it holds is made anew beside the stream"
)


class SinkWorker:
    """Runs one sink. The coordinator admits, attaches and detaches it; `changed` tells the coordinator to look.

    `record` is what the sink said of itself when it was opened; `problem` and `error` are the last failure until a
    batch was written again.
    """

    def __init__(
        self,
        name: str,
        make: Make,
        state_dir: Path,
        share: int,
        settings: PipelineSettings,
        ledger: Ledger,
        metrics: Metrics,
        changed: Callable[[], None],
        taken_up: Callable[[str], Awaitable[None]],
        arrivals: Arrivals,
    ) -> None:
        self.name = name
        self.book = TableBook(copy=settings.snapshot == "initial")
        self.inbox = Inbox(share, self.book)
        self.state = SinkState.OPENING
        self.problem: Verdict | None = None
        self.error: Exception | None = None
        self.record: Record | None = None
        self.delivery: Delivery | None = None
        self.trail = Trail(arrivals)
        self.pausing = False
        """Asked to end until it is revived: the slot waits for it, and nobody counts it as stopped."""
        self.finished = False
        self.tried = False
        """Its first attempt to open has ended, one way or the other."""
        self._make = make
        self._file = FileJournal(state_dir / "sinks" / f"{name}.json")
        self._dead_file = FileDeadLetters(dead_file(state_dir, name))
        self._suspects: Suspects = {}
        self._settings = settings
        self._ledger = ledger
        self._metrics = metrics
        self._changed = changed
        self._taken_up = taken_up
        self._backoff = Backoff(settings.backoff_first, settings.backoff_most, settings.retry_limit)
        self._admission: asyncio.Future[Admission] | None = None
        self._admitted = False
        self._told_at = 0.0
        self._restarting = False
        self._stopping = asyncio.Event()
        self._fence: Fence | None = None
        self._fencing = asyncio.Lock()

    @property
    def admitted(self) -> bool:
        return self._admitted and not self._restarting

    @property
    def waiting(self) -> bool:
        """Open, and not yet told where to go on."""
        return self._admission is not None and not self._admission.done() and not self._restarting

    def entering(self, limit: float) -> bool:
        """Told where to go on, and writing it down, for no longer than `limit` seconds."""
        told = self._admission is not None and self._admission.done() and not self._admitted
        return told and time.monotonic() < self._told_at + limit

    @property
    def streaming(self) -> bool:
        """Fed by the stream, or to be fed by the next one."""
        return self.attached and self.state is not SinkState.COPYING

    @property
    def holds(self) -> bool:
        """Whether the slot waits for it."""
        return self._ledger.entries[self.name].holds

    @property
    def attached(self) -> bool:
        return self.inbox.session is not None

    @property
    def free(self) -> bool:
        """Admitted, detached, nothing in hand: ready for a snapshot or the stream."""
        delivery = self.delivery
        if delivery is None or not self.admitted or self.attached or len(self.inbox):
            return False
        return not (delivery.calls.locked() or delivery.unflushed or delivery.in_parts)

    @property
    def position(self) -> Checkpoint | None:
        """Where the stream must begin for this sink; None: where the slot is."""
        return self._ledger.entries[self.name].saved

    def admit(self, admission: Admission) -> None:
        if self._admission is not None and not self._admission.done():
            self._told_at = time.monotonic()
            self._admission.set_result(admission)

    def refuse(self, error: Exception) -> None:
        """It cannot go on: it stops with this error, the others do not."""
        if self._admission is not None and not self._admission.done():
            self._admission.set_exception(error)

    def begin_copy(self, session: object) -> None:
        self.inbox.attach(session, self.inbox.received)
        self.state = SinkState.COPYING

    def begin_stream(self, session: object) -> None:
        """Attaches it; one that is attached goes on with the new stream from where it is."""
        self.inbox.attach(session, self.inbox.received)
        if self.state is not SinkState.RETRYING:
            self.state = SinkState.STREAMING

    def rewind(self) -> None:
        """The stream broke off: a transaction of which only some parts came will come again from its first."""
        if self.inbox.part_open or (self.delivery is not None and self.delivery.in_parts):
            self.drop()

    def drop(self) -> None:
        """Forgets everything in hand and opens the sink again; then it waits for admission."""
        if self.finished:
            return
        self._restarting = self.delivery is not None or self._admission is not None
        self.inbox.clear()
        self.state = SinkState.DETACHED
        if self._admission is not None:
            self._admission.cancel()

    def stalled(self) -> None:
        """It has made no progress for too long: it is dropped, and comes back when its call has ended."""
        limit = self._settings.stall_limit
        self.drop()
        self.problem = Verdict(
            Policy.RETRY, "Stalled", f"sink {self.name} made no progress for {limit:g} s", "see to the target"
        )
        log.warning("sink_detached", extra=_fields(self.name, self.problem))

    def release(self) -> None:
        """The slot no longer waits for it."""
        self.drop()
        self.state = SinkState.RELEASED
        self.problem = self.problem or Verdict(
            Policy.RETRY,
            "Released",
            f"sink {self.name} held the slot back",
            "it is copied anew when it is back",
        )

    def stop(self) -> None:
        """Finishes what is in the sink's hands, flushes, saves, ends."""
        self._stopping.set()
        self.inbox.wake.set()
        if self._admission is not None:
            self._admission.cancel()

    def paused(self) -> None:
        """It has ended as it was asked to, and waits to be revived."""
        self.inbox.clear()
        self.state = SinkState.PAUSED

    async def stop_tables(self, errors: list[TableStopped]) -> None:
        """Records tables that a snapshot could not bring."""
        if self.delivery is not None:
            async with self.delivery.calls:
                for error in errors:
                    await self.delivery.stop_table(error)

    def revive(self) -> None:
        """Makes it ready to `run`, again after it has stopped."""
        self.state = SinkState.OPENING
        self._stopping.clear()
        self._restarting = self.finished = self.pausing = False
        self.problem = self.error = None
        self._backoff.reset()

    async def hold(
        self,
        take: Take,
        action: Action[T],
        recent: Recent,
        source: Source,
        *,
        flush: bool,
        patience: float,
        waiting: Callable[[Sequence[int]], None] | None,
    ) -> T:
        """See `Pipeline.hold`."""
        async with self._fencing:
            await asyncio.sleep(max(0.0, _SETTLING - recent.age))
            deadline = time.monotonic() + patience
            while (fence := await self._armed(take, action, recent, flush, waiting)) is None:
                if time.monotonic() > deadline:
                    raise FenceLost(
                        f"transactions were streamed that the source does not show for {patience:g} s",
                        hint="they wait for a synchronous standby: see to it, then try again",
                    )
                await asyncio.sleep(_AGAIN)
            try:
                self.inbox.wake.set()
                left = max(0.0, deadline - time.monotonic())
                return cast(T, await outcome(fence, source, max(left, _TAKING)))
            finally:
                self._fence = None

    async def _armed(
        self,
        take: Take,
        action: Action[Any],
        recent: Recent,
        flush: bool,
        waiting: Callable[[Sequence[int]], None] | None,
    ) -> Fence | None:
        """The fence, taken while the sink stands between two writes; None: a transaction that it may have is not visible."""
        delivery = self.delivery
        if delivery is None or self.state is not SinkState.STREAMING or not recent.known:
            raise FenceLost(f"sink {self.name} is {self.state.value}", hint="wait until it streams")
        async with delivery.calls:
            try:
                async with asyncio.timeout(_TAKING):
                    cut = await take()
            except TimeoutError:
                raise FenceLost("the source gives no snapshot", hint="see to the source") from None
            if self.delivery is not delivery:
                raise FenceLost(f"sink {self.name} was opened again meanwhile", hint="it is tried again")
            unseen = recent.unseen(cut.visibility)
            if not unseen:
                self._fence = Fence(cut, action, flush=flush)
                return self._fence
        if waiting is not None:
            waiting(unseen)
        return None

    async def run(self) -> None:
        """Until stopped, or until an error that does not pass; then `problem` says which."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._session()
                except Again:
                    self._after_failure()
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    self._after_failure()  # only the wait for admission was called off
                except Exception as error:
                    self.tried = True
                    if self._stopping.is_set():
                        log.warning("sink_failed_while_stopping", extra=_fields(self.name, classify(error)))
                        self.problem, self.error = classify(error), error
                        return
                    self._after_failure()
                    if not await self._retry(error):
                        return
        finally:
            self.finished = True
            self._changed()

    async def _retry(self, error: Exception) -> bool:
        verdict = classify(error)
        wait = self._backoff.next() if verdict.action is Policy.RETRY else None
        _let_go(error)
        self.problem, self.error = verdict, error
        if wait is None:
            self.state = SinkState.STOPPED
            self.inbox.clear()
            log.error("sink_stopped", extra=_fields(self.name, verdict))
            log.debug("sink_stopped_trace", exc_info=error)
            return False
        if self.attached:
            self.state = SinkState.RETRYING
        self._metrics.add("walcast_retries_total", self.name)
        log.warning("sink_retry", extra={**_fields(self.name, verdict), "wait": round(wait, 3)})
        self._changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._stopping.wait()
        return True

    def _after_failure(self) -> None:
        """Keeps what can be sent again; else everything comes again from the stream or a snapshot."""
        copying = self.state is SinkState.COPYING
        if self._restarting or copying or not self.inbox.replay():
            self.inbox.clear()
            self.state = SinkState.DETACHED
        self._restarting = False
        self.trail.forget()
        self._changed()

    async def _session(self) -> None:
        async with self._make() as sink:
            journal = sink.journal() if isinstance(sink, KeepsJournal) else self._file
            delivery = Delivery(
                self.name,
                sink,
                journal,
                self.book,
                self.inbox,
                self._ledger,
                self._metrics,
                self._settings,
                self._changed,
                await self._aside(sink),
                self.trail,
            )
            content = await load_journal(journal, f"the journal of sink {self.name}")
            kept = (
                await sink.checkpoint() if sink.keeps_checkpoint else checkpoint_of(content.get(CHECKPOINT))
            )
            if failpoints.active:
                await failpoints.passed("sink.opened")
            saver: asyncio.Task[None] | None = None
            try:
                self.book.load(journal, content)
                await self._enter(delivery, kept, content)
                self.delivery = delivery
                self._changed()
                if not sink.keeps_checkpoint:
                    saver = asyncio.create_task(delivery.keep_saving(), name=f"walcast save {self.name}")
                await self._serve(delivery)
            finally:
                if self._fence is not None:
                    self._fence.fail(f"sink {self.name} was closed while it was awaited")
                    self._fence = None
                self.delivery = self._admission = None
                self._admitted = False
                await end(saver)

    async def _aside(self, sink: Sink) -> Aside | None:
        if not isinstance(sink, SetsAside):
            return None
        store = sink.dead_letters() if isinstance(sink, KeepsDeadLetters) else self._dead_file
        aside = Aside(self.name, sink, sink.policies, store, self._suspects, self._metrics)
        await aside.load()
        return aside

    async def _enter(
        self, delivery: Delivery, checkpoint: Checkpoint | None, content: dict[str, Any]
    ) -> None:
        """Goes on from the inbox after a failure; else waits until the coordinator has said where."""
        self.tried = True
        if self.attached and self._goes_on(delivery, checkpoint):
            self._admitted = True
            self.state = SinkState.STREAMING
            return
        self.inbox.clear()
        sink, history = delivery.sink, History.of(content.get(HISTORY))
        self.record = Record(self.name, checkpoint, history)
        if history is not None and isinstance(sink, ReadsAhead):
            shown = sink.shown(history.system_id, history.timeline)
            self.record = replace(self.record, shown=shown)
        self._admission = asyncio.get_running_loop().create_future()
        self._changed()
        admission = await self._admission
        if admission.doubted and isinstance(sink, ReadsAhead):
            log.warning("copy_doubted", extra={"sink": self.name, "hint": _DOUBTED})
            await sink.fill_anew()
        if admission.moved:
            await self.book.moved(await sink.moved() if isinstance(sink, Movable) else ())
        if admission.fresh or admission.anew:
            await self.book.reset(None if admission.fresh else admission.anew)
        await delivery.journal.save(HISTORY, admission.history.as_json())
        await self._taken_up(self.name)
        self._ledger.join(self.name, admission.floor, admission.checkpoint)
        self.inbox.received = admission.checkpoint
        self._admitted = True
        self._metrics.set("walcast_tables_stopped", self.name, to=len(self.book.stopped))
        pending = len(self.book.pending)
        log.info(
            "sink_admitted",
            extra={"sink": self.name, "checkpoint": str(admission.checkpoint), "pending": pending},
        )

    def _goes_on(self, delivery: Delivery, checkpoint: Checkpoint | None) -> bool:
        """The target holds at least what it had said: the rest is still in the inbox."""
        entry, received = self._ledger.entries[self.name], self.inbox.received
        keeps = delivery.sink.keeps_checkpoint
        base = entry.durable if keeps else entry.saved
        if checkpoint is None:
            return base is None
        if received is None or checkpoint.through > received.through:
            raise Fenced(f"sink {self.name} is at {checkpoint}, beyond what this pipeline sent")
        if base is not None and checkpoint.through < base.through:
            return False
        if keeps:
            delivery.resumed = Checkpoint(received.epoch, checkpoint.position, checkpoint.through)
            delivery.durable(delivery.resumed)
        return True

    async def _serve(self, delivery: Delivery) -> None:
        while True:
            batch = await self._next(delivery)
            if self._stopping.is_set():
                break
            async with delivery.calls:
                fence = self._fence
                if isinstance(batch, Fence):
                    if batch is fence:
                        self._fence = None
                        await batch.run(delivery, self.inbox.received)
                elif batch is None:
                    await delivery.flush()
                else:
                    if fence is not None:
                        fence.note(batch)
                    await delivery.put(batch)
                    batch = None  # its memory counts against the reader until it is let go
                    self._went_well()
            if not self.attached:
                self._changed()
        async with delivery.calls:
            if delivery.may_flush:
                await delivery.flush()
            if not delivery.sink.keeps_checkpoint:
                await delivery.save()

    async def _next(self, delivery: Delivery) -> Batch | Fence | None:
        """The next batch; the fence when the sink is there; None when it is time to flush, or to stop."""
        inbox = self.inbox
        while not self._stopping.is_set():
            if self._restarting:
                raise Again
            if delivery.save_error is not None:
                raise delivery.save_error
            fence = self._fence
            if fence is not None and not delivery.in_parts and inbox.reached(fence.cut.lsn):
                return fence
            if len(inbox):
                if delivery.flush_due:
                    return None
                return inbox.take(upto=None if fence is None else fence.cut.lsn)
            inbox.wake.clear()
            try:
                async with asyncio.timeout(self._settings.flush_idle if delivery.may_flush else None):
                    await inbox.wake.wait()
            except TimeoutError:
                return None
        return None

    def _went_well(self) -> None:
        if self.problem is not None:
            self._backoff.reset()
            self.problem = self.error = None
            if self.attached and self.state is SinkState.RETRYING:
                self.state = SinkState.STREAMING


def _let_go(error: BaseException | None) -> None:
    """An error that is kept must not keep a batch: its frames' variables are cleared, the traceback stays."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _fields(name: str, verdict: Verdict) -> dict[str, Any]:
    return {"sink": name, "error": verdict.code, "reason": verdict.message, "hint": verdict.remedy}
