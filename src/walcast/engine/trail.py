"""The latest batches' way: when each was committed, came over the stream, was taken by a sink, written, and durable there.

For people who watch, and for applications that show how far a copy is: some hundred entries a sink, in memory alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from walcast.model import Batch, Lsn

KEPT: Final = 200
_XIDS: Final = 50


@dataclass(slots=True)
class Step:
    """One batch in one sink. Times are Unix times, seconds; `committed` is the last commit's. `xids`: of the first
    transactions in it."""

    through: Lsn
    committed: float | None
    received: float | None
    taken: float
    written: float
    durable: float | None
    transactions: int
    changes: Mapping[str, Mapping[str, int]]
    """Table -> operation -> count."""
    xids: tuple[int, ...] = field(default=())


class Arrivals:
    """When the stream brought what, by the position at its end."""

    def __init__(self) -> None:
        self._times: dict[Lsn, float] = {}

    def note(self, batch: Batch) -> None:
        if batch.kind != "changes" or batch.checkpoint is None:
            return
        self._times[batch.checkpoint.through] = time.time()
        if len(self._times) > KEPT:
            del self._times[next(iter(self._times))]

    def of(self, through: Lsn) -> float | None:
        return self._times.get(through)


class Trail:
    """One sink's latest batches."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._steps: deque[Step] = deque(maxlen=KEPT)
        self._open: list[Step] = []

    def written(self, batch: Batch, taken: float) -> None:
        """A whole batch, or a transaction's last part."""
        if batch.kind != "changes" or batch.checkpoint is None:
            return
        counts = {str(relation.table): batch.counts(relation) for relation in batch.relations}
        through = batch.checkpoint.through
        step = Step(
            through,
            batch.commit_time,
            self._arrivals.of(through),
            taken,
            time.time(),
            None,
            batch.transactions,
            {
                table: {op: count for op, count in ops.items() if count}
                for table, ops in counts.items()
                if any(ops.values())
            },
            tuple(batch.xids[:_XIDS]),
        )
        self._steps.append(step)
        self._open.append(step)

    def durable(self) -> None:
        """All that was written is."""
        now = time.time()
        for step in self._open:
            step.durable = now
        self._open.clear()

    def forget(self) -> None:
        """What is not durable comes again."""
        for step in self._open:
            if step in self._steps:
                self._steps.remove(step)
        self._open.clear()

    def latest(self, limit: int = KEPT) -> list[Step]:
        """Newest first."""
        return list(reversed(self._steps))[:limit]
