"""The one invariant: a sink is durable, then its checkpoint is saved, then the slot is confirmed.

    confirmed <= saved <= durable, for every sink that holds the slot, always

The ledger keeps the three for each sink and says how far the slot may be confirmed. Nothing else decides that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from walcast.model import Checkpoint, FatalError, Lsn

_Order = tuple[int, int]


@dataclass(slots=True)
class Entry:
    """One sink's line. `floor` is where it began: it counts until there is a checkpoint."""

    floor: Lsn | None = None
    durable: Checkpoint | None = None
    saved: Checkpoint | None = None
    holds: bool = True
    waiting: list[tuple[Lsn, asyncio.Future[None]]] = field(default_factory=list)

    @property
    def through(self) -> Lsn | None:
        """Up to where this sink lets the slot go; None: not known yet, so nowhere."""
        return self.saved.through if self.saved is not None else self.floor


class Ledger:
    """The lines of all sinks. `moved` is set whenever the slot may be confirmed further."""

    def __init__(self, names: list[str]) -> None:
        self.entries = {name: Entry() for name in names}
        self.confirmed = Lsn(0)
        self.moved = asyncio.Event()

    def join(self, name: str, floor: Lsn, checkpoint: Checkpoint | None) -> None:
        """A sink was opened: what it has is what its target said, which may be less than it had claimed."""
        entry = self.entries[name]
        entry.floor, entry.holds = floor, True
        entry.saved = entry.durable = checkpoint
        self._wake(entry)

    def durable(self, name: str, checkpoint: Checkpoint) -> None:
        """All up to the checkpoint survives the target's crash."""
        entry = self.entries[name]
        if entry.durable is None or _order(checkpoint) > _order(entry.durable):
            entry.durable = checkpoint
        self._wake(entry)

    def saved(self, name: str, checkpoint: Checkpoint) -> None:
        """The checkpoint itself is durable. Raises FatalError when its data is not."""
        entry = self.entries[name]
        if entry.durable is None or _order(checkpoint) > _order(entry.durable):
            raise FatalError(f"sink {name}: checkpoint {checkpoint} was saved before its data was durable")
        if entry.saved is None or _order(checkpoint) > _order(entry.saved):
            entry.saved = checkpoint
            self.moved.set()

    def release(self, name: str) -> None:
        """This sink no longer holds the slot: what it misses will be copied anew."""
        self.entries[name].holds = False
        self.moved.set()

    def confirmable(self) -> Lsn | None:
        """How far the slot may be confirmed; None when no further than it is."""
        held = [entry.through for entry in self.entries.values() if entry.holds]
        if not held:
            return None
        least = min((through if through is not None else Lsn(0)) for through in held)
        return least if least > self.confirmed else None

    async def reached(self, name: str, token: Lsn) -> None:
        """Returns when the sink is durable through the token."""
        entry = self.entries[name]
        if entry.durable is not None and entry.durable.through >= token:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (token, future)
        entry.waiting.append(waiter)
        try:
            await future
        finally:
            if waiter in entry.waiting:
                entry.waiting.remove(waiter)

    def _wake(self, entry: Entry) -> None:
        if entry.waiting and entry.durable is not None:
            through = entry.durable.through
            for token, future in entry.waiting:
                if token <= through and not future.done():
                    future.set_result(None)
            entry.waiting = [waiter for waiter in entry.waiting if not waiter[1].done()]


def _order(checkpoint: Checkpoint) -> _Order:
    # An idle checkpoint may carry an older position beside a later `through`: the end is what counts.
    return (checkpoint.epoch, checkpoint.through)
