"""The least pipeline: it gives a sink its batches as the real one does, and breaks off where a test says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from walcast.model import Batch, Checkpoint, Durability, Lsn, Relation, Sink, TableId

Step = Literal["prepare", "write", "flush", "save"]
STEPS: tuple[Step, ...] = ("prepare", "write", "flush", "save")


class Crash(Exception):
    """The process ends here: nothing is flushed, saved or said goodbye to."""


@dataclass
class Driver:
    """Sessions of one sink. `saved` is what a pipeline's state_dir would hold; `starts` the start LSN of each snapshot."""

    make: Callable[[], AbstractAsyncContextManager[Sink]]
    saved: Checkpoint | None = None
    starts: dict[TableId, Lsn] = field(default_factory=dict)
    lazy: Random | None = None
    """Flushes now and then only, as a pipeline does; None: after every batch."""

    async def deliver(self, batches: Sequence[Batch], crash: tuple[int, Step] | None = None) -> None:
        """One session: opens the sink, gives it what it does not have yet, flushes.

        `crash`: in which batch, after which step. Raises Crash there, also when the sink had the batch already.
        """
        async with self.make() as sink:
            held = await self.held(sink)
            prepared: dict[int, Relation] = {}
            for number, batch in enumerate(batches):
                rest = batch.after(held, self.starts)
                if rest is not None:
                    last = number == len(batches) - 1
                    flush = last or self.lazy is None or self.lazy.random() < 0.3
                    await self._one(sink, rest, prepared, _breaks(crash, number), flush)
                if crash is not None and crash[0] == number:
                    raise Crash

    async def snapshot(
        self, table: TableId, start: Lsn, chunks: Sequence[Batch], crash: int | None = None
    ) -> None:
        """Copies a table from its first chunk. `crash`: after which chunk."""
        async with self.make() as sink:
            self.starts[table] = start
            prepared: dict[int, Relation] = {}
            for number, chunk in enumerate(chunks):
                await self._prepare(sink, chunk, prepared)
                await sink.write(chunk)
                if number == crash:
                    raise Crash
            await sink.flush()

    async def held(self, sink: Sink) -> Checkpoint | None:
        return await sink.checkpoint() if sink.keeps_checkpoint else self.saved

    async def _one(
        self,
        sink: Sink,
        batch: Batch,
        prepared: dict[int, Relation],
        passed: Callable[[Step], None],
        flush: bool,
    ) -> None:
        await self._prepare(sink, batch, prepared)
        passed("prepare")
        durability = await sink.write(batch)
        passed("write")
        if batch.part is not None and not batch.part.last:
            assert durability is Durability.ACCEPTED, "a part of a transaction cannot be durable"
            return
        if durability is Durability.ACCEPTED:
            if not flush:
                return
            await sink.flush()
        passed("flush")
        self.saved = batch.checkpoint or self.saved
        if sink.keeps_checkpoint and batch.checkpoint is not None:
            assert await sink.checkpoint() == batch.checkpoint, "a flushed checkpoint must be in the target"
        passed("save")

    async def _prepare(self, sink: Sink, batch: Batch, prepared: dict[int, Relation]) -> None:
        for relation in batch.relations:
            carries: Mapping[str, int] = batch.counts(relation)
            if prepared.get(relation.oid) != relation and (any(carries.values()) or batch.kind == "snapshot"):
                await sink.prepare(relation)
                prepared[relation.oid] = relation


def _breaks(crash: tuple[int, Step] | None, number: int) -> Callable[[Step], None]:
    def passed(step: Step) -> None:
        if crash == (number, step):
            raise Crash

    return passed
