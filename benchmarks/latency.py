"""Commit to handler at 1,000 transactions a second; against a bare reader that blocks on the same kind of stream.

A transaction is one row; it counts from its commit record's time (as Begin says it, the server's clock, which is ours)
to the call of the handler, or to when the bare reader has its Commit message. Writers wait for the disk: a commit is
sent when it is flushed. The two take turns, each with its own writers.
"""

from __future__ import annotations

import asyncio
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from psycopg import pq
from psycopg.pq.abc import PGconn

from benchmarks import workloads
from benchmarks.harness import Contest, Plan, Run, child, percentile
from benchmarks.pipelines import NullSink, running
from benchmarks.servers import server
from walcast.engine import Pipeline, PipelineSettings
from walcast.model import Change, Lsn, SinkContext
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig

_RATE: Final = 1000
_WRITERS: Final = 4
_SECONDS: Final = 5.0
_WARM: Final = 0.5
"""Seconds at the beginning that do not count."""
_EPOCH: Final = 946_684_800_000_000
_STATUS: Final = struct.Struct(">cQQQQB")


def contests(plan: Plan) -> Iterator[Contest]:
    seconds = max(1.0, _SECONDS * plan.scale)
    lines = [
        (
            way,
            Contest(
                f"latency: commit to handler, {_RATE:,} tx/s, {way}",
                "bare reader",
                "p50 +1 ms, p99 10 ms",
                "p99 50 ms",
            ),
        )
        for way in ("tcp", "socket")
    ]
    beside = Contest(
        f"latency: commit to handler, {_RATE:,} tx/s, beside a sink that takes 100 ms a batch",
        "alone",
        "-",
        "-",
    )
    if not any(plan.wants(line.name) for line in [beside, *(line for _, line in lines)]):
        return
    with server() as source:
        source.execute(workloads.create("ticks"))
        source.execute("create publication ticks for table ticks")
        serial = iter(range(1000))

        def run(reader: str, dsn: str, **more: Any) -> Run:
            slot = f"ticks_{next(serial)}"
            source.execute("truncate ticks")
            source.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
            made = child(f"benchmarks.latency:{reader}", dsn=dsn, slot=slot, seconds=seconds, **more)
            source.execute("select pg_drop_replication_slot(%s)", [slot])
            return made

        if plan.wants(beside.name):
            dsn = source.dsn()
            beside.alternate(
                plan.runs, partial(run, "handled", dsn, beside=0.1), partial(run, "handled", dsn)
            )
            yield beside.tell_percentiles(2)
        for way, line in lines:
            if not plan.wants(line.name):
                continue
            dsn = source.dsn(via="tcp" if way == "tcp" else "socket")
            line.alternate(plan.runs, partial(run, "handled", dsn), partial(run, "bare", dsn))
            yield line.tell_percentiles(2)


async def handled(dsn: str, slot: str, seconds: float, beside: float | None = None) -> dict[str, Any]:
    """A pipeline with one handler; `beside`: and with a sink that takes so many seconds for each batch."""
    taken: list[float] = []
    handlers = Handlers()

    @handlers.on("public.ticks", "insert")
    async def handle(change: Change) -> None:
        assert change.commit_time is not None
        taken.append(time.time() - change.commit_time.timestamp())

    def sink(context: SinkContext) -> HandlerSink:
        return HandlerSink(HandlerSinkConfig(handlers=handlers), context)

    source = PostgresSource(SourceConfig(Secret(dsn), name="bench", slot=slot, publication="ticks"))
    with tempfile.TemporaryDirectory() as state:
        settings = PipelineSettings(snapshot="never", adopt_slot=True, serve=False)
        others = {} if beside is None else {"beside": NullSink(pause=beside)}
        pipeline = Pipeline(source, {"handlers": sink, **others}, state, settings, name="bench")
        async with running(pipeline):
            await pipeline.wait_for(Lsn(1), timeout=30)
            count = await asyncio.to_thread(_write, dsn, seconds)
            await pipeline.wait_for(await source.position(), timeout=30)
    return _result(taken, count, seconds)


async def bare(dsn: str, slot: str, seconds: float) -> dict[str, Any]:
    """Blocks in libpq for every message, looks at Begin's time, does nothing else."""
    taken: list[float] = []
    connection = pq.PGconn.connect(f"{dsn} replication=database".encode())
    options = "proto_version '1', publication_names 'ticks', binary 'true'"
    result = connection.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})".encode())
    if result.status != pq.ExecStatus.COPY_BOTH:
        raise SystemExit(result.error_message)
    end = threading.Event()
    reading = threading.Thread(target=_read, args=(connection, end, taken))
    reading.start()
    count = _write(dsn, seconds)
    await asyncio.sleep(1)
    end.set()
    reading.join()
    connection.finish()
    return _result(taken, count, seconds)


def _read(connection: PGconn, end: threading.Event, taken: list[float]) -> None:
    """Waits for the socket, and for nothing else. (psycopg's own blocking call keeps the interpreter to itself.)"""
    committed = 0.0
    waiting = select.poll()
    waiting.register(connection.socket, select.POLLIN)
    while not end.is_set():
        length, message = connection.get_copy_data(1)
        if length == 0:
            waiting.poll(100)
            connection.consume_input()
        elif length < 0:
            return
        elif message[0] == ord("k"):
            if message[17]:
                connection.put_copy_data(_STATUS.pack(b"r", 0, 0, 0, 0, 0))
                connection.flush()
        elif message[25] == ord("B"):
            committed = (int.from_bytes(message[34:42], "big") + _EPOCH) / 1e6
        elif message[25] == ord("C"):
            taken.append(time.time() - committed)


def _write(dsn: str, seconds: float) -> int:
    """One-row transactions at the given rate, evenly; how many."""
    command = [sys.executable, "-m", "benchmarks.writers", dsn, str(_RATE), str(_WRITERS), str(seconds)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _result(taken: list[float], count: int, seconds: float) -> dict[str, Any]:
    if len(taken) != count:
        raise SystemExit(f"{len(taken)} transactions came of {count}")
    counted = sorted(1000 * value for value in taken[int(_WARM * _RATE) :])
    figures = {f"p{part}": percentile(counted, part / 100) for part in (50, 90, 99)}
    return {"seconds": seconds, "rows": count, **figures, "most": counted[-1]}
