"""A sink that fails on request: wrapped around any other, at named points, by script or by chance with a seed.

    faults = Faults(script={"write.after": {3: "fail"}})
    sink = FaultySink(MemorySink(store), faults)          # the third write succeeds and says that it failed

Points: open, checkpoint, prepare, write.before, write.after, flush.before, flush.after, close.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from walcast.model import (
    Batch,
    Checkpoint,
    Durability,
    KeepsJournal,
    OperatorError,
    Relation,
    Sink,
    SinkUnavailable,
)

Fault = Literal["fail", "stall", "stop"]
POINTS = (
    "open",
    "checkpoint",
    "prepare",
    "write.before",
    "write.after",
    "flush.before",
    "flush.after",
    "close",
)


class Faults:
    """What goes wrong and when. Shared by all openings of a sink, so that the counts go on.

    Parameters
    ----------
    script
        by point: at which passage (from 1) what happens: `fail` raises SinkUnavailable, `stop` OperatorError,
        `stall` waits for `resume`
    rate
        the probability of `fail` at each passage of the other points in `points`
    """

    def __init__(
        self,
        *,
        script: Mapping[str, Mapping[int, Fault]] | None = None,
        rate: float = 0.0,
        points: Sequence[str] = POINTS,
        seed: int = 0,
    ) -> None:
        unknown = set(script or {}) - set(POINTS)
        if unknown:
            raise ValueError(f"no such point: {', '.join(sorted(unknown))}; points: {', '.join(POINTS)}")
        self.passed: dict[str, int] = dict.fromkeys(POINTS, 0)
        self.stalled = asyncio.Event()
        """Set once a call stalls."""
        self._script = {point: dict(plan) for point, plan in (script or {}).items()}
        self._rate = rate
        self._points = frozenset(points)
        self._random = random.Random(seed)
        self._resumed = asyncio.Event()

    def resume(self) -> None:
        """Lets stalled calls go on."""
        self._resumed.set()

    def heal(self) -> None:
        """No more faults."""
        self._script.clear()
        self._rate = 0.0
        self.resume()

    async def at(self, point: str) -> None:
        """A passage of the point."""
        self.passed[point] += 1
        fault = self._script.get(point, {}).get(self.passed[point])
        if fault is None and self._rate and point in self._points and self._random.random() < self._rate:
            fault = "fail"
        if fault == "fail":
            raise SinkUnavailable(f"fault injected at {point}")
        if fault == "stop":
            raise OperatorError(f"fault injected at {point}", hint="heal the faults")
        if fault == "stall":
            self.stalled.set()
            await self._resumed.wait()


class FaultySink:
    """Does what the wrapped sink does, until its faults say otherwise. Has a journal when the wrapped sink has."""

    def __init__(self, inner: Sink, faults: Faults) -> None:
        self.inner = inner
        self.faults = faults
        if isinstance(inner, KeepsJournal):
            self.journal = inner.journal

    async def __aenter__(self) -> Self:
        await self.faults.at("open")
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.inner.__aexit__(*exc)
        await self.faults.at("close")

    @property
    def keeps_checkpoint(self) -> bool:
        return self.inner.keeps_checkpoint

    async def checkpoint(self) -> Checkpoint | None:
        await self.faults.at("checkpoint")
        return await self.inner.checkpoint()

    async def prepare(self, relation: Relation) -> None:
        await self.faults.at("prepare")
        await self.inner.prepare(relation)

    async def write(self, batch: Batch) -> Durability:
        await self.faults.at("write.before")
        durability = await self.inner.write(batch)
        await self.faults.at("write.after")
        return durability

    async def flush(self) -> None:
        await self.faults.at("flush.before")
        await self.inner.flush()
        await self.faults.at("flush.after")
