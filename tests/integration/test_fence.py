"""A sink held at the position of a snapshot of a real server: the two are the same, whoever waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from walcast.engine import Pipeline, PipelineSettings
from walcast.engine.fence import FenceLost
from walcast.model import Cut, Held, TableId
from walcast.model.secret import Secret
from walcast.postgres.connect import Connection, connect
from walcast.postgres.cut import begin_at_cut, unsettled
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.testing.memory import MemorySink, MemoryStore
from walcast.testing.postgres import Database, PostgresServer

T = TableId("public", "t")
SCHEMA = """
create table t (id bigint primary key, n bigint);
insert into t select n, 0 from generate_series(1, 200) n;
create publication p for all tables;
"""
UPDATE = "update t set n = 7 where id = 3"
SETTINGS = PipelineSettings(serve=False, retry_limit=20)


class World:
    """A pipeline to memory, and a connection that reads the source."""

    def __init__(self, database: Database, flow: Pipeline, store: MemoryStore, reader: Connection) -> None:
        self.database = database
        self.flow = flow
        self.store = store
        self.reader = reader

    async def same(self, **options: Any) -> bool:
        """Whether source and copy are the same at a position, but for the keys that may differ."""

        async def rows(held: Held) -> dict[str, str]:
            touched = held.touched.get(T)
            self.skip = set() if touched is None else {_text(key) for _, key in touched.keys}
            return {str(row["id"]): str(row["n"]) for row in self.store.rows(T)}

        copy = await self.flow.hold("copy", self.take, rows, **options)
        cursor = await self.reader.execute("select id::text, n::text from public.t")
        source = dict(await cursor.fetchall())
        for key in self.skip:
            source.pop(key, None)
            copy.pop(key, None)
        return source == copy

    async def take(self) -> Cut:
        return await begin_at_cut(self.reader)


def _text(key: tuple[tuple[int, bytes | None], ...]) -> str:
    (kind, value), *_ = key
    assert value is not None
    return value.decode() if kind == ord("t") else str(int.from_bytes(value, "big"))


@asynccontextmanager
async def world(database: Database, state: Path) -> AsyncIterator[World]:
    store = MemoryStore()
    config = SourceConfig(dsn=Secret(database.dsn()), name="fence", slot=database.name, publication="p")
    flow = Pipeline(PostgresSource(config), {"copy": MemorySink(store)}, state, SETTINGS)
    task = asyncio.create_task(flow.run())
    try:
        async with asyncio.timeout(20):
            while not flow.status().ready and not task.done():  # noqa: ASYNC110  # a status has no event
                await asyncio.sleep(0.01)
        async with await connect(database.dsn(), application="test") as reader:
            yield World(database, flow, store, reader)
    finally:
        flow.stop()
        await task


@contextlib.contextmanager
def writers(database: Database, count: int, statement: str) -> Iterator[None]:
    """Sessions that write until the body ends."""
    stop = threading.Event()

    def write() -> None:
        with database.connect() as connection:
            while not stop.is_set():
                connection.execute(statement)  # type: ignore[call-overload]  # a test's own

    threads = [threading.Thread(target=write) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


async def test_source_and_copy_are_the_same_at_each_fence_of_a_busy_stream(
    any_database: Database, tmp_path: Path
) -> None:
    any_database.execute(SCHEMA)
    async with world(any_database, tmp_path) as made:
        statement = "update t set n = n + 1 where id = 1 + (random() * 199)::int"
        with writers(any_database, 3, statement):
            assert [await made.same() for _ in range(8)] == [True] * 8
        assert await made.same()


@pytest.fixture
def waiting_server(postgres_factory: Callable[..., PostgresServer]) -> PostgresServer:
    """Whoever sets synchronous_commit to on waits for a standby that is not there."""
    settings = {
        "max_prepared_transactions": 10,
        "synchronous_standby_names": "ghost",
        "synchronous_commit": "local",
    }
    return postgres_factory(18, settings=settings)


def go_on(server: PostgresServer) -> None:
    """Nobody waits any longer."""
    server.execute("alter system set synchronous_standby_names = ''")
    server.execute("select pg_reload_conf()")


@contextlib.contextmanager
def committing(database: Database, *statements: str) -> Iterator[None]:
    """A session whose statements wait."""

    def run() -> None:
        with database.connect() as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]  # a test's own

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        go_on(database.server)
        thread.join()


async def streamed(made: World, key: int, n: int) -> None:
    """Until the copy has it; the source may not show it."""
    async with asyncio.timeout(10):
        while {"id": key, "n": n} not in made.store.rows(T):  # a row has no event
            made.flow.source.poke()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("prepared", [False, True])
async def test_a_commit_that_waits_for_a_standby_is_waited_for(
    waiting_server: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
    tmp_path: Path,
    prepared: bool,
) -> None:
    database = make_database(waiting_server)
    database.execute(SCHEMA)
    statements = ["set synchronous_commit = on", UPDATE]
    if prepared:
        statements = ["begin", UPDATE, "prepare transaction 'x'", statements[0], "commit prepared 'x'"]
    told: list[object] = []
    async with world(database, tmp_path) as made:
        assert await made.same()
        with committing(database, *statements):
            await streamed(made, 3, 7)
            assert database.execute("select n from t where id = 3") == [(0,)]
            with pytest.raises(FenceLost, match="does not show"):
                await made.same(patience=0.3, waiting=told.append)
            assert told
        assert await made.same()
        assert database.execute("select n from t where id = 3") == [(7,)]


async def test_what_an_earlier_process_streamed_before_it_was_visible_is_waited_for(
    waiting_server: PostgresServer, make_database: Callable[[PostgresServer], Database], tmp_path: Path
) -> None:
    database = make_database(waiting_server)
    database.execute(SCHEMA)
    async with contextlib.AsyncExitStack() as stack:
        made = await stack.enter_async_context(world(database, tmp_path))
        store = made.store
        stack.enter_context(committing(database, "set synchronous_commit = on", UPDATE))
        await streamed(made, 3, 7)
        made.flow.stop()
        async with asyncio.timeout(10):
            while made.flow.status().state != "stopped":  # noqa: ASYNC110  # a status has no event
                await asyncio.sleep(0.01)
        config = SourceConfig(dsn=Secret(database.dsn()), name="fence", slot=database.name, publication="p")
        flow = Pipeline(PostgresSource(config), {"copy": MemorySink(store)}, tmp_path, SETTINGS)
        task = asyncio.create_task(flow.run())
        async with asyncio.timeout(20):
            while not flow.status().ready and not task.done():  # noqa: ASYNC110  # a status has no event
                await asyncio.sleep(0.01)
        again = World(database, flow, store, made.reader)
        with pytest.raises(FenceLost, match="does not show"):
            await again.same(patience=0.3)
        go_on(waiting_server)
        assert await again.same()
        flow.stop()
        await task


async def test_open_and_prepared_transactions_hold_nothing_up(
    waiting_server: PostgresServer, make_database: Callable[[PostgresServer], Database], tmp_path: Path
) -> None:
    database = make_database(waiting_server)
    database.execute(SCHEMA)
    with database.connect() as open_one, database.connect() as other:
        async with world(database, tmp_path) as made:
            open_one.execute("begin")
            open_one.execute("update t set n = 1 where id = 1")
            other.execute("begin")
            other.execute("update t set n = 2 where id = 2")
            other.execute("prepare transaction 'kept'")
            assert await made.same(patience=2)
            open_one.execute("commit")
            other.execute("commit prepared 'kept'")
            assert await made.same(patience=2)
            assert {"id": 2, "n": 2} in made.store.rows(T)


async def test_a_role_that_may_not_see_activity_counts_every_open_transaction(database: Database) -> None:
    database.execute("create table t (id int)")
    role = f"r_{database.name}"
    database.execute(psycopg.sql.SQL("create role {} login").format(psycopg.sql.Identifier(role)))
    try:
        with database.connect() as writer:
            writer.execute("begin")
            writer.execute("insert into t values (1)")
            (xid,) = writer.execute("select pg_current_xact_id()::text::int8 & 4294967295").fetchone() or (0,)
            async with await connect(database.dsn(user=role), application="test") as blind:
                assert xid in await unsettled(blind)
            async with await connect(database.dsn(), application="test") as seeing:
                assert xid not in await unsettled(seeing)
    finally:
        database.execute(psycopg.sql.SQL("drop role {}").format(psycopg.sql.Identifier(role)))
