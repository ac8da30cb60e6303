"""Follows (edges between users that are there) to LadybugDB and Neo4j, against the store's own fastest way to take as many at a
time: `create` from Arrow tables, or from lists in parameters, that are there already, with none of the sink's bookkeeping.

LadybugDB's COPY is no faster within transactions of this size (144,000 edges/s against 218,000): each ends with a
checkpoint.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks import harness
from benchmarks.harness import Contest, Plan, Run, child
from benchmarks.pipelines import reached, running
from benchmarks.servers import Backlog, drop_slot, server
from walcast.app import registry
from walcast.app.compose import sink_factory
from walcast.engine import Pipeline, PipelineSettings
from walcast.mapping import DataMapping, Edge, End, Vertex
from walcast.model import Lsn, Sink, SinkContext, SinkFactory
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig

_ROWS: Final = 200_000
_USERS: Final = 5_000
_TRANSACTION: Final = {"graph": 50_000, "neo4j": 20_000}
"""Rows; what the pipeline makes of this backlog."""
_CHECKPOINT: Final = 64 << 20
"""As the sink has it."""
_PROBES: Final = 200
_MADE: Final = "match (a:User {_key: $to}) create (a)-[e:FOLLOWS {since: 2026}]->(a) return count(e)"
_ALONG: Final = "match (a:User {_key: $to})-[e:FOLLOWS]->(:User {_key: $to}) return count(e)"
_KEYS: Final = {
    "follows": "create table follows (id bigint, a int, b int, since int, primary key (a, b))",
    "edges with a key of their own": "create table follows (id bigint primary key, a int, b int, since int)",
}
_MAPPING: Final = DataMapping(
    vertices={"User": Vertex("person")},
    edges={"FOLLOWS": Edge("follows", End("User", ("a",)), End("User", ("b",)), fields={"since": "since"})},
)
_MATCH: Final = "match (x:User {_key: %s}) match (y:User {_key: %s}) create (x)-[:FOLLOWS {since: %s}]->(y)"
_LADYBUG: Final = "load from $rows " + _MATCH % ("a", "b", "since")
_NEO4J: Final = "unwind range(0, size($a) - 1) as i " + _MATCH % ("$a[i]", "$b[i]", "$since[i]")


def contests(plan: Plan) -> Iterator[Contest]:
    rows = plan.rows(_ROWS)
    for kind, name, baseline in (
        ("graph", "LadybugDB", "load from Arrow, match, create by 50,000"),
        ("neo4j", "Neo4j 5.26", "unwind, match, create by 20,000"),
    ):
        for what, table in _KEYS.items():
            line = Contest(
                f"to {name}: {rows:,} {what}", baseline, "0.8x", "0.5x" if what == "follows" else "-"
            )
            if plan.wants(line.name):
                yield _contest(line, kind, table, rows, plan.runs)
        line = Contest(f"to {name}: from commit to traversable", "its own commit", "p99 +50 ms", "-")
        if plan.wants(line.name):
            yield _probes(line, kind, max(20, round(_PROBES * plan.scale)), plan.runs)


def _contest(line: Contest, kind: str, table: str, rows: int, runs: int) -> Contest:
    with server() as source, tempfile.TemporaryDirectory() as folder, _place(kind, Path(folder)) as place:
        setup = ["create table person (id int primary key)", table]
        backlog = Backlog(source, "follows", setup, partial(_work, rows=rows))
        ours = partial(_ours, place, backlog, source.dsn(via="socket"))
        return line.alternate(runs, ours, partial(_theirs, place, rows))


def _probes(line: Contest, kind: str, probes: int, runs: int) -> Contest:
    """One follow after the other: ours from its commit at the source, theirs from the request, to the first query that
    goes along it."""
    with server() as source, tempfile.TemporaryDirectory() as folder, _place(kind, Path(folder)) as place:
        source.execute("create table person (id int primary key)")
        source.execute(_KEYS["follows"])
        source.execute("create publication follows for table follows")

        def ours() -> Run:
            place.fresh()
            source.execute("truncate follows")
            try:
                return child(
                    "benchmarks.graphs:probed", dsn=source.dsn(via="tcp"), probes=probes, **place.told
                )
            finally:
                drop_slot(source, "bench_graph")

        def theirs() -> Run:
            place.fresh()
            return child("benchmarks.graphs:written", probes=probes, **place.told)

        return line.alternate(runs, ours, theirs).tell_percentiles(1)


def _work(connection: Any, rows: int) -> int:
    for first in range(0, rows, 1000):
        connection.execute(
            "insert into follows select n, n %% %s, (n * 7919 + n / %s) %% %s, 2026 from generate_series(%s::bigint, %s) n",
            [_USERS, _USERS, _USERS, first, first + 999],
        )
    return rows


def _edges(first: int, last: int) -> dict[str, list[Any]]:
    numbers = range(first, last)
    return {
        "a": [str(n % _USERS) for n in numbers],
        "b": [str((n * 7919 + n // _USERS) % _USERS) for n in numbers],
        "since": [2026] * len(numbers),
    }


def _ours(place: _Ladybug | _Neo4j, backlog: Backlog, dsn: str) -> Run:
    place.fresh()
    with backlog.slot() as slot:
        run = child(
            "benchmarks.graphs:replicate",
            dsn=dsn,
            slot=slot,
            end=backlog.end,
            rows=backlog.rows,
            **place.told,
        )
    return place.counted(run)


def _theirs(place: _Ladybug | _Neo4j, rows: int) -> Run:
    place.fresh()
    return place.counted(child("benchmarks.graphs:load", rows=rows, **place.told))


async def replicate(
    kind: str, target: str, password: str, dsn: str, slot: str, end: str, rows: int
) -> dict[str, Any]:
    """A backlog to its end: from the start of the pipeline until the store is durable there."""
    config = SourceConfig(Secret(dsn), name="bench", slot=slot, publication="follows")
    factory = _sink(kind, target, password, config)
    importlib.import_module(registry.sink(kind).target.partition(":")[0] + ".store")  # the driver, as theirs
    with tempfile.TemporaryDirectory() as state:
        engine = PipelineSettings(snapshot="never", adopt_slot=True, serve=False)
        pipeline = Pipeline(PostgresSource(config), {"copy": factory}, state, engine, name="bench")
        begin = time.perf_counter()
        async with running(pipeline) as task:
            await reached(pipeline, task, Lsn.parse(end))
            seconds = time.perf_counter() - begin
    return {"seconds": seconds, "rows": rows}


async def load(kind: str, target: str, password: str, rows: int) -> dict[str, Any]:
    """The store's own way, with rows that are there already."""
    size = _TRANSACTION[kind]
    pieces = [_edges(first, min(first + size, rows)) for first in range(0, rows, size)]
    if kind == "neo4j":
        import neo4j

        driver = neo4j.GraphDatabase.driver(target, auth=("neo4j", password))
        with driver, driver.session() as session:
            begin = time.perf_counter()
            for piece in pieces:
                session.run(_NEO4J, piece).consume()
            return {"seconds": time.perf_counter() - begin, "rows": rows}
    import ladybug
    import pyarrow

    connection = ladybug.Connection(ladybug.Database(target))
    connection.execute(f"call checkpoint_threshold={_CHECKPOINT}")
    connection.execute("create rel table FOLLOWS (from User to User, since int64)")
    tables = [pyarrow.table(piece) for piece in pieces]
    begin = time.perf_counter()
    for made in tables:
        connection.execute(_LADYBUG, parameters={"rows": made})
    return {"seconds": time.perf_counter() - begin, "rows": rows}


