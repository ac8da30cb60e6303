"""The demo's acts: start servers, load, replicate while a shop is at work, stop, compare."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from walcast.app.demo.application import DATABASE, Application
from walcast.app.demo.compare import (
    Comparison,
    DuckDBCopy,
    HandlerCopy,
    JsonLinesCopy,
    compare_postgres,
    compare_rows,
)
from walcast.app.demo.screen import Screen
from walcast.app.demo.workload import Shop, change_schema, load
from walcast.engine import Pipeline, PipelineSettings, PipelineStatus
from walcast.model import Relation
from walcast.model.secret import Secret
from walcast.postgres.catalog import describe_relations
from walcast.postgres.connect import connect
from walcast.postgres.local import LocalServer
from walcast.postgres.published import published_tables
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.postgres.wanted import ensure_wanted
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig
from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig

CHECK_SECONDS = 10.0
_CATCH_UP = 60.0


@dataclass(slots=True)
class Stage:
    """Everything the demo runs."""

    folder: Path
    source_dsn: str
    copy_dsn: str
    handled: HandlerCopy
    pipeline: Pipeline
    shop: Shop
    application: Application | None = None
    """What runs beside it, and is to be announced: a checked one says nothing before its end."""
    check: bool = False


async def run_demo(*, check: bool, seconds: float | None = None, application: Path | None = None) -> bool:
    """Plays it, with the application of a folder beside it. Returns whether every copy was found equal."""
    begin = time.monotonic()
    say = _say(quiet=False)
    limit = seconds if seconds is not None else (CHECK_SECONDS if check else None)
    found: dict[str, Any] | None = None
    async with _stage(say, application, check=check) as stage:
        stop = asyncio.Event()
        with _on_signal(stop):
            status = await _act(stage, say, stop, limit, live=not check and sys.stdout.isatty())
            say("the workload has stopped; every copy is compared with the source, row by row")
            results = await _compare(stage)
            if check and stage.application is not None:
                found = await stage.application.says()
    summary = _summary(results, status, stage.shop, time.monotonic() - begin)
    if found is not None:
        summary |= {"ok": bool(summary["ok"] and found["ok"]), "application": found}
    if check:
        print(json.dumps(summary))
    else:
        _print_results(results, status)
    return bool(summary["ok"])


@contextlib.asynccontextmanager
async def _stage(say: Any, application: Path | None, *, check: bool) -> AsyncIterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="walcast-demo-"))
    try:
        say("starting two PostgreSQL 18 servers: a source and a copy")
        async with contextlib.AsyncExitStack() as stack:
            source = stack.enter_context(LocalServer(18, settings={"max_wal_size": "1GB"}))
            copy = stack.enter_context(LocalServer(18))
            source.execute("create database shop")
            beside = None
            if application is not None:
                source.execute(f"create database {DATABASE}")
                beside = await stack.enter_async_context(
                    _beside(application, folder, source.dsn(DATABASE), say, check=check)
                )
            source_dsn, copy_dsn = source.dsn("shop"), copy.dsn("postgres")
            say(
                "loading a shop: customers, products, orders (partitioned), order lines, audit, carts, curiosities"
            )
            await load(source_dsn)
            config = SourceConfig(
                dsn=Secret(source_dsn),
                name="demo",
                include=("shop.*",),
                publish_via_partition_root=True,
                spool_dir=str(folder),
            )
            async with await connect(config.dsn, application="walcast:demo") as connection:
                await ensure_wanted(connection, config)
            handled = HandlerCopy()
            yield Stage(
                folder,
                source_dsn,
                copy_dsn,
                handled,
                _pipeline(config, folder, copy_dsn, handled),
                Shop(source_dsn),
                beside,
                check,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _beside(
    application: Path, folder: Path, dsn: str, say: Any, *, check: bool
) -> AsyncIterator[Application]:
    opened = Application(application, folder / "application.log", say)
    try:
        await opened.open(dsn, check=check)
        yield opened
    finally:
        await opened.close()


def _pipeline(config: SourceConfig, folder: Path, copy_dsn: str, handled: HandlerCopy) -> Pipeline:
    handlers = Handlers()
    handlers.on("*")(handled.handle)
    return Pipeline(
        PostgresSource(config),
        {
            "postgres": lambda context: PostgresSink(PostgresSinkConfig(dsn=Secret(copy_dsn)), context),
            "duckdb": lambda context: DuckDBSink(DuckDBSinkConfig(path=folder / "copy.duckdb"), context),
            "jsonl": lambda context: JsonLinesSink(
                JsonLinesSinkConfig(directory=folder / "changes", compress="zstd"), context
            ),
            "handlers": lambda context: HandlerSink(HandlerSinkConfig(handlers=handlers), context),
        },
        folder / "state",
        PipelineSettings(),
        name="demo",
    )


async def _act(
    stage: Stage, say: Any, stop: asyncio.Event, limit: float | None, *, live: bool
) -> PipelineStatus:
    """Replicates while the workload writes; returns the last status."""
    pipeline = stage.pipeline
    say(
        "replicating: a snapshot first, then every change as it commits"
        + ("" if limit else "; Ctrl-C ends it")
    )
    running = asyncio.create_task(pipeline.run())
    at = ""
    if stage.application is not None and not stage.check:
        beside = await stage.application.says()
        at = beside.get("url", f"not there: {beside.get('error')}")
        say(
            f"the social network is {at} (log in as alice); psql '{beside.get('uri')}' reaches its PostgreSQL"
        )
    await stage.shop.open()
    with Screen(pipeline, stage.shop, live=live, beside=at) as screen:
        started = end = None
        changed = False
        while not stop.is_set() and not running.done() and stage.shop.running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.25)
            await screen.update()
            now = time.monotonic()
            if started is None and pipeline.status().ready:
                started, end = now, now + (limit or float("inf"))
                _forget_latencies(pipeline)
            if started is not None and not changed and now > started + (limit or 20.0) / 2:
                changed = True
                await change_schema(stage.source_dsn)
                screen.note("The schema changed: customers.loyalty added, order_lines.line widened.")
            if end is not None and now > end:
                break
    await stage.shop.close()
    if running.done():
        await running
    try:
        await pipeline.wait_for(await pipeline.source.position(), timeout=_CATCH_UP)
    except TimeoutError:
        say(f"not every copy caught up within {_CATCH_UP:.0f} s")
    finally:
        status = await pipeline.observe()
        pipeline.stop()
        await running
    return status


def _forget_latencies(pipeline: Pipeline) -> None:
    """Lag counts from when every copy follows the stream: what was written during the snapshot had to wait for it."""
    for sink in pipeline.status().sinks:
        pipeline.metrics.histogram("walcast_latency_seconds", sink.name).recent.clear()


async def _compare(stage: Stage) -> dict[str, Comparison]:
    async with await connect(stage.source_dsn, application="walcast:demo") as source:
        published = await published_tables(source, "walcast")
        described = await describe_relations(source, [item.oid for item in published.values()])
        relations: list[Relation] = list(described.values())
        duckdb = DuckDBCopy(stage.folder / "copy.duckdb")
        jsonl = JsonLinesCopy(stage.folder / "changes", relations)
        try:
            return {
                "postgres": await compare_postgres(source, stage.copy_dsn, relations),
                "duckdb": await compare_rows(source, relations, duckdb.rows, duckdb.reading),
                "jsonl": await compare_rows(source, relations, jsonl.rows, jsonl.reading),
                "handlers": await compare_rows(source, relations, stage.handled.rows, stage.handled.reading),
            }
        finally:
            duckdb.close()


def _summary(
    results: dict[str, Comparison], status: PipelineStatus, shop: Shop, seconds: float
) -> dict[str, Any]:
    def milliseconds(value: float | None) -> float | None:
        return None if value is None else round(value * 1000, 1)

    sinks = []
    for name, result in results.items():
        sink = status.sink(name)
        line: dict[str, Any] = {
            "name": name,
            "rows": result.rows,
            "equal": result.equal,
            "lag_ms_p50": milliseconds(sink.latency[0]),
            "lag_ms_p99": milliseconds(sink.latency[1]),
        }
        if result.difference is not None:
            line["difference"] = f"{result.difference.table}: {result.difference.what}"
        if sink.stopped_tables:
            line["stopped"] = [f"{table.table}: {table.reason}" for table in sink.stopped_tables]
        sinks.append(line)
    return {
        "ok": all(result.equal for result in results.values()),
        "seconds": round(seconds, 1),
        "changes": max(sink.rows for sink in status.sinks),
        "transactions": shop.transactions,
        "sinks": sinks,
    }


def _print_results(results: dict[str, Comparison], status: PipelineStatus) -> None:
    for name, result in results.items():
        if result.difference is None:
            print(f"{name}: equal, {result.rows:,} rows")
        else:
            print(f"{name}: NOT equal: {result.difference.table}: {result.difference.what}")
        for table in status.sink(name).stopped_tables:
            print(f"{name}: {table.table} is stopped: {table.reason}")


@contextlib.contextmanager
def _on_signal(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _say(*, quiet: bool) -> Any:
    def say(text: str) -> None:
        if not quiet:
            print(f"demo: {text}", file=sys.stderr, flush=True)

    return say
