"""Where a pipeline may begin: what the copies, the slot and the source say, and what follows. No input or output here.

A checkpoint means something only in the history (system identifier, timeline) that it was made in, and only while
the slot still has everything after it. Whatever does not fit is an operator error with its remedy: never a fresh
start, and never a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from walcast.model import (
    Checkpoint,
    Lsn,
    OperatorError,
    Position,
    SlotLost,
    SlotState,
    SourceIdentity,
    TableId,
)

HISTORY = "history"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class History:
    """What a sink's journal remembers of its source. Checkpoints from before (`since`, `floor`) do not count: the copy
    was begun there. `epoch` is the source's when last seen."""

    system_id: int
    timeline: int
    epoch: int
    since: int
    floor: Lsn

    def as_json(self) -> dict[str, Any]:
        # The system identifier is beyond what every JSON reader holds exactly.
        return {
            "system_id": str(self.system_id),
            "timeline": self.timeline,
            "epoch": self.epoch,
            "since": self.since,
            "floor": str(self.floor),
        }

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> History | None:
        if value is None:
            return None
        return cls(
            int(value["system_id"]),
            value["timeline"],
            value["epoch"],
            value["since"],
            Lsn.parse(value["floor"]),
        )

    def same(self, identity: SourceIdentity) -> bool:
        return self.system_id == identity.system_id and self.timeline == identity.timeline


@dataclass(frozen=True, slots=True)
class Record:
    """What an opened sink says of itself. `known`: this state directory has seen it take part before. `shown`: up to where
    it has read the source again, in its history or one that followed."""

    name: str
    checkpoint: Checkpoint | None
    history: History | None
    known: bool = False
    shown: Lsn | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """A planned move to another server that has the same rows: whoever has `source` up to `fence` goes on at the new
    slot of `target`, at `at`. `target` is None while only the draining is done."""

    source: int
    fence: Lsn
    target: int | None = None
    at: Lsn | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "fence": str(self.fence),
            "target": None if self.target is None else str(self.target),
            "at": None if self.at is None else str(self.at),
        }

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Switch | None:
        if value is None:
            return None
        return cls(
            int(value["source"]),
            Lsn.parse(value["fence"]),
            int(value["target"]) if value["target"] else None,
            Lsn.parse(value["at"]) if value["at"] else None,
        )


@dataclass(frozen=True, slots=True)
class Admission:
    """Where a sink goes on. `fresh`: whatever it has is copied anew; `anew`: these tables are; `moved`: the source is
    another server with the same rows; `doubted`: it may have read what the source has lost since."""

    checkpoint: Checkpoint | None
    history: History
    fresh: bool
    anew: tuple[TableId, ...] = ()
    moved: bool = False
    doubted: bool = False

    @property
    def floor(self) -> Lsn:
        return self.history.floor


def epoch_of(
    identity: SourceIdentity, histories: Iterable[History], checkpoints: Iterable[Checkpoint]
) -> int:
    """The epoch of this history: the highest known, one more when the source is on another history than that one's."""
    known = sorted(histories, key=lambda history: history.epoch)
    least = max((checkpoint.epoch for checkpoint in checkpoints), default=1)
    if not known:
        return least
    latest = known[-1]
    return max(latest.epoch if latest.same(identity) else latest.epoch + 1, least)


def may_create_slot(records: Iterable[Record], identity: SourceIdentity) -> None:
    """The slot is absent. Raises SlotLost when a sink has followed it: what it missed since is gone; OperatorError when
    that was at another system."""
    begun = []
    for record in records:
        history = record.history
        if history is not None and history.system_id != identity.system_id:
            raise _other_history(record.name, _unsound(history, identity, None, None) or "")
        if history is not None or record.checkpoint is not None:
            begun.append(record.name)
    if begun:
        raise SlotLost(
            f"the slot is gone, but {_sinks(begun)} followed it: the changes since are lost",
            hint="copy the tables anew: `walcast resync --all`, which makes a new slot; find out who dropped it",
        )


def check_slot(slot: SlotState) -> None:
    """Raises SlotLost when the server will not go on with this slot."""
    if slot.wal_status == "lost" or slot.invalidation:
        raise SlotLost(
            f"slot {slot.name} was invalidated by the server ({slot.invalidation or 'its WAL was removed'})",
            hint="raise max_slot_wal_keep_size, drop the slot (`walcast slot drop`), then `walcast resync --all`",
        )


def check_adopted(slot: SlotState, records: Iterable[Record], ours: bool, adopt: bool) -> None:
    """A slot that nothing here knows: somebody's, or ours with its state directory lost. Raises OperatorError."""
    if ours or adopt or any(record.history is not None for record in records):
        return
    raise OperatorError(
        f"slot {slot.name} exists, but no checkpoint belongs to it",
        hint="restore the state directory; or drop the slot (`walcast slot drop`); or, to follow it and copy every"
        " table anew, set adopt_slot",
    )