async def probed(kind: str, target: str, password: str, dsn: str, probes: int) -> dict[str, Any]:
    """From a follow's commit to the query that goes along it. A file is asked through the pipeline that has it open."""
    config = SourceConfig(Secret(dsn), name="bench", slot="bench_graph", publication="follows")
    opened: list[Any] = []

    @asynccontextmanager
    async def made(context: SinkContext) -> AsyncIterator[Sink]:
        async with _sink(kind, target, password, config)(context) as sink:
            opened[:] = [sink]
            yield sink

    with ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory())
        run = stack.enter_context(_client(kind, target, password)) if kind == "neo4j" else None
        pipeline = Pipeline(
            PostgresSource(config), {"copy": made}, state, PipelineSettings(serve=False), name="bench"
        )
        async with running(pipeline) as task:
            await reached(pipeline, task, Lsn(1))
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

                async def write(number: int) -> float:
                    values = [number, number, number]
                    await connection.execute("insert into follows values (%s, %s, %s, 2026)", values)
                    return time.perf_counter()

                async def seen(number: int) -> bool:
                    if run is not None:
                        return await asyncio.to_thread(run, _ALONG, str(number))
                    _, rows = await opened[0].query(_ALONG, {"to": str(number)})
                    return bool(rows[0][0])

                return await harness.probed(probes, write, seen)


