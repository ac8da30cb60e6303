"""Follows (edges between users that are there) to LadybugDB and Neo4j, against the store's own fastest way to take as many at a
time: rows in parameters, `create`, and none of the sink's bookkeeping."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Contest, Plan, Run, child
from benchmarks.pipelines import reached, running
from benchmarks.servers import Backlog, server
from walcast.app import registry
from walcast.app.compose import sink_factory
from walcast.engine import Pipeline, PipelineSettings
from walcast.mapping import DataMapping, Edge, End, Vertex
from walcast.model import Lsn
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig

_ROWS: Final = 200_000
_USERS: Final = 5_000
_TRANSACTION: Final = 10_000
_MAPPING: Final = DataMapping(
    vertices={"User": Vertex("person")},
    edges={"FOLLOWS": Edge("follows", End("User", ("a",)), End("User", ("b",)), fields={"since": "since"})},
)
_CREATE: Final = "unwind $rows as r match (a:User {_key: r.a}) match (b:User {_key: r.b}) create (a)-[:FOLLOWS {since: r.since}]->(b)"


def contests(plan: Plan) -> Iterator[Contest]:
    rows = plan.rows(_ROWS)
    lines = [
        (kind, Contest(f"to {name}: {rows:,} edges", "unwind, match, create by 10,000", "0.8x", "0.5x"))
        for kind, name in (("graph", "LadybugDB"), ("neo4j", "Neo4j 5.26"))
    ]
    if not any(plan.wants(line.name) for _, line in lines):
        return
    with server() as source, tempfile.TemporaryDirectory() as folder:
        setup = ["create table person (id int primary key)"]
        setup.append("create table follows (id bigint primary key, a int, b int, since int)")
        backlog = Backlog(source, "follows", setup, partial(_work, rows=rows))
        for kind, line in lines:
            if plan.wants(line.name):
                with _place(kind, Path(folder)) as place:
                    yield line.alternate(
                        plan.runs,
                        partial(_ours, place, backlog, source.dsn(via="socket")),
                        partial(_theirs, place, rows),
                    )


def _work(connection: Any, rows: int) -> int:
    for first in range(0, rows, 1000):
        connection.execute(
            "insert into follows select n, n %% %s, (n * 7919 + n / %s) %% %s, 2026 from generate_series(%s::bigint, %s) n",
            [_USERS, _USERS, _USERS, first, first + 999],
        )
    return rows


def _edges(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {"a": str(n % _USERS), "b": str((n * 7919 + n // _USERS) % _USERS), "since": 2026}
        for n in range(first, last)
    ]


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
    settings: dict[str, Any] = {"targets": ("FOLLOWS",)}
    if kind == "neo4j":
        settings |= {"uri": target, "password": Secret(password)}
    else:
        settings["path"] = Path(target)
    entry = registry.sink(kind)
    factory = sink_factory(entry, entry.config_type()(**settings), _MAPPING, config)
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
    pieces = [_edges(first, min(first + _TRANSACTION, rows)) for first in range(0, rows, _TRANSACTION)]
    if kind == "neo4j":
        import neo4j

        driver = neo4j.GraphDatabase.driver(target, auth=("neo4j", password))
        with driver, driver.session() as session:
            begin = time.perf_counter()
            for piece in pieces:
                session.run(_CREATE, rows=piece).consume()
            return {"seconds": time.perf_counter() - begin, "rows": rows}
    import ladybug

    connection = ladybug.Connection(ladybug.Database(target))
    connection.execute("create rel table FOLLOWS (from User to User, since int64)")
    begin = time.perf_counter()
    for piece in pieces:
        connection.execute(_CREATE, parameters={"rows": piece})
    return {"seconds": time.perf_counter() - begin, "rows": rows}


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