def admit(
    record: Record,
    identity: SourceIdentity,
    epoch: int,
    slot: SlotState,
    position: Lsn,
    *,
    left_at: Lsn | None,
    anew: bool,
    resnapshot: bool,
    switch: Switch | None = None,
) -> Admission:
    """Where this sink goes on. `position`: where the source is now; `left_at`: where it left the timeline that the sink
    knows, if it can tell.

    `anew`: copying everything again was asked for, or the sink was let go. `resnapshot`: do so when the source's
    history is another one, instead of raising. Raises OperatorError, SlotLost.
    """
    confirmed = slot.confirmed or Lsn(0)
    fresh = History(identity.system_id, identity.timeline, epoch, epoch, confirmed)
    history = record.history
    if history is None:
        if not anew and (record.known or record.checkpoint is not None):
            raise _missing(record.name, slot)
        return Admission(None, fresh, True)
    checkpoint = _counting(record.checkpoint, history)
    doubted = False
    if switch is not None and switch.source == history.system_id and switch.target == identity.system_id:
        return _moved(record.name, history, checkpoint, fresh, switch, slot, anew=anew)
    if not history.same(identity):
        reason = _unsound(history, identity, checkpoint, left_at)
        if reason is not None:
            if not (resnapshot or anew):
                raise _other_history(record.name, reason)
            return Admission(None, fresh, True)
        doubted = record.shown is not None and left_at is not None and record.shown > left_at
        history = replace(history, timeline=identity.timeline)
    history = replace(history, epoch=epoch)
    if checkpoint is not None:
        checkpoint = Checkpoint(epoch, checkpoint.position, checkpoint.through)
    at = history.floor if checkpoint is None else checkpoint.through
    if at > position:
        if not (resnapshot or anew):
            raise _gone_back(record.name, at, position)
        return Admission(None, fresh, True)
    if confirmed <= at:
        return Admission(checkpoint, history, anew, doubted=doubted)
    if anew:
        return Admission(None, fresh, True)
    if checkpoint is None:
        raise _missing(record.name, slot)
    raise SlotLost(
        f"slot {slot.name} is at {slot.confirmed}, past sink {record.name} at {at}: the changes between are lost",
        hint=f"copy its tables anew: `walcast resync --all --sink {record.name}`; find out who moved or re-created the slot",
    )


def _moved(
    name: str,
    history: History,
    checkpoint: Checkpoint | None,
    fresh: History,
    switch: Switch,
    slot: SlotState,
    *,
    anew: bool,
) -> Admission:
    """After `walcast switch`: from the new slot on, if the sink had everything by then."""
    if anew:
        return Admission(None, fresh, True)
    at = history.floor if checkpoint is None else checkpoint.through
    if at < switch.fence:
        raise OperatorError(
            f"sink {name} is at {at}, and the old source was drained to {switch.fence} without it",
            hint=f"copy its tables anew: `walcast resync --all --sink {name}`",
        )
    if switch.at is None or (slot.confirmed or Lsn(0)) > switch.at:
        raise SlotLost(
            f"slot {slot.name} is at {slot.confirmed}, past {switch.at}, where the copies switch over",
            hint=f"copy its tables anew: `walcast resync --all --sink {name}`; find out who moved or re-created the slot",
        )
    return Admission(None, replace(fresh, floor=switch.at), False, moved=True)


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "epoch": checkpoint.epoch,
        "commit_lsn": str(checkpoint.position.commit_lsn),
        "ordinal": checkpoint.position.ordinal,
        "through": str(checkpoint.through),
    }


def checkpoint_of(value: Mapping[str, Any] | None) -> Checkpoint | None:
    if value is None:
        return None
    position = Position(Lsn.parse(value["commit_lsn"]), value["ordinal"])
    return Checkpoint(value["epoch"], position, Lsn.parse(value["through"]))


def _counting(checkpoint: Checkpoint | None, history: History) -> Checkpoint | None:
    if checkpoint is None or (checkpoint.epoch, checkpoint.through) < (history.since, history.floor):
        return None
    return checkpoint


def _unsound(
    history: History, identity: SourceIdentity, checkpoint: Checkpoint | None, left_at: Lsn | None
) -> str | None:
    """Why the sink cannot go on in this history; None when it can: the new timeline holds all that the copy holds."""
    if history.system_id != identity.system_id:
        return f"system {identity.system_id}, the copy is of system {history.system_id}"
    at = history.floor if checkpoint is None else checkpoint.through
    if identity.timeline > history.timeline and left_at is not None:
        if at <= left_at:
            return None
        return f"timeline {identity.timeline}, which left the copy's at {left_at}; the copy is at {at}"
    return f"timeline {identity.timeline}, the copy is of timeline {history.timeline}"


def _other_history(name: str, reason: str) -> OperatorError:
    return OperatorError(
        f"sink {name}: the source is now on another history ({reason})",
        hint=f"check the DSN; if it is right, copy the tables anew: `walcast resync --all --sink {name}`",
    )


def _gone_back(name: str, at: Lsn, position: Lsn) -> OperatorError:
    return OperatorError(
        f"sink {name} is at {at}, but the source only at {position}: it was restored to an earlier state",
        hint=f"what the copy has and the source lost is to be decided by you; then copy the tables anew:"
        f" `walcast resync --all --sink {name}`",
    )


def _missing(name: str, slot: SlotState) -> OperatorError:
    return OperatorError(
        f"the checkpoint of sink {name} is missing, but slot {slot.name} has moved on to {slot.confirmed}",
        hint=f"restore the sink's target or state directory; or copy its tables anew: `walcast resync --all --sink {name}`",
    )


def _sinks(names: list[str]) -> str:
    return ("sink " if len(names) == 1 else "sinks ") + ", ".join(names)