async def written(kind: str, target: str, password: str, probes: int) -> dict[str, Any]:
    """From the request that makes an edge to the query that goes along it."""
    with _client(kind, target, password) as run:

        async def write(number: int) -> float:
            begin = time.perf_counter()
            await asyncio.to_thread(run, _MADE, str(number))
            return begin

        async def seen(number: int) -> bool:
            return await asyncio.to_thread(run, _ALONG, str(number))

        return await harness.probed(probes, write, seen)


@contextmanager
def _client(kind: str, target: str, password: str) -> Iterator[Callable[[str, str], bool]]:
    """Runs a query of one vertex by the store's own client, and says whether it found something."""
    if kind == "neo4j":
        import neo4j

        driver = neo4j.GraphDatabase.driver(target, auth=("neo4j", password))
        with driver, driver.session() as session:
            yield lambda query, to: bool(session.run(query, to=to).single(strict=True)[0])
        return
    import ladybug

    with ladybug.Database(target) as database, ladybug.Connection(database) as connection:
        connection.execute("create rel table FOLLOWS (from User to User, since int64)")

        def run(query: str, to: str) -> bool:
            result = connection.execute(query, {"to": to})
            assert not isinstance(result, list)
            (found,) = result.get_next()
            return bool(found)

        yield run


def _sink(kind: str, target: str, password: str, config: SourceConfig) -> SinkFactory:
    settings: dict[str, Any] = {"targets": ("FOLLOWS",)}
    if kind == "neo4j":
        settings |= {"uri": target, "password": Secret(password)}
    else:
        settings["path"] = Path(target)
    entry = registry.sink(kind)
    return sink_factory(entry, entry.config_type()(**settings), _MAPPING, config)


def _place(kind: str, folder: Path) -> _Ladybug | _Neo4j:
    return _Neo4j() if kind == "neo4j" else _Ladybug(folder)


class _Ladybug:
    """A file with the users; a copy of it for each run."""

    def __init__(self, folder: Path) -> None:
        import ladybug

        self._seed, self._file = folder / "seed.lbug", folder / "run.lbug"
        columns = "_key string primary key, _version int64, _member string, _gen int64, _ghost bool"
        with ladybug.Database(str(self._seed)) as database, ladybug.Connection(database) as connection:
            connection.execute(f"create node table User ({columns})")
            connection.execute(
                "unwind $rows as r create (:User {_key: r, _ghost: false})",
                parameters={"rows": [str(number) for number in range(_USERS)]},
            )
        self.told = {"kind": "graph", "target": str(self._file), "password": ""}

    def __enter__(self) -> _Ladybug:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def fresh(self) -> None:
        for left in self._file.parent.glob("run.lbug*"):
            left.unlink()
        shutil.copy(self._seed, self._file)

    def counted(self, run: Run) -> Run:
        import ladybug

        with ladybug.Database(self.told["target"]) as database, ladybug.Connection(database) as connection:
            result = connection.execute("match ()-[n:FOLLOWS]->() return count(n)")
            assert not isinstance(result, list)
            (count,) = result.get_next()
        return _checked(run, count)


class _Neo4j:
    """A server with the users."""

    def __init__(self) -> None:
        from walcast.testing.neo4j import Neo4jServer

        self._server = Neo4jServer(heap="1g")

    def __enter__(self) -> _Neo4j:
        self._server.start()
        self._server.run("create constraint for (n:User) require n._key is unique")
        self._server.run(
            "unwind range(0, $most) as n create (:User {_key: toString(n), _ghost: false})", most=_USERS - 1
        )
        self.told = {"kind": "neo4j", "target": self._server.uri, "password": self._server.password}
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.close()

    def fresh(self) -> None:
        self._server.run("match ()-[n:FOLLOWS]->() call (n) { delete n } in transactions of 20000 rows")
        self._server.run("match (n:_Walcast) delete n")

    def counted(self, run: Run) -> Run:
        return _checked(run, self._server.run("match ()-[n:FOLLOWS]->() return count(n)")[0][0])


def _checked(run: Run, count: int) -> Run:
    if count != run.rows:
        raise SystemExit(f"{count} edges of {run.rows}")
    return run
