"""Looks at the source now and then, for lag, metrics and the WAL that the slot retains; and draws the status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from walcast.engine.ledger import Ledger
from walcast.engine.metrics import Metrics
from walcast.engine.policy import Verdict
from walcast.engine.settings import PipelineSettings
from walcast.engine.status import (
    PipelineStatus,
    Problem,
    SinkState,
    SinkStatus,
    SourceStatus,
    StoppedTable,
    TableProgress,
)
from walcast.engine.tables import TableState
from walcast.engine.worker import SinkWorker
from walcast.model import KnowsVisibility, Lsn, SlotState, Source

if TYPE_CHECKING:
    from walcast.engine.coordinator import Coordinator

log = logging.getLogger("walcast.engine")

_EVERY = 600.0
_KEPT = 145
"""Looks at the source that are kept for the rate of WAL: a day of them, ten minutes apart."""


class Observer:
    """Keeps the last look at the source. Applies the WAL budget: a sink that holds too much back is let go."""

    def __init__(
        self,
        source: Source,
        coordinator: Coordinator,
        ledger: Ledger,
        settings: PipelineSettings,
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._coordinator = coordinator
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self._slot: SlotState | None = None
        self._position: Lsn | None = None
        self._looked = 0.0
        self._looks: deque[tuple[float, Lsn]] = deque(maxlen=_KEPT)
        self._warned = False

    async def run(self) -> None:
        """Looks every `observe_interval`, until cancelled."""
        while True:
            try:
                await self.look()
                await self.apply_budget()
            except Exception as error:  # whoever reads the stream meets it, too
                log.debug("observe_failed", extra={"error": type(error).__name__})
            await asyncio.sleep(self._settings.observe_interval)

    async def look(self) -> None:
        """Asks the source for slot and position."""
        self._slot = await self._source.slot()
        self._note(await self._source.position())
        recent = self._coordinator.recent
        if len(recent) and isinstance(self._source, KnowsVisibility):
            recent.unseen(await self._source.visibility())
        if self._slot is not None:
            self._metrics.set("walcast_slot_retained_bytes", to=self._slot.retained)
        self.measure()

    def _note(self, position: Lsn) -> None:
        before, self._position = self._position, position
        self._looked = time.monotonic()
        if before is not None and position < before:
            self._looks.clear()  # another history
        if not self._looks or self._looked - self._looks[-1][0] >= _EVERY:
            self._looks.append((self._looked, position))
        watched, written = self._watched()
        if watched:
            self._metrics.set("walcast_source_wal_bytes_per_second", to=written / watched)

    def _watched(self) -> tuple[float, int]:
        """For how long the source was watched (seconds, at most a day), and the WAL that it wrote meanwhile (bytes)."""
        if not self._looks or self._position is None:
            return 0.0, 0
        began, first = self._looks[0]
        return self._looked - began, self._position - first

    def measure(self) -> None:
        """Brings the gauges up to date."""
        for worker in self._coordinator.workers:
            metrics, name = self._metrics, worker.name
            lag = self._lag(worker)
            if lag is not None:
                metrics.set("walcast_lag_bytes", name, to=lag)
            metrics.set("walcast_lag_seconds", name, to=_age(worker))
            metrics.set("walcast_queue_bytes", name, to=worker.inbox.held)
            metrics.set("walcast_up", name, to=float(worker.attached))
            aside = worker.delivery.aside if worker.delivery is not None else None
            if aside is not None:
                metrics.set("walcast_dead_letters_oldest_seconds", name, to=aside.oldest)
            metrics.set("walcast_snapshot_tables_pending", name, to=len(worker.book.pending))

    def picture(self, name: str, phase: str) -> PipelineStatus:
        """The status now."""
        coordinator, slot = self._coordinator, self._slot
        self.measure()
        problem = coordinator.problem
        watched, written = self._watched()
        return PipelineStatus(
            name=name,
            state=phase,
            source=SourceStatus(
                identity=coordinator.admissions.identity,
                epoch=self._source.epoch,
                slot=None if slot is None else slot.name,
                confirmed=self._ledger.confirmed or (None if slot is None else slot.confirmed),
                retained=None if slot is None else slot.retained,
                wal_status=None if slot is None else slot.wal_status,
                position=self._position,
                wal_rate=written / watched if watched else None,
                wal_watched=watched,
                streaming=coordinator.streaming,
                error=_problem(problem),
            ),
            sinks=tuple(self._sink(worker) for worker in coordinator.workers),
            taken=time.time(),
        )

    def _sink(self, worker: SinkWorker) -> SinkStatus:
        metrics, name = self._metrics, worker.name
        latency = metrics.histogram("walcast_latency_seconds", name)
        return SinkStatus(
            name=name,
            state=worker.state,
            checkpoint=self._ledger.entries[name].saved,
            lag_bytes=self._lag(worker),
            lag_seconds=_age(worker),
            latency=(latency.quantile(0.5), latency.quantile(0.99)),
            rows=int(metrics.total("walcast_rows_total", name)),
            batches=int(metrics.get("walcast_batches_total", name)),
            transactions=int(metrics.get("walcast_transactions_total", name)),
            retries=int(metrics.get("walcast_retries_total", name)),
            queue_bytes=worker.inbox.held,
            stopped_tables=tuple(
                StoppedTable(str(table), state.position, state.reason, state.hint)
                for table, state in sorted(worker.book.stopped.items())
            ),
            snapshot=self._progress(worker),
            error=_problem(worker.problem),
            dead_letters=int(metrics.get("walcast_dead_letters", name)),
            oldest_dead_letter=metrics.get("walcast_dead_letters_oldest_seconds", name),
        )

    def _progress(self, worker: SinkWorker) -> tuple[TableProgress, ...]:
        rows = []
        for item in self._coordinator.tables:
            state = worker.book.states.get(item.table)
            copied = int(self._metrics.get("walcast_snapshot_rows", worker.name, str(item.table)))
            if state is not None or worker.state is SinkState.COPYING:
                rows.append(TableProgress(str(item.table), copied, item.rows, _state(state)))
        return tuple(rows)

    def _lag(self, worker: SinkWorker) -> int | None:
        saved = self._ledger.entries[worker.name].saved
        if saved is None or self._position is None:
            return None
        return max(0, self._position - saved.through)

    async def apply_budget(self) -> None:
        """At the WAL budget: what `on_budget` says. Only a sink that does not follow is to blame; the others move on by
        themselves."""
        budget, slot = self._settings.wal_budget, self._slot
        if budget is None or slot is None:
            return
        if slot.retained < budget * self._settings.wal_warning:
            self._warned = False
            return
        holding = [worker for worker in self._coordinator.workers if worker.holds and not _follows(worker)]
        if not self._warned:
            self._warned = True
            names = [worker.name for worker in holding]
            log.warning(
                "wal_budget_near", extra={"retained": slot.retained, "budget": budget, "held_by": names}
            )
        if slot.retained < budget or self._settings.on_budget == "hold":
            return
        for worker in holding:
            await self._coordinator.release(worker)
        if self._settings.on_budget == "drop" and not any(map(_follows, self._coordinator.workers)):
            await self._coordinator.drop_slot()


def _state(state: TableState | None) -> str:
    if state is None:
        return "waiting"
    return state.state if state.progress is None else "building"


def _follows(worker: SinkWorker) -> bool:
    return worker.state in (SinkState.STREAMING, SinkState.COPYING, SinkState.OPENING)


def _age(worker: SinkWorker) -> float:
    oldest = worker.inbox.oldest_commit()
    return 0.0 if oldest is None else max(0.0, time.time() - oldest)


def _problem(verdict: Verdict | None) -> Problem | None:
    if verdict is None:
        return None
    return Problem(verdict.code, verdict.message, verdict.remedy, verdict.action.value)
