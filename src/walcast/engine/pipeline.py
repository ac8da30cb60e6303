"""One source to many sinks: what a program starts, stops and asks.

    source --Coordinator--> Inbox --SinkWorker/Delivery--> sink        (one inbox and worker a sink)
                                        |
                              Ledger: durable, saved  --confirm--> source's slot

The invariant, for every sink that holds the slot: confirmed <= saved <= durable (engine/ledger.py). Here is the only
place that confirms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar, cast

from walcast.engine import failpoints
from walcast.engine.aside import Aside
from walcast.engine.backoff import Backoff
from walcast.engine.control import ControlServer
from walcast.engine.coordinator import Coordinator
from walcast.engine.delivery import Delivery
from walcast.engine.fence import Action, Take
from walcast.engine.ledger import Ledger
from walcast.engine.metrics import Metrics
from walcast.engine.observer import Observer
from walcast.engine.ownership import owned
from walcast.engine.policy import Action as Policy
from walcast.engine.policy import classify
from walcast.engine.retrying import Retried, retry
from walcast.engine.service import register
from walcast.engine.settings import PipelineSettings
from walcast.engine.statefile import StateFile
from walcast.engine.status import PipelineStatus, SinkState
from walcast.engine.tasks import end
from walcast.engine.trail import Step
from walcast.engine.worker import Make, SinkWorker
from walcast.model import (
    ConfigError,
    DeadLetter,
    Lsn,
    OperatorError,
    Revives,
    Sink,
    SinkContext,
    SinkFactory,
    SinkUnavailable,
    SlotInUse,
    Source,
    TableId,
    TableStopped,
    WalcastError,
)
from walcast.model.comparing import Comparable

log = logging.getLogger("walcast.engine")

T = TypeVar("T")
_GRACE = 1.0


class Pipeline:
    """Runs until stopped. `sinks` are factories, called anew at each opening, or sinks that can be opened again.

    One process at a time owns `state_dir`; it holds the journals of sinks whose targets cannot, the control socket
    and the lock. `control` takes further handlers before `run`.
    """

    def __init__(
        self,
        source: Source,
        sinks: Mapping[str, Sink | SinkFactory],
        state_dir: str | Path,
        settings: PipelineSettings | None = None,
        *,
        name: str = "walcast",
    ) -> None:
        if not sinks:
            raise ConfigError("the pipeline has no sink", hint="add at least one")
        self.name = name
        self.source = source
        self.state_dir = Path(state_dir)
        self.settings = settings or PipelineSettings()
        self.metrics = Metrics()
        self.control = ControlServer(self.state_dir)
        self._state = StateFile(self.state_dir)
        self._ledger = Ledger(list(sinks))
        self._coordinator = Coordinator(source, self._ledger, self._state, self.settings, self.metrics)
        share = self.settings.budget_bytes // (len(sinks) + 1)
        self._workers = {
            sink: SinkWorker(
                sink,
                self._maker(sink, made),
                self.state_dir,
                share,
                self.settings,
                self._ledger,
                self.metrics,
                self._coordinator.look,
                self._coordinator.admissions.taken_up,
                self._coordinator.arrivals,
            )
            for sink, made in sinks.items()
        }
        self._coordinator.workers = list(self._workers.values())
        self._observer = Observer(source, self._coordinator, self._ledger, self.settings, self.metrics)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._phase = "starting"
        self._stop = asyncio.Event()
        register(self.control, self)

    async def run(self) -> None:
        """Replicates until `stop`. Raises the error that ended it otherwise: the source's, or the first sink's when none
        is left. What was in the sinks' hands is finished, flushed, saved and confirmed in either case."""
        self._phase = "waiting" if self.settings.hot_spare else "starting"
        stopped = asyncio.ensure_future(self._stop.wait())
        running = asyncio.create_task(self._owning())
        try:
            await asyncio.wait([stopped, running], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                self._phase = "stopping"
                self._coordinator.stopping = True
                self._coordinator.look()
                if not self._tasks:
                    running.cancel()  # not begun yet: nothing in hand
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                return
            running.result()
        finally:
            stopped.cancel()
            await end(running)
            self._phase = "stopped"

    def stop(self) -> None:
        """Asks for a clean end: `run` returns within `stop_timeout`. May be called from a signal handler of the loop."""
        self._stop.set()

    def status(self) -> PipelineStatus:
        """The pipeline as it is now; what the source says is as of the last look (`observe`)."""
        return self._observer.picture(self.name, self._phase)

    async def observe(self) -> PipelineStatus:
        """The same after a fresh look at the source."""
        await self._observer.look()
        return self.status()

    async def wait_for(self, token: Lsn, sink: str | None = None, timeout: float | None = None) -> None:
        """Returns when this sink (None: every one) is durable through the token. Raises TimeoutError, ConfigError when
        there is no such sink, OperatorError when it has stopped."""
        names = [sink] if sink is not None else list(self._workers)
        async with asyncio.timeout(timeout):
            await asyncio.gather(*(self._reached(self._worker(name), token) for name in names))

    async def resync(self, sink: str, tables: Sequence[TableId] | None = None) -> None:
        """Copies tables (None: all) anew into a sink; a stopped sink or table returns so. Returns at once: status tells
        the progress."""
        await self.copy_anew(sink, tables)

    async def copy_anew(self, sink: str, tables: Sequence[TableId] | None = None) -> None:
        """The same by a snapshot, for which the sink leaves the stream."""
        worker = self._worker(sink)
        await self._coordinator.copy_anew(worker, tables)
        self._revive(worker)

    async def reload(self) -> None:
        """Looks again which tables are published, and tries stopped sinks again."""
        self._coordinator.relist = True
        for worker in self._workers.values():
            if not worker.pausing:
                self._revive(worker)
        self._coordinator.look()

    async def pause(self, sink: str) -> None:
        """Closes a sink, after what it has in hand, and leaves it closed until `resume` or the next start. The slot keeps
        what comes meanwhile, up to the WAL budget; the other sinks go on. Returns when it is closed."""
        worker, task = self._worker(sink), self._tasks.get(sink)
        if task is None or task.done():
            raise OperatorError(f"sink {sink} is {worker.state.value}", hint=f"walcast resume {sink}")
        worker.pausing = True
        worker.stop()
        _, late = await asyncio.wait([task], timeout=self.settings.stop_timeout)
        await end(*late)
        worker.paused()
        self._coordinator.look()
        log.info("sink_paused", extra={"sink": sink})

    async def resume(self, sink: str) -> None:
        """Opens a sink that was paused, or has stopped, again: it goes on where it was. No effect on one that runs."""
        self._revive(self._worker(sink))
        self._coordinator.look()

    def trail(self, limit: int) -> dict[str, list[Step]]:
        """The latest batches of each sink, newest first, with the times of their way."""
        return {name: worker.trail.latest(limit) for name, worker in self._workers.items()}

    async def query(self, sink: str, *args: object, **kwargs: object) -> object:
        """Asks the sink's own `query`, between two of its writes. Raises OperatorError when it has none or is closed."""
        delivery = self._worker(sink).delivery
        ask = getattr(delivery.sink, "query", None) if delivery is not None else None
        if delivery is None or ask is None:
            raise OperatorError(f"sink {sink} cannot be asked now", hint="see `walcast status`")
        async with delivery.calls:
            return await ask(*args, **kwargs)

    async def hold(
        self,
        sink: str,
        take: Take,
        action: Action[T],
        *,
        flush: bool = True,
        patience: float = 60.0,
        waiting: Callable[[Sequence[int]], None] | None = None,
    ) -> T:
        """Holds a sink at one position of the stream while `action` runs there; what it returned.

        `take` takes a snapshot of the source and its position, on a connection that goes on reading under that snapshot
        (walcast.postgres.cut). It is called while the sink stands between two writes, again when a transaction that was
        streamed is not visible in it (`waiting` is told which). Then the sink goes on to that position, is flushed when
        `flush` says so, and `action` gets it there: `Held.sink` to read, `Held.write` to write rows that are not the
        stream's, `Held.touched` the keys that must be left out because the copy and the snapshot may rightly differ in
        them. The sink stands still while the action runs: keep it short. One at a time for each sink.

        Raises FenceLost (retryable: the sink is not streaming or failed meanwhile, or nothing settled within `patience`
        seconds), ConfigError when there is no such sink, and what `take` and `action` raise.
        """
        return await self._worker(sink).hold(
            take,
            action,
            self._coordinator.recent,
            self.source,
            flush=flush,
            patience=patience,
            waiting=waiting,
        )

    # -- tables built chunk by chunk

    def claim_new(self, claim: Callable[[str, list[TableId]], Iterable[TableId]]) -> None:
        """Has new tables of streaming sinks offered to `claim`; those that it returns are its own to `build`, or to give
        back (`unclaim`). Whoever claims also looks after `building`: tables of which rows have to come again."""
        self._coordinator.claim = claim
        for worker in self._workers.values():
            worker.book.builder = True

    def unclaim(self, sink: str, tables: Sequence[TableId]) -> None:
        """These are copied by a snapshot after all."""
        self._worker(sink).book.unclaim(tables)
        self._coordinator.look()

    def building(self, sink: str) -> dict[TableId, dict[str, Any]]:
        """The tables whose rows come chunk by chunk, and what was noted of each."""
        states = self._worker(sink).book.states
        return {table: state.progress for table, state in states.items() if state.progress is not None}

    async def build(
        self, sink: str, table: TableId, progress: dict[str, Any], *, first: bool = False
    ) -> None:
        """Notes, with the data, that a table's rows come chunk by chunk and how far they are; its changes flow from the first
        time on. `first`: dead letters of the table are settled by what is to come. Raises OperatorError for a table that
        has stopped, RetryableError when the sink is not streaming."""
        worker = self._worker(sink)
        delivery = worker.delivery
        if delivery is None or worker.state is not SinkState.STREAMING:
            raise SinkUnavailable(f"sink {sink} is {worker.state.value}", hint="wait until it streams")
        if table in worker.book.stopped:
            raise OperatorError(f"{table} is stopped in sink {sink}", hint="it needs a snapshot")
        async with delivery.calls:
            await worker.book.build(table, progress)
            worker.book.unclaim([table])
            if first and delivery.aside is not None:
                await delivery.aside.forget(table)
        self.metrics.set("walcast_snapshot_rows", sink, str(table), to=progress.get("rows", 0))
        if failpoints.active:
            await failpoints.passed("build.noted")

    async def built(self, sink: str, table: TableId) -> None:
        """All rows are there. Call it while the sink is held (`hold`): nothing can have changed the table's shape then."""
        await self._worker(sink).book.built(table)
        self._coordinator.look()

    async def not_built(self, sink: str, table: TableId) -> None:
        """They cannot come so. A table that was new, or that is wrong without them, is copied by a snapshot."""
        worker = self._worker(sink)
        delivery = worker.delivery
        if delivery is None:
            raise SinkUnavailable(f"sink {sink} is {worker.state.value}", hint="wait until it streams")
        state = worker.book.states[table]
        if state.state == "done" and not (state.progress or {}).get("needed"):
            async with delivery.calls:
                await worker.book.built(table)
            self._coordinator.look()
        else:
            await self.copy_anew(sink, [table])

    def shows_rows(self, sink: str) -> bool:
        """Whether the sink is open and can show its rows, so that they can be compared and brought in chunks."""
        delivery = self._worker(sink).delivery
        return delivery is not None and isinstance(delivery.sink, Comparable)

    @property
    def sinks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._workers)

    def dead_letters(self, sink: str) -> list[DeadLetter]:
        """The rows that were set aside, by number. Raises SinkUnavailable while the sink is closed."""
        return list(self._aside(sink)[1].letters.values())

    async def retry_dead(self, sink: str, numbers: Sequence[int] | None = None) -> list[Retried]:
        """Tries dead letters (None: all) again, with all others of their keys, between two of the sink's writes."""
        delivery, aside = self._aside(sink)
        source = self.source
        if not isinstance(source, Revives):
            raise OperatorError("this source cannot bring a change back", hint="resync the table")
        async with delivery.calls:
            try:
                return await retry(aside, numbers, source.revive, delivery.try_again)
            except WalcastError as error:
                if not isinstance(error, OperatorError) or isinstance(error, TableStopped):
                    self._worker(sink).drop()  # after an error the sink is of no more use: it is opened again
                raise

    async def drop_dead(self, sink: str, numbers: Sequence[int] | None = None) -> list[int]:
        """Forgets dead letters (None: all) for good; their numbers."""
        delivery, aside = self._aside(sink)
        async with delivery.calls:
            return await aside.drop(numbers)

    def _aside(self, sink: str) -> tuple[Delivery, Aside]:
        delivery = self._worker(sink).delivery
        if delivery is None:
            state = self._worker(sink).state.value
            raise SinkUnavailable(
                f"sink {sink} is {state}: its dead letters cannot be read", hint="see `walcast status`"
            )
        if delivery.aside is None:
            raise OperatorError(f"sink {sink} sets no rows aside", hint="see: walcast sinks")
        return delivery, delivery.aside

    # -- running

    async def _owning(self) -> None:
        async with owned(self.state_dir, wait=self.settings.hot_spare):
            self._phase = "starting"
            await self._state.load()
            if self.settings.serve:
                await self.control.start()
            try:
                await self._open_source()
                self._phase = "running"
                await self._replicate()
            finally:
                await self.control.stop()

    async def _open_source(self) -> None:
        settings = self.settings
        backoff = Backoff(settings.backoff_first, settings.backoff_most, settings.retry_limit)
        while True:
            try:
                await self.source.__aenter__()
                return
            except Exception as error:
                verdict = classify(error)
                wait = backoff.next() if verdict.action is Policy.RETRY else None
                if wait is None and isinstance(error, SlotInUse) and settings.hot_spare:
                    wait = settings.backoff_most
                if wait is None:
                    raise
                self._coordinator.problem = verdict
                log.warning("source_retry", extra={"reason": verdict.message, "wait": round(wait, 3)})
                await asyncio.sleep(wait)

    async def _replicate(self) -> None:
        coordinator = self._coordinator
        coordinator.problem = None
        confirming = asyncio.create_task(self._confirm_always(), name="walcast confirm")
        observing = asyncio.create_task(self._observer.run(), name="walcast observe")
        coordinating = asyncio.create_task(coordinator.run(), name="walcast coordinate")
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            for worker in self._workers.values():
                self._revive(worker)
            await asyncio.wait([coordinating, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            coordinator.stopping = True
            coordinator.look()
            stopped.cancel()
            await asyncio.wait([coordinating], timeout=_GRACE)  # it may be connecting
            await end(coordinating, observing)
            if coordinating.done() and not coordinating.cancelled() and coordinating.exception() is not None:
                with contextlib.suppress(
                    Exception
                ):  # a supervisor's restarts must not outlast the source's disk
                    await self._observer.look()
                    await self._observer.apply_budget()
            await self._drain()
            await end(confirming)
            with contextlib.suppress(Exception):  # what is not confirmed is sent again and dropped
                await self._confirm()
            await coordinator.end()
            await coordinator.close_source()
        if not coordinating.cancelled():
            coordinating.result()

    async def _drain(self) -> None:
        """Lets each sink finish what it has in hand."""
        for worker in self._workers.values():
            worker.stop()
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self.settings.stop_timeout)
            for task in late:
                log.warning("sink_stop_timeout", extra={"task": task.get_name()})
            await end(*late)

    async def _confirm_always(self) -> None:
        while True:
            await self._ledger.moved.wait()
            self._ledger.moved.clear()
            try:
                await self._confirm()
            except Exception as error:  # the stream meets the same fault and deals with it
                log.debug("confirm_failed", extra={"error": type(error).__name__})

    async def _confirm(self) -> None:
        """The third step, after durable and saved: the slot may go on."""
        through = self._ledger.confirmable()
        if through is None or not self._coordinator.streaming:
            return
        if failpoints.active:
            await failpoints.passed("confirm.before")
        await self.source.confirm(through)
        self._ledger.confirmed = through
        if failpoints.active:
            await failpoints.passed("confirm.after")

    async def _reached(self, worker: SinkWorker, token: Lsn) -> None:
        reached = asyncio.ensure_future(self._ledger.reached(worker.name, token))
        try:
            while not reached.done():
                if worker.state is SinkState.PAUSED:
                    raise OperatorError(
                        f"sink {worker.name} is paused", hint=f"go on with: walcast resume {worker.name}"
                    )
                if worker.state in (SinkState.STOPPED, SinkState.RELEASED):
                    why = f": {worker.problem.message}" if worker.problem is not None else ""
                    raise OperatorError(f"sink {worker.name} has stopped{why}", hint="see `walcast status`")
                # Again and again: the server may not have flushed the token's record at the first time.
                self.source.poke()
                await asyncio.wait([reached], timeout=0.1)
        finally:
            reached.cancel()

    def _worker(self, name: str) -> SinkWorker:
        if name not in self._workers:
            raise ConfigError(f"there is no sink {name!r}", hint=f"sinks: {', '.join(self._workers)}")
        return self._workers[name]

    def _revive(self, worker: SinkWorker) -> None:
        task = self._tasks.get(worker.name)
        if task is None or task.done():
            worker.revive()
            self._tasks[worker.name] = asyncio.create_task(worker.run(), name=f"walcast sink {worker.name}")

    def _maker(self, name: str, made: Sink | SinkFactory) -> Make:
        if not callable(made):
            return lambda: cast("AbstractAsyncContextManager[Sink]", made)
        return lambda: made(
            SinkContext(
                pipeline=self.name, sink=name, source=self.source.identity, state_dir=str(self.state_dir)
            )
        )
