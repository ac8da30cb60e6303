"""A sink's queue, bounded in bytes, between the stream (or a snapshot) and the sink's worker.

Whole batches that wait are joined when the sink takes the next one: a slow sink, whose cost is by the batch, gets bigger
ones and catches up, and paces nobody before its share of the memory is full.

The inbox knows what the sink has been sent (`received`) and drops what it already has, and it keeps whole batches until
they are durable, so that a sink that fails is sent them again without disturbing the others. The parts of a split
transaction are not kept: after a failure among them the stream is opened again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator

from walcast.engine.tables import TableBook
from walcast.model import Batch, Checkpoint, Lsn

_MOST_JOINED = 8 << 20
"""Bytes. Batches are joined up to this, or to a quarter of the share: it is a copy, made between two looks around of the
event loop, and a sink that is behind should still say now and then how far it has come."""
_OVERHEAD = 2048
"""Bytes that a waiting batch takes beside its content: small ones may be many."""


class Inbox:
    """`session` is the stream or snapshot that may put batches here; None: detached."""

    def __init__(self, share: int, book: TableBook) -> None:
        self.share = share
        self.book = book
        self.session: object | None = None
        self.received: Checkpoint | None = None
        self.part_open = False
        self.held = 0
        self.unknown = False
        """The stream brought a table that nobody asked about; the coordinator looks and clears it."""
        self.wake = asyncio.Event()
        self.room = asyncio.Event()
        self.progress = time.monotonic()
        self._most_joined = min(share // 4, _MOST_JOINED)
        self._queue: deque[Batch] = deque()
        self._kept: deque[Batch] = deque()
        self._gap = False

    def attach(self, session: object, received: Checkpoint | None) -> None:
        self.session = session
        self.received = received
        self.part_open = False

    def detach(self) -> None:
        """Takes no more; what is queued still goes out."""
        self.session = None
        self.room.set()

    def clear(self) -> None:
        """Drops everything: it will be sent again."""
        self.detach()
        self._queue.clear()
        self._kept.clear()
        self.held = 0
        self._gap = self.part_open = False
        self.progress = time.monotonic()
        self.wake.set()

    # -- the sending side

    def offer(self, session: object, batch: Batch) -> bool:
        """Takes the batch, or what the sink needs of it; False when there is no room (then `wait_room`)."""
        if self.session is not session:
            return True
        mine = self._wanted(batch)
        if mine is not None:
            if self.held and self.held + _size(mine) > self.share:
                return False
            self._queue.append(mine)
            self.held += _size(mine)
            self.wake.set()
        self._advance(batch)
        return True

    async def wait_room(self, session: object, limit: float | None) -> bool:
        """Returns True when something was freed (or the session ended), False when the sink has stalled: no progress
        for `limit` seconds."""
        waited_from = time.monotonic()
        while self.session is session:
            self.room.clear()
            left = None if limit is None else max(self.progress, waited_from) + limit - time.monotonic()
            if left is not None and left <= 0:
                return False
            try:
                async with asyncio.timeout(left):
                    await self.room.wait()
            except TimeoutError:
                continue
            return True
        return True

    def _wanted(self, batch: Batch) -> Batch | None:
        if batch.kind == "snapshot":
            return batch
        checkpoint = batch.checkpoint
        if batch.kind == "idle":
            newer = checkpoint is not None and (
                self.received is None or checkpoint.through > self.received.through
            )
            return batch if newer else None
        for relation in batch.relations:
            if relation.table not in self.book.starts and self.book.unknown(relation.table):
                self.unknown = True
        return batch.after(self.received, self.book.starts)

    def _advance(self, batch: Batch) -> None:
        if batch.kind == "snapshot":
            return
        checkpoint = batch.checkpoint
        self.part_open = batch.part is not None and not batch.part.last
        if checkpoint is None:
            return
        old = self.received
        if old is None or checkpoint.epoch > old.epoch:
            self.received = checkpoint
        elif checkpoint.through > old.through:
            position = max(checkpoint.position, old.position)
            self.received = Checkpoint(checkpoint.epoch, position, checkpoint.through)

    # -- the sink's side

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def splits(self) -> bool:
        """What comes next is a part of a transaction: what was accepted before it is flushed first, since nothing can be
        flushed between parts, and they need the room."""
        return bool(self._queue) and self._queue[0].kind == "changes" and self._queue[0].part is not None

    def reached(self, lsn: Lsn) -> bool:
        """Whether nothing that committed before `lsn` is to come: all of it was taken."""
        if self._queue:
            return self._queue[0].upto(lsn) is None
        return self.received is not None and self.received.through >= lsn

    def _split(self, lsn: Lsn) -> None:
        """Cuts the next batch in two where `lsn` lies within it. What is left of the sink's share counts both."""
        batch = self._queue[0]
        head = batch.upto(lsn)
        if head is None or head is batch:
            return
        rest = batch.after(head.checkpoint, {})
        self._queue[0] = head
        if rest is not None:
            self._queue.insert(1, rest)
        self.held += _size(head) + (0 if rest is None else _size(rest)) - _size(batch)

    def take(self, *, upto: Lsn | None = None) -> Batch:
        """The next batch, joined with those behind it, or what of it committed before `upto`. It counts as held until it is
        durable; a part or chunk until it is written."""
        if upto is not None:
            self._split(upto)
        batch = self._queue.popleft()
        if upto is None:
            batch = self._joined(batch)
        if batch.kind != "snapshot" and batch.part is None:
            self._kept.append(batch)
        else:
            self._gap = True
        return batch

    def written(self, batch: Batch) -> None:
        """The sink took it; parts and chunks are not kept any longer."""
        self.progress = time.monotonic()
        if batch.kind == "snapshot" or batch.part is not None:
            self._free(_size(batch))

    def settled(self) -> None:
        """All that was written is durable."""
        self.progress = time.monotonic()
        freed = sum(map(_size, self._kept))
        self._kept.clear()
        self._gap = False
        self._free(freed)

    def replay(self) -> bool:
        """After a failure: puts back what is not durable. False when that cannot be had from here."""
        if self._gap or self.session is None:
            return False
        self._queue.extendleft(reversed(self._kept))
        self._kept.clear()
        return True

    def oldest_commit(self) -> float | None:
        """Unix time of the oldest commit that is here and not yet durable."""
        return next((batch.commit_time for batch in self._all() if batch.commit_time is not None), None)

    def crowded(self) -> bool:
        """Batches that wait for a flush fill half of the share."""
        return 2 * self.held > self.share

    def _joined(self, first: Batch) -> Batch:
        room = self._most_joined - first.nbytes
        later = []
        for batch in self._queue:
            room -= batch.nbytes
            if room < 0:
                break
            later.append(batch)
        if not later:
            return first
        batch, count = first.join(later)
        for _ in range(count):
            self._queue.popleft()
        self._free(sum(map(_size, (first, *later[:count]))) - _size(batch))
        return batch

    def _all(self) -> Iterator[Batch]:
        yield from self._kept
        yield from self._queue

    def _free(self, nbytes: int) -> None:
        self.held = max(0, self.held - nbytes)
        self.room.set()


def _size(batch: Batch) -> int:
    return batch.nbytes + _OVERHEAD
