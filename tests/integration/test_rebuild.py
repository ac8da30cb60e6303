"""Tables taken over chunk by chunk beside a busy stream: equal at the end, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from test_fence import committing, go_on, waiting_server  # noqa: F401  # a fixture

from walcast.app.compose import make_pipeline, make_source, source_config
from walcast.app.rebuilding import Rebuilds
from walcast.app.settings import Settings, load
from walcast.app.verifying import Jobs
from walcast.engine import Pipeline
from walcast.model import Lsn, TableId
from walcast.testing.postgres import Database, PostgresServer

T = TableId("public", "t")
SCHEMA = """
create table t (id bigint primary key, n bigint, body text);
alter table t alter body set storage external;
create table other (id bigint primary key, n bigint);
insert into t select n, 0, repeat(md5(n::text), 90) from generate_series(1, 2500) n;
insert into other select n, 0 from generate_series(1, 100) n;
"""


class Flow:
    """A pipeline as `walcast run` has it, in this process."""

    def __init__(self, origin: Database, target: Database, folder: Path, kind: str) -> None:
        self.origin = origin
        self.target = target
        self.folder = folder
        self.kind = kind
        self.pipeline: Pipeline
        self.rebuilds: Rebuilds

    def settings(self, include: str = '["public.*"]') -> Settings:
        sink = (
            f'type = "postgres"\ndsn = "{self.target.dsn()}"'
            if self.kind == "postgres"
            else f'type = "duckdb"\npath = "{self.folder}/copy.duckdb"\nthreads = 1'
        )
        path = self.folder / "walcast.toml"
        path.write_text(
            f'[pipeline]\nstate_dir = "{self.folder}/state"\n[source]\ndsn = "{self.origin.dsn()}"\n'
            f'slot = "{self.origin.name}"\npublication = "p"\ninclude = {include}\n[sinks.copy]\n{sink}\n'
        )
        return load(path, {})

    @asynccontextmanager
    async def running(self, include: str = '["public.*"]') -> AsyncIterator[None]:
        settings = self.settings(include)
        self.pipeline = make_pipeline(settings, make_source(settings))
        self.rebuilds = Rebuilds(self.pipeline, source_config(settings))
        flow, beside = asyncio.create_task(self.pipeline.run()), asyncio.create_task(self.rebuilds.run())
        try:
            async with asyncio.timeout(30):
                while not self.pipeline.status().ready and not flow.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            yield
        finally:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
            self.pipeline.stop()
            await flow

    async def resync(self, **params: Any) -> dict[str, Any]:
        tables = params.pop("tables", [T])
        chunked, copied = await self.rebuilds.resync("copy", tables, **params)
        return {"chunked": chunked, "copied": copied}

    async def built(self, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while self.pipeline.building("copy"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def reached(self) -> None:
        self.origin.execute("create table if not exists flushed (id int)")
        lsn = self.origin.execute("select pg_current_wal_insert_lsn()::text")[0][0]
        await self.pipeline.wait_for(Lsn.parse(lsn), timeout=30)

    def expected(self, table: str = "t") -> list[str]:
        return _texts(self.origin.execute(f"select * from {table} order by id"))  # type: ignore[arg-type]

    def rows(self, table: str = "t") -> list[str]:
        if self.kind == "postgres":
            return _texts(self.target.execute(f"select * from {table} order by id"))  # type: ignore[arg-type]
        with duckdb.connect(str(self.folder / "copy.duckdb")) as connection:
            return _texts(connection.execute(f"select * from public.{table} order by id").fetchall())

    def spoil(self) -> None:
        """While it does not run: rows changed, gone, and too many."""
        statements = (
            "update {} set n = 77 where id % 7 = 0",
            "delete from {} where id % 11 = 0",
            "insert into {} values (-5, 1, 'extra'), (-6, 1, 'extra'), (99999, 1, 'extra')",
        )
        if self.kind == "postgres":
            for statement in statements:
                self.target.execute(statement.format("t"))  # type: ignore[arg-type]
            return
        with duckdb.connect(str(self.folder / "copy.duckdb")) as connection:
            for statement in statements:
                connection.execute(statement.format("public.t"))


def _texts(rows: list[tuple[Any, ...]]) -> list[str]:
    return [str(tuple(map(str, row))) for row in rows]


@contextlib.contextmanager
def busy(database: Database, seed: int = 1) -> Iterator[None]:
    """Sessions that insert, update with and without the TOASTed column, delete, and change keys, until the body ends."""
    stop = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        with database.connect() as connection:
            while not stop.wait(0.002):  # a copy on a loaded machine is to keep up
                one, other = chance.randrange(1, 3000), chance.randrange(1, 3000)
                statement = chance.choice(
                    (
                        "update t set n = n + 1 where id = %(one)s",
                        "update t set n = n + 1, body = repeat('y', 3000) where id = %(one)s",
                        "delete from t where id = %(one)s",
                        "insert into t values (%(one)s, 5, repeat('z', 2500)) on conflict do nothing",
                        "update t set id = %(other)s where id = %(one)s"
                        " and not exists (select from t where id = %(other)s)",
                    )
                )
                with contextlib.suppress(Exception):  # two sessions chose the same key
                    connection.execute(statement, {"one": one, "other": other})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(params=["postgres", "duckdb"])
def flow(
    request: pytest.FixtureRequest,
    database: Database,
    make_database: Callable[[PostgresServer], Database],
    tmp_path: Path,
) -> Flow:
    database.execute(SCHEMA)
    database.execute("create publication p for all tables")
    return Flow(database, make_database(database.server), tmp_path, request.param)


async def test_a_spoilt_table_is_taken_over_while_it_changes(flow: Flow) -> None:
    async with flow.running():
        await flow.reached()
    flow.spoil()
    assert flow.rows() != flow.expected()
    async with flow.running():
        opened = flow.pipeline.metrics.get("walcast_stream_opened_total")
        with busy(flow.origin):
            assert await flow.resync() == {"chunked": [T], "copied": []}
            await flow.built()
        assert flow.pipeline.metrics.get("walcast_stream_opened_total") == opened  # nobody left the stream
        await flow.reached()
    assert flow.rows() == flow.expected()


async def test_a_new_table_comes_beside_the_stream(flow: Flow) -> None:
    async with flow.running('["public.other"]'):
        opened = flow.pipeline.metrics.get("walcast_stream_opened_total")
        with busy(flow.origin):
            flow.pipeline.source.reselect(["public.*"], [])  # type: ignore[attr-defined]
            await flow.pipeline.reload()
            async with asyncio.timeout(20):
                while T not in flow.pipeline.building("copy"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await flow.built()
        assert flow.pipeline.metrics.get("walcast_stream_opened_total") == opened
        await flow.reached()
        assert flow.pipeline.status().sink("copy").stopped_tables == ()
    assert flow.rows() == flow.expected()
    assert flow.rows("other") == flow.expected("other")


async def test_a_column_whose_values_were_not_sent_comes_beside_the_stream(flow: Flow) -> None:
    """Its default was computed for every row: only chunks can bring what they hold."""
    flow.origin.execute("create table bare (id bigint); insert into bare values (1)")
    flow.origin.execute("alter table bare replica identity full")
    async with flow.running():
        opened = flow.pipeline.metrics.get("walcast_stream_opened_total")
        with busy(flow.origin):
            for table in ("t", "bare"):
                await asyncio.to_thread(
                    flow.origin.execute,
                    f"alter table {table} add column made float8 default random()",  # type: ignore[arg-type]
                )
            flow.origin.execute("update t set n = -1 where id = 7")
            async with asyncio.timeout(20):
                while T not in flow.pipeline.building("copy"):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            flow.origin.execute("insert into t values (90000, 1, 'x', 0.5)")
            await flow.built()
        await flow.reached()
        assert flow.pipeline.metrics.get("walcast_stream_opened_total") == opened
        assert flow.pipeline.status().sink("copy").stopped_tables == ()
        flow.origin.execute("insert into bare values (2)")
        await flow.reached()
        (stopped,) = flow.pipeline.status().sink("copy").stopped_tables
        assert stopped.table == "public.bare", "its rows have no key"
    assert flow.rows() == flow.expected()


async def test_a_table_that_is_altered_while_it_is_taken_over_is_begun_again(flow: Flow) -> None:
    async with flow.running():
        await flow.reached()
    flow.spoil()
    async with flow.running():
        await flow.resync(rate=3000)
        async with asyncio.timeout(30):
            while flow.pipeline.building("copy").get(T, {}).get("rows", 0) == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.to_thread(  # it waits until a chunk was read
            flow.origin.execute,
            "alter table t add column made float8 default random(), add column plain int default 3",
        )
        flow.origin.execute("update t set n = -1 where id = 7")
        await flow.built()
        await flow.reached()
        assert flow.pipeline.status().sink("copy").stopped_tables == ()
    assert flow.rows() == flow.expected()


async def test_what_was_broken_off_goes_on_in_the_next_process(flow: Flow) -> None:
    async with flow.running():
        await flow.reached()
    flow.spoil()
    async with flow.running():
        await flow.resync(rate=300)  # far from done when it is broken off
        async with asyncio.timeout(30):
            while flow.pipeline.building("copy").get(T, {}).get("rows", 0) == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        left = flow.pipeline.building("copy")[T]
        jobs = Jobs(flow.pipeline, flow.settings())
        await jobs.start({"sink": "copy", "patterns": ["public.t"]})
        async with asyncio.timeout(30):
            while (looked := await jobs.look({"sink": "copy"}))["running"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (table,) = looked["report"]["tables"]
        assert table["state"] == "skipped"
        assert "chunk by chunk" in table["reason"]
    assert left["upper"] is not None
    flow.origin.execute("update t set n = 9 where id % 5 = 0")
    async with flow.running():
        assert flow.pipeline.building("copy")[T]["rows"] >= left["rows"]
        await flow.built()
        await flow.reached()
    assert flow.rows() == flow.expected()


async def test_on_the_oldest_server(
    shared_postgres: Callable[[int], PostgresServer],
    make_database: Callable[[PostgresServer], Database],
    tmp_path: Path,
) -> None:
    origin = make_database(shared_postgres(13))
    origin.execute(SCHEMA)
    origin.execute("create publication p for all tables")
    flow = Flow(origin, origin, tmp_path, "duckdb")
    async with flow.running():
        await flow.reached()
    flow.spoil()
    async with flow.running():
        with busy(origin):
            await flow.resync()
            await flow.built()
        await flow.reached()
    assert flow.rows() == flow.expected()


async def test_only_the_rows_of_a_condition(flow: Flow) -> None:
    async with flow.running():
        await flow.reached()
    flow.spoil()
    async with flow.running():
        await flow.resync(where="id <= 100")
        await flow.built()
        await flow.reached()
    found = dict(enumerate(flow.rows()))
    assert [row for row in found.values() if 0 < int(row.split("'")[1]) <= 100] == flow.expected()[:100]
    assert len(found) != len(flow.expected())


async def test_what_chunks_cannot_do_a_snapshot_does(flow: Flow) -> None:
    flow.origin.execute(
        "create table bare (id bigint); insert into bare values (1); alter table bare replica identity full"
    )
    async with flow.running():
        bare = TableId("public", "bare")
        assert await flow.resync(tables=[bare]) == {"chunked": [], "copied": [bare]}
        await flow.reached()
    assert flow.rows("bare") == flow.expected("bare")


async def test_a_commit_that_waits_for_a_standby_is_waited_for(
    waiting_server: PostgresServer,  # noqa: F811  # the fixture
    make_database: Callable[[PostgresServer], Database],
    tmp_path: Path,
) -> None:
    """Its change is in the copy and not yet visible at the source: a chunk read now would undo it."""
    origin = make_database(waiting_server)
    origin.execute(SCHEMA)
    origin.execute("create publication p for all tables")
    flow = Flow(origin, origin, tmp_path, "duckdb")
    async with flow.running():
        with committing(origin, "set synchronous_commit = on", "update t set n = 7 where id = 3"):
            async with asyncio.timeout(20):
                while "7" not in str(
                    await flow.pipeline.query("copy", "select n from public.t where id = 3")
                ):
                    flow.pipeline.source.poke()
                    await asyncio.sleep(0.05)
            assert origin.execute("select n from t where id = 3") == [(0,)]
            await flow.resync()
            origin.execute("update t set n = 1 where id = 4")
            await flow.reached()  # the stream does not wait for the chunks
            assert flow.pipeline.building("copy")[T]["begun"] is False
            go_on(waiting_server)
            await flow.built()
        await flow.reached()
    assert flow.rows() == flow.expected()
    assert flow.rows()[2].startswith("('3', '7'")
