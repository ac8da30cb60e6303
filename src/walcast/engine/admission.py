"""Lets opened sinks in: finds the epoch, makes the slot when it is the first time, and applies the rules of `history`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from walcast.engine import failpoints
from walcast.engine.history import (
    Admission,
    Record,
    admit,
    check_adopted,
    check_slot,
    epoch_of,
    may_create_slot,
)
from walcast.engine.ledger import Ledger
from walcast.engine.settings import PipelineSettings
from walcast.engine.statefile import StateFile
from walcast.engine.worker import SinkWorker
from walcast.model import (
    KnowsTimelines,
    Lsn,
    SlotState,
    Source,
    SourceIdentity,
    SourceUnavailable,
    WalcastError,
)

log = logging.getLogger("walcast.engine")


class Admissions:
    """`identity` is the history that the admitted sinks follow; None before the first."""

    def __init__(self, source: Source, ledger: Ledger, state: StateFile, settings: PipelineSettings) -> None:
        self.identity: SourceIdentity | None = None
        self._source = source
        self._ledger = ledger
        self._state = state
        self._settings = settings

    async def decide(self, workers: Sequence[SinkWorker], waiting: Sequence[SinkWorker]) -> None:
        """Admits or refuses those that wait. Raises OperatorError or SlotLost when nobody can go on."""
        source = self._source
        records = {worker: self._record(worker) for worker in workers if worker.record is not None}
        slot = await source.slot()
        position = await self._position(list(records.values()))
        source.epoch = self._epoch(list(records.values()), position)
        if slot is None:
            followers = [record for worker, record in records.items() if not self._anew(worker, record)]
            may_create_slot(followers, source.identity)
            slot = await self._create_slot()
            self._ledger.confirmed = slot.confirmed or Lsn(0)
        check_slot(slot)
        check_adopted(slot, records.values(), self._state.slot_is_ours, self._settings.adopt_slot)
        if self.identity != source.identity:
            self._ledger.confirmed = slot.confirmed or Lsn(0)
        self.identity = source.identity
        for worker in waiting:
            try:
                worker.admit(await self._judge(worker, records[worker], slot, position))
            except WalcastError as error:
                worker.refuse(error)

    async def taken_up(self, name: str) -> None:
        """The sink's journal has its admission: what was asked for it is done with."""
        await self._state.know([name])
        await self._state.anew_done(name)

    async def _position(self, records: Sequence[Record]) -> Lsn:
        """Where the source is. One that is behind a copy gets a moment: a standby that has just started may still
        replay what the copy has."""
        deadline = time.monotonic() + self._settings.backoff_most
        while True:
            position = await self._source.position()
            ahead = any(self._ahead(record, position) for record in records)
            if not ahead or time.monotonic() >= deadline:
                return position
            await asyncio.sleep(min(0.1, self._settings.backoff_most))

    def _ahead(self, record: Record, position: Lsn) -> bool:
        """Whether a copy of this very history holds what the source does not have."""
        if (
            record.history is None
            or record.checkpoint is None
            or not record.history.same(self._source.identity)
        ):
            return False
        return record.checkpoint.epoch >= record.history.since and record.checkpoint.through > position

    def _epoch(self, records: Sequence[Record], position: Lsn) -> int:
        histories = [record.history for record in records if record.history is not None]
        checkpoints = [record.checkpoint for record in records if record.checkpoint is not None]
        found = epoch_of(self._source.identity, histories, checkpoints)
        epoch = found if self.identity != self._source.identity else max(found, self._source.epoch)
        # Positions that went back within a history: what is copied anew must not pass for older than what was there.
        back = any(self._ahead(r, position) and r.checkpoint and r.checkpoint.epoch == epoch for r in records)
        return epoch + back

    def _record(self, worker: SinkWorker) -> Record:
        assert worker.record is not None
        return replace(worker.record, known=self._state.knows(worker.name))

    def _anew(self, worker: SinkWorker, record: Record) -> bool:
        """Whether everything in it will be copied again, so that it does not need the old slot."""
        if self._state.wants_all_anew(worker.name):
            return True
        system_id = self._source.identity.system_id
        other = record.history is not None and record.history.system_id != system_id
        return other and self._settings.new_history == "resnapshot"

    async def _judge(self, worker: SinkWorker, record: Record, slot: SlotState, position: Lsn) -> Admission:
        history, source = record.history, self._source
        left = None
        if history is not None and not history.same(source.identity) and isinstance(source, KnowsTimelines):
            left = await source.timeline_end(history.timeline)
        admission = admit(
            record,
            source.identity,
            source.epoch,
            slot,
            position,
            left_at=left,
            anew=self._state.wants_all_anew(worker.name),
            resnapshot=self._settings.new_history == "resnapshot",
            switch=self._state.switch,
        )
        return replace(admission, anew=tuple(self._state.wants_anew(worker.name)))

    async def _create_slot(self) -> SlotState:
        # Noted first: a crash in between must not leave a slot that nobody knows.
        await self._state.slot_ours("creating")
        lsn = await self._source.create_slot()
        if failpoints.active:
            await failpoints.passed("slot.created")
        await self._state.slot_ours("made")
        log.info("slot_made", extra={"at": str(lsn)})
        slot = await self._source.slot()
        if slot is None:
            raise SourceUnavailable("the slot that was just made is gone")
        return slot
