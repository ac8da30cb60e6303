"""JSON Lines files: one line a change, in commit order, each change once.

    00000007-0000000001A2B3C8-1.jsonl        closed: whole transactions, never written again
    00000008-0000000001A40000-1.jsonl.part   open: whole transactions up to the checkpoint's offset
    .walcast.json                            the checkpoint: position, open file, offset
    .walcast.lock                            held while a sink is open

A file is named by its number and the position of its first change. Making the checkpoint durable is: fsync the open
file, then replace `.walcast.json`. On opening, the open file is cut to the recorded offset, so that what comes again
from the source is not there twice. A transaction that comes in parts lies beyond that offset until it is whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from walcast.model import (
    Batch,
    Checkpoint,
    Durability,
    Lsn,
    Position,
    Relation,
    RetryableError,
    SinkContext,
    TableId,
)
from walcast.sinks.closing import closed
from walcast.sinks.jsonl.config import JsonLinesSinkConfig
from walcast.sinks.jsonl.files import Files

T = TypeVar("T")


class JsonLinesSink:
    """Appends every change to files in a directory. Exactly once: the checkpoint says how much of the open file counts.

    A snapshot of a table that the files already mention begins with a truncate line of ordinal 0: who applies the
    lines in order has what the source has.
    """

    keeps_checkpoint = True

    def __init__(self, config: JsonLinesSinkConfig, context: SinkContext) -> None:
        self._files = Files(config, f"{context.pipeline}/{context.sink}")
        self._every_batch = config.fsync == "batch"
        self._worker = ThreadPoolExecutor(1, "walcast-jsonl")
        self._next_part = 0

    async def __aenter__(self) -> Self:
        try:
            await self._call(self._files.open)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await closed(self._worker, self._files.close)

    async def checkpoint(self) -> Checkpoint | None:
        return self._files.durable.checkpoint

    async def prepare(self, relation: Relation) -> None:
        """Nothing to make: lines carry their columns' names."""

    async def write(self, batch: Batch) -> Durability:
        return await self._call(self._write, batch)

    async def flush(self) -> None:
        await self._call(self._files.sync)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)

    def _write(self, batch: Batch) -> Durability:
        files = self._files
        # A stream that was opened again repeats what was accepted and is not durable yet.
        rest = batch.after(files.reached, {})
        if rest is not None:
            self._add(rest)
            if self._every_batch:
                files.sync()
        return Durability.DURABLE if files.synced and not self._next_part else Durability.ACCEPTED

    def _add(self, batch: Batch) -> None:
        files = self._files
        if batch.kind == "changes":
            self._follow_parts(batch)
        elif batch.kind == "snapshot" and (batch.part is None or batch.part.number == 0):
            for relation in batch.relations:
                if relation.table in files.tables:
                    files.append(self._emptied(batch, relation.table), lambda: self._first(batch))
        if len(batch):
            files.append(batch.json_lines(), lambda: self._first(batch))
            files.tables.update(r.table for r in batch.relations if any(batch.counts(r).values()))
        if not self._next_part:
            files.whole(batch.checkpoint)

    def _follow_parts(self, batch: Batch) -> None:
        number = batch.part.number if batch.part is not None else 0
        if number != self._next_part:
            raise RetryableError(
                "a transaction broke off between its parts; it has to come again from the first"
            )
        self._next_part = number + 1 if batch.part is not None and not batch.part.last else 0
        self._files.growing = bool(self._next_part)

    def _first(self, batch: Batch) -> Position:
        for change in batch.raw():
            return Position(Lsn(change.commit_lsn), change.ordinal)
        reached = self._files.reached
        return Position(reached.through if reached is not None else Lsn(0), 0)

    def _emptied(self, batch: Batch, table: TableId) -> bytes:
        lsn = str(self._first(batch).commit_lsn)
        line = {"op": "truncate", "schema": table.schema, "table": table.name, "lsn": lsn, "ordinal": 0}
        return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
