"""Documents of three levels (a root, two children, two leaves each) in OpenSearch, against PGSync on the same servers: the
first load, a backlog of changed leaves, and leaves that change a thousand times a second.

Each is timed from the start of its process until all can be found. Where PGSync cannot be had it is said, and ours stand
alone.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.harness import Contest, Plan, Run, percentile
from benchmarks.pgsync import PGSync, pgsync
from benchmarks.pipelines import reached, running
from benchmarks.search import HEAP, pipeline_to
from benchmarks.servers import drop_slot, server
from walcast.mapping import DataMapping, Document, Nested
from walcast.model import Lsn, OperatorError
from walcast.postgres.local import find
from walcast.testing.search import SearchServer

_ROOTS: Final = 100_000
_BACKLOG: Final = 20_000
_MOST_RUNS: Final = 2
"""A pair takes minutes."""
_RATE: Final = 1000
_SECONDS: Final = 15.0
_PATIENCE: Final = 45.0
"""Seconds after the last change, in which it may be found."""
_TABLES: Final = (
    "create table roots (id int primary key, name text, at timestamptz)",
    "create table children (id int primary key, root_id int not null references roots, name text, amount float8)",
    "create table leaves (id int primary key, child_id int not null references children, note text, serial int not null)",
    "create index on children (root_id)",
    "create index on leaves (child_id)",
)
_FILL: Final = (
    "insert into roots select n, 'root ' || n, '2026-01-01'::timestamptz + n * interval '1 s' from generate_series(1, {roots}) n",
    "insert into children select n, (n + 1) / 2, 'child ' || n, n / 3.0 from generate_series(1, 2 * {roots}) n",
    "insert into leaves select n, (n + 1) / 2, 'leaf ' || n, 0 from generate_series(1, 4 * {roots}) n",
    "create publication bench for table roots, children, leaves",
    "vacuum analyze",
)
_CHANGE: Final = "update leaves set serial = %s where id = %s"
_LAST: Final = {"size": 0, "aggs": {"last": {"max": {"field": "children.leaves.serial"}}}}
_OURS: Final = DataMapping(
    documents={
        "nested": Document(
            "public.roots",
            nested={
                "children": Nested(
                    "public.children",
                    on={"root_id": "id"},
                    nested={"leaves": Nested("public.leaves", on={"child_id": "id"})},
                )
            },
        )
    }
)


def _below(table: str, columns: list[str], children: list[Any]) -> dict[str, Any]:
    kind = {"variant": "object", "type": "one_to_many"}
    return {"table": table, "columns": columns, "children": children, "relationship": kind}


_THEIRS: Final = [
    {
        "database": "postgres",
        "index": "nested",
        "nodes": {
            "table": "roots",
            "columns": ["id", "name", "at"],
            "children": [
                _below(
                    "children",
                    ["id", "root_id", "name", "amount"],
                    [_below("leaves", ["id", "child_id", "note", "serial"], [])],
                )
            ],
        },
    }
]


def contests(plan: Plan) -> Iterator[Contest]:
    roots = plan.rows(_ROOTS)
    backlog = max(1000, round(_BACKLOG * plan.scale))
    lines = [
        Contest(f"nested documents: first load of {roots:,} roots, 3 levels", "PGSync", "5x", "reported"),
        Contest(f"nested documents: {backlog:,} changed leaves, caught up", "PGSync", "5x", "reported"),
        Contest(f"nested documents: {_RATE:,} changed leaves/s", "PGSync", "5x", "reported"),
    ]
    if not any(plan.wants(line.name) for line in lines):
        return
    with ExitStack() as stack:
        rival: PGSync | None = None
        try:
            rival = stack.enter_context(pgsync())
            binaries = find(18, tls=True)  # one with contrib: PGSync decodes by test_decoding
        except OperatorError as missing:
            print(f"nested: without PGSync: {missing} (hint: {missing.hint})", file=sys.stderr)
            binaries = find(18)
        cluster = SearchServer("opensearch", durable=True, heap=HEAP)
        stack.callback(cluster.close)
        cluster.start()
        for _ in range(min(plan.runs, _MOST_RUNS)):
            sides: list[tuple[list[list[Run]], Callable[[Any], Any]]] = [([x.ours for x in lines], _Ours)]
            if rival is not None:
                sides.append(([x.theirs for x in lines], lambda world: _Theirs(world, rival)))
            for found, contestant in sides:
                cluster.wipe()
                with server(binaries=binaries) as source:
                    world = _World(source, cluster, roots)
                    runs = _measured(world, contestant(world), backlog, _SECONDS * min(1.0, plan.scale))
                for known, run in zip(found, runs, strict=True):
                    known.append(run)
    lines[2].figure = _told(lines[2].ours)
    lines[2].baseline_figure = _told(lines[2].theirs) if lines[2].theirs else "not run"
    yield from lines


def _told(runs: list[Run]) -> str:
    rate = statistics.median(run.rate for run in runs)
    p50, p99 = (statistics.median(run.extra[name] for run in runs) for name in ("p50", "p99"))
    return f"{rate:,.0f}/s, behind by p50 {p50:.2f} s, p99 {p99:.2f} s"


class _World:
    """The tables, filled, and what can be found of them."""

    def __init__(self, source: Any, cluster: SearchServer, roots: int) -> None:
        self.source, self.cluster, self.roots = source, cluster, roots
        self.serial = 0
        for statement in (*_TABLES, *(item.format(roots=roots) for item in _FILL)):
            source.execute(statement)

    def change(self, connection: Any) -> None:
        """One leaf, in a transaction of its own."""
        self.serial += 1
        connection.execute(_CHANGE, [self.serial, self.serial * 7919 % (4 * self.roots) + 1])

    def found(self) -> int:
        """The last change that can be found."""
        answer = self.cluster.ask("POST", "/nested/_search", _LAST)
        return int(answer["aggregations"]["last"]["value"] or 0)

    def connect(self) -> Any:
        return psycopg.connect(self.source.dsn(), autocommit=True)


class _Ours:
    def __init__(self, world: _World) -> None:
        self._world = world
        self._state = tempfile.TemporaryDirectory()

    def load(self) -> float:
        return self.catch_up()

    def catch_up(self) -> float:
        """Until it is where the source is now; seconds."""
        end = self._world.source.execute("select pg_current_wal_insert_lsn()::text")[0][0]
        begin = time.perf_counter()
        process = self._start(end)
        if process.wait() != 0:
            raise SystemExit("ours failed")
        return time.perf_counter() - begin

    @contextmanager
    def following(self) -> Iterator[None]:
        process = self._start("")
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def close(self) -> None:
        drop_slot(self._world.source, "bench_search")
        self._state.cleanup()

    def _start(self, end: str) -> subprocess.Popen[bytes]:
        dsn = self._world.source.dsn(via="tcp")
        options = [self._world.cluster.url, dsn, self._state.name, end]
        return subprocess.Popen([sys.executable, "-m", "benchmarks.nested", *options])


class _Theirs:
    def __init__(self, world: _World, rival: PGSync) -> None:
        self._rival = rival
        self._how: dict[str, Any] = {"schema": _THEIRS, "source": world.source, "url": world.cluster.url}
        rival.run("bootstrap", **self._how)

    def load(self) -> float:
        return self._rival.run("pgsync", **self._how)

    catch_up = load

    @contextmanager
    def following(self) -> Iterator[None]:
        process = self._rival.command("pgsync", "--daemon", **self._how)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def close(self) -> None: ...


def _measured(world: _World, contestant: Any, backlog: int, seconds: float) -> list[Run]:
    """The three lines, of one contestant."""
    try:
        load = contestant.load()
        world.cluster.ask("POST", "/nested/_refresh")
        if (found := world.cluster.ask("GET", "/nested/_count")["count"]) != world.roots:
            raise SystemExit(f"{found} documents of {world.roots}")
        with world.connect() as connection:
            connection.execute("set synchronous_commit = off")
            for _ in range(backlog):
                world.change(connection)
        caught_up = contestant.catch_up()
        world.cluster.ask("POST", "/nested/_refresh")
        if world.found() != backlog:
            raise SystemExit(f"change {world.found()} of {backlog}")
        with contestant.following():
            following = _followed(world, seconds)
        return [Run(load, world.roots), Run(caught_up, backlog), following]
    finally:
        contestant.close()


def _followed(world: _World, seconds: float) -> Run:
    """How old the oldest change is that cannot be found yet, looked at while they are made and until all are found."""
    with world.connect() as connection:
        connection.execute("set synchronous_commit = off")
        world.change(connection)
        _until(world, world.serial)
        first = world.serial
        made: dict[int, float] = {}
        writing = threading.Thread(target=_write, args=(world, connection, seconds, made))
        begin = time.perf_counter()
        writing.start()
        ages: list[float] = []
        found = first
        while writing.is_alive() or (
            found < world.serial and time.perf_counter() < begin + seconds + _PATIENCE
        ):
            found = world.found()
            oldest = made.get(found + 1)
            ages.append(0.0 if oldest is None else time.perf_counter() - oldest)
            time.sleep(0.02)
        taken = time.perf_counter() - begin
        writing.join()
    counted = sorted(ages)
    figures = {f"p{part}": percentile(counted, part / 100) for part in (50, 99)}
    return Run(taken, found - first, extra={**figures, "made": world.serial - first})


def _write(world: _World, connection: Any, seconds: float, made: dict[int, float]) -> None:
    begin = time.perf_counter()
    for number in range(round(seconds * _RATE)):
        pause = begin + number / _RATE - time.perf_counter()
        if pause > 0.002:
            time.sleep(pause)
        world.change(connection)
        made[world.serial] = time.perf_counter()


def _until(world: _World, serial: int) -> None:
    deadline = time.monotonic() + 120
    while world.found() < serial:
        if time.monotonic() > deadline:
            raise SystemExit("the first change does not come")
        time.sleep(0.1)


async def follow(url: str, dsn: str, state: str, end: str) -> None:
    """Our process: until there, or until it is ended."""
    pipeline = pipeline_to(url, dsn, state, _OURS, "bench")
    async with running(pipeline) as task:
        if end:
            await reached(pipeline, task, Lsn.parse(end))
        else:
            await task


if __name__ == "__main__":
    Path(sys.argv[3]).mkdir(exist_ok=True)
    asyncio.run(follow(*sys.argv[1:]))
