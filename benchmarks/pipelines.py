"""Our side of the benchmarks that take a whole pipeline: run in a child process until the sink is durable."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

from walcast.engine import Pipeline, PipelineSettings
from walcast.model import Batch, Checkpoint, Durability, Lsn, Relation, SinkFactory
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig


class NullSink:
    """Takes everything, keeps nothing; at the first batch it stalls for so many seconds, for each it takes `pause`."""

    keeps_checkpoint = False

    def __init__(self, stall: float = 0.0, pause: float = 0.0) -> None:
        self.rows = 0
        self._stall = stall
        self._pause = pause

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def checkpoint(self) -> Checkpoint | None:
        return None

    async def prepare(self, relation: Relation) -> None: ...

    async def write(self, batch: Batch) -> Durability:
        stall, self._stall = self._stall, 0.0
        await asyncio.sleep(stall + self._pause)
        self.rows += len(batch)
        return Durability.DURABLE

    async def flush(self) -> None: ...


def sink_of(kind: str, target: str) -> SinkFactory | NullSink:
    """A sink by its name. `target` is a DSN, a file, a folder, or how long to stall."""
    if kind == "null":
        return NullSink(float(target or 0))

    # Imported here: the memory that a client's library takes is not the other sinks'.
    if kind == "postgres":
        from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig

        return lambda context: PostgresSink(PostgresSinkConfig(dsn=Secret(target)), context)
    if kind == "duckdb":
        from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig

        return lambda context: DuckDBSink(DuckDBSinkConfig(path=Path(target)), context)
    from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig

    return lambda context: JsonLinesSink(JsonLinesSinkConfig(directory=Path(target)), context)


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[asyncio.Task[None]]:
    """The pipeline at work; stopped cleanly at the end. Raises what ended it."""
    task = asyncio.create_task(pipeline.run())
    try:
        yield task
    finally:
        pipeline.stop()
        with suppress(asyncio.CancelledError):
            await task


async def replicate(
    kind: str, target: str, dsn: str, slot: str, publication: str, end: str, rows: int
) -> dict[str, Any]:
    """Streams a backlog to its end: from the start of the pipeline until the sink is durable there."""
    source = PostgresSource(SourceConfig(Secret(dsn), name="bench", slot=slot, publication=publication))
    with tempfile.TemporaryDirectory() as state:
        settings = PipelineSettings(snapshot="never", adopt_slot=True, serve=False)
        sink = sink_of(kind, target)
        pipeline = Pipeline(source, {"copy": sink}, state, settings, name="bench")
        begin = time.perf_counter()
        async with running(pipeline) as task:
            await reached(pipeline, task, Lsn.parse(end))
            seconds = time.perf_counter() - begin
            stats = source.stats()
    if isinstance(sink, NullSink) and sink.rows != rows:
        raise SystemExit(f"{sink.rows} changes came of {rows}")
    return {"seconds": seconds, "rows": rows, **stats}


async def copy(kind: str, target: str, dsn: str, publication: str, workers: int, rows: int) -> dict[str, Any]:
    """Copies the published tables: from the start of the pipeline until the sink has them and follows the stream."""
    config = SourceConfig(
        Secret(dsn), name="bench", slot="bench_copy", publication=publication, snapshot_workers=workers
    )
    source = PostgresSource(config)
    with tempfile.TemporaryDirectory() as state:
        settings = PipelineSettings(serve=False)
        sink = sink_of(kind, target)
        pipeline = Pipeline(source, {"copy": sink}, state, settings, name="bench")
        begin = time.perf_counter()
        async with running(pipeline) as task:
            await reached(pipeline, task, Lsn(1))
            seconds = time.perf_counter() - begin
    return {"seconds": seconds, "rows": rows}


async def reached(pipeline: Pipeline, task: asyncio.Task[None], through: Lsn) -> None:
    """Until the sink is durable there. Raises what ended the pipeline before."""
    waiting = asyncio.ensure_future(pipeline.wait_for(through))
    await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        task.result()
    await waiting
