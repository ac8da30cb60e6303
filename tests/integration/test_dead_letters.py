"""Rows that a copy can never take: set aside, held back with all that follows under their key, tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from walcast.engine import Pipeline, PipelineSettings
from walcast.model import Change, Lsn, SinkFactory, TableId
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig
from walcast.testing.postgres import Database

SETTINGS = PipelineSettings(
    serve=False, backoff_first=0.01, backoff_most=0.05, retry_limit=20, observe_interval=0.2
)
SCHEMA = """
create table t (id bigint primary key, n numeric(10, 2), note text);
create table other (id bigint primary key, note text);
create publication p for all tables;
"""
# The copy in PostgreSQL refuses the same value that DuckDB cannot hold: NaN.
GUARD = "alter table t add constraint guard check (n is null or n <> 'NaN')"
DIVIDES = (
    "alter table t add constraint guard check (n is null or 1 / (case when n = 'NaN' then 0 else 1 end) = 1)"
)

Make = Callable[[Database, Path, str], SinkFactory]


def to_postgres(target: Database, folder: Path, policy: str) -> SinkFactory:
    config = PostgresSinkConfig(
        Secret(target.dsn()),
        on_data_error=policy,
        on_integrity_error=policy,
        dead_letter_limit=20,  # type: ignore[arg-type]
    )
    return lambda context: PostgresSink(config, context)


def to_duckdb(target: Database, folder: Path, policy: str) -> SinkFactory:
    config = DuckDBSinkConfig(folder / "copy.duckdb", threads=1, on_data_error=policy, dead_letter_limit=20)  # type: ignore[arg-type]
    return lambda context: DuckDBSink(config, context)


class Copy:
    """A pipeline of one sink, and what its copy holds."""

    def __init__(self, kind: str, origin: Database, target: Database, folder: Path, policy: str) -> None:
        self.kind = kind
        self.origin = origin
        self.target = target
        self.folder = folder
        make = to_postgres if kind == "postgres" else to_duckdb
        config = SourceConfig(
            dsn=Secret(origin.dsn()),
            name="dead",
            slot=origin.name,
            publication="p",
            part_bytes=1 << 16,
            snapshot_chunk_rows=500,
        )
        sinks = {"copy": make(target, folder, policy)}
        self.pipeline = Pipeline(PostgresSource(config), sinks, folder / "state", SETTINGS)

    async def reached(self) -> None:
        lsn = self.origin.execute("select pg_current_wal_insert_lsn()::text")[0][0]
        await self.pipeline.wait_for(Lsn.parse(lsn), timeout=20)

    async def run(self, *statements: str) -> None:
        with self.origin.connect() as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]  # constants
        await self.reached()

    def letters(self) -> list[tuple[int, str, tuple[str, ...]]]:
        """(number, kind, keys)"""
        return [(one.number, one.kind, one.keys) for one in self.pipeline.dead_letters("copy")]

    def rows(self, table: str = "t") -> list[tuple[Any, ...]]:
        statement = f"select * from public.{table} order by id"
        if self.kind == "postgres":
            return [tuple(map(_plain, row)) for row in self.target.execute(statement)]  # type: ignore[arg-type]
        with duckdb.connect(str(self.folder / "copy.duckdb")) as connection:
            return [tuple(map(_plain, row)) for row in connection.execute(statement).fetchall()]

    def kept(self) -> int:
        """Letters in the target itself, counted by its own means."""
        if self.kind == "postgres":
            return int(self.target.execute("select count(*) from walcast.dead_letter")[0][0])
        with duckdb.connect(str(self.folder / "copy.duckdb")) as connection:
            return int(connection.execute("select count(*) from _walcast.dead_letters").fetchall()[0][0])


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, int | str) else str(value)


@asynccontextmanager
async def copying(copy: Copy) -> AsyncIterator[Copy]:
    task = asyncio.create_task(copy.pipeline.run())
    try:
        async with asyncio.timeout(20):
            while not copy.pipeline.status().ready and not task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield copy
    finally:
        copy.pipeline.stop()
        await task


@pytest.fixture
def target(database: Database, make_database: Callable[[Any], Database]) -> Database:
    made = make_database(database.server)
    made.execute("create table t (id bigint primary key, n numeric(10, 2), note text)")
    made.execute(GUARD)
    return made


@pytest.fixture(params=["postgres", "duckdb"])
def make(
    request: pytest.FixtureRequest, database: Database, target: Database, tmp_path: Path
) -> Callable[..., Copy]:
    database.execute(SCHEMA)
    return lambda policy="set_aside": Copy(request.param, database, target, tmp_path, policy)


def heal(copy: Copy) -> None:
    """At the source the value is put right; the copy in PostgreSQL would take it now, too."""
    if copy.kind == "postgres":
        copy.target.execute("alter table t drop constraint guard")


async def test_a_row_is_set_aside_and_its_key_waits(make: Callable[..., Copy]) -> None:
    async with copying(make()) as copy:
        await copy.run(
            "insert into t select n, 1.5, 'ok' from generate_series(1, 200) n",
            "insert into t values (1000, 'NaN', 'bad'), (1001, 2, 'ok')",
            "insert into other values (1, 'ok')",
            "update t set note = 'later' where id in (1000, 1001)",
            "update t set id = 1002 where id = 1000",
            "insert into t values (1003, 3, 'ok')",
        )
        assert copy.letters() == [
            (1, "integrity" if copy.kind == "postgres" else "data", ('["1000"]',)),
            (2, "behind", ('["1000"]',)),
            (3, "behind", ('["1000"]', '["1002"]')),
        ]
        status = copy.pipeline.status().sinks[0]
        assert (status.dead_letters, status.stopped_tables) == (3, ())
        assert status.oldest_dead_letter >= 0
    assert copy.kept() == 3
    assert copy.rows()[-2:] == [(1001, "2.00", "later"), (1003, "3.00", "ok")]
    assert len(copy.rows()) == 202
    assert copy.rows("other") == [(1, "ok")]


async def test_after_a_restart_the_key_still_waits_and_a_retry_brings_all_of_it(
    make: Callable[..., Copy],
) -> None:
    async with copying(make()) as copy:
        await copy.run("insert into t values (1, 'NaN', 'bad'), (2, 2, 'ok')")
    async with copying(make()) as copy:
        await copy.run("update t set note = 'changed' where id = 1", "update t set n = 7 where id = 1")
        assert [kind for _, kind, _ in copy.letters()][1:] == ["behind", "behind"]
        refused = await copy.pipeline.retry_dead("copy", [2])
        assert [one.outcome for one in refused] == ["refused", "waits", "waits"]
        assert copy.pipeline.dead_letters("copy")[0].attempts == 2
        if copy.kind == "postgres":
            heal(copy)
            applied = await copy.pipeline.retry_dead("copy")
            assert [one.outcome for one in applied] == ["applied"] * 3
        else:  # DuckDB will never hold the value that the first two bring: they are dropped, the last does not need them
            assert await copy.pipeline.drop_dead("copy", [1, 2]) == [1, 2]
            assert [one.outcome for one in await copy.pipeline.retry_dead("copy")][-1] == "applied"
        await copy.run("update t set note = 'last' where id = 1")
        assert copy.letters() == []
    assert copy.kept() == 0
    assert copy.rows() == [(1, "7.00", "last"), (2, "2.00", "ok")]


async def test_many_in_one_batch_and_a_data_error(make: Callable[..., Copy]) -> None:
    copy = make()
    copy.target.execute(f"alter table t drop constraint guard; {DIVIDES}")
    async with copying(copy):
        await copy.run(
            "insert into t select n, case when n % 100 = 7 then 'NaN'::numeric else n end, 'x' from generate_series(1, 1000) n"
        )
        assert [kind for _, kind, _ in copy.letters()] == ["data"] * 10
    assert [row[0] for row in copy.rows()] == [n for n in range(1, 1001) if n % 100 != 7]


async def test_rows_of_a_first_copy(make: Callable[..., Copy]) -> None:
    copy = make()
    copy.origin.execute(
        "insert into t select n, case when n in (3, 6000) then 'NaN'::numeric else 1 end, repeat('x', 60)"
        " from generate_series(1, 6000) n"
    )
    async with copying(copy):
        await copy.run("update t set n = 5 where id = 3")
        assert sorted(keys for _, _, keys in copy.letters()) == [('["3"]',), ('["3"]',), ('["6000"]',)]
    assert len(copy.rows()) == 5_998
    async with copying(make()) as copy:
        copy.origin.execute("update t set n = 1 where id = 6000")
        await copy.reached()
        await copy.pipeline.resync("copy", [TableId("public", "t")])
        async with asyncio.timeout(20):
            while copy.pipeline.status().sinks[0].dead_letters:  # noqa: ASYNC110  # the first chunk settles them
                await asyncio.sleep(0.02)
        await copy.run("insert into other values (1, 'a commit that is flushed')")
    assert len(copy.rows()) == 6_000
    assert copy.kept() == 0


async def test_within_a_transaction_in_parts(make: Callable[..., Copy]) -> None:
    async with copying(make()) as copy:
        with copy.origin.connect() as connection, connection.transaction():
            connection.execute("insert into t select n, 1, repeat('x', 100) from generate_series(1, 3000) n")
            connection.execute("insert into t values (5000, 'NaN', 'bad')")
            connection.execute(
                "insert into t select n, 1, repeat('x', 100) from generate_series(6001, 9000) n"
            )
            connection.execute("update t set note = 'later' where id in (1, 5000)")
        await copy.reached()
        assert [keys for _, _, keys in copy.letters()] == [('["5000"]',)] * 2
    assert len(copy.rows()) == 6000
    assert copy.rows()[0] == (1, "1.00", "later")


async def test_a_truncate_settles_what_waits(make: Callable[..., Copy]) -> None:
    async with copying(make()) as copy:
        await copy.run("insert into t values (1, 'NaN', 'bad')")
        assert len(copy.letters()) == 1
        await copy.run("truncate t", "insert into t values (1, 1, 'new')")
        assert copy.letters() == []
    assert (copy.kept(), copy.rows()) == (0, [(1, "1.00", "new")])


async def test_skipped_rows_leave_nothing_behind(
    make: Callable[..., Copy], caplog: pytest.LogCaptureFixture
) -> None:
    async with copying(make("skip")) as copy:
        await copy.run("insert into t values (1, 'NaN', 'bad'), (2, 2, 'ok')")
        assert copy.letters() == []
    assert copy.rows() == [(2, "2.00", "ok")]
    assert "row_skipped" in [record.message for record in caplog.records]
    assert "NaN" not in caplog.text


async def test_by_default_the_table_stops(make: Callable[..., Copy]) -> None:
    async with copying(make("stop")) as copy:
        await copy.run("insert into t values (1, 'NaN', 'bad')", "insert into other values (1, 'ok')")
        assert [table.table for table in copy.pipeline.status().sinks[0].stopped_tables] == ["public.t"]
    assert copy.rows("other") == [(1, "ok")]


async def test_too_many_stop_the_table(make: Callable[..., Copy]) -> None:
    async with copying(make()) as copy:
        await copy.run("insert into t select n, 'NaN', 'bad' from generate_series(1, 100) n")
        (stopped,) = copy.pipeline.status().sinks[0].stopped_tables
        assert "more than 20 rows" in stopped.reason


async def test_a_table_altered_since_is_not_brought_back(make: Callable[..., Copy]) -> None:
    async with copying(make()) as copy:
        await copy.run("insert into t values (1, 'NaN', 'bad')")
        heal(copy)
        copy.origin.execute("alter table t drop column note")
        (one,) = await copy.pipeline.retry_dead("copy")
        assert one.outcome == "refused"
        assert "has been altered" in one.message


async def test_a_constraint_of_a_duckdb_table_made_by_hand(database: Database, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    with duckdb.connect(str(tmp_path / "copy.duckdb")) as connection:
        connection.execute("create schema public")
        connection.execute(
            "create table public.t (id bigint, n decimal(10, 2), note varchar check (note <> 'bad'))"
        )
    copy = Copy("duckdb", database, database, tmp_path, "stop")
    config = DuckDBSinkConfig(tmp_path / "copy.duckdb", threads=1, on_integrity_error="set_aside")
    source = SourceConfig(dsn=Secret(database.dsn()), name="dead", slot=database.name, publication="p")
    copy.pipeline = Pipeline(
        PostgresSource(source), {"copy": lambda context: DuckDBSink(config, context)}, tmp_path, SETTINGS
    )
    async with copying(copy):
        await copy.run(
            "insert into t select n, 1, case when n in (7, 90) then 'bad' else 'ok' end from generate_series(1, 100) n",
            "update t set n = 2 where id in (7, 8)",
        )
        assert [(kind, keys) for _, kind, keys in copy.letters()] == [
            ("integrity", ('["7"]',)),
            ("integrity", ('["90"]',)),
            ("behind", ('["7"]',)),
        ]
    assert [row[0] for row in copy.rows()] == [n for n in range(1, 101) if n not in (7, 90)]
    assert copy.rows()[6] == (8, "2.00", "ok")


async def test_handlers_set_aside_for_one_handler_alone(database: Database, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    handlers, seen, broken = Handlers(), list[tuple[str, int, str]](), {1}

    @handlers.on("public.t", "insert", "update")
    async def picky(change: Change) -> None:
        if change.row["id"] in broken:
            raise ValueError("secret")
        seen.append(("picky", change.row["id"], change.row["note"]))

    @handlers.on("public.t", "insert", "update")
    async def easy(change: Change) -> None:
        seen.append(("easy", change.row["id"], change.row["note"]))

    config = HandlerSinkConfig(handlers, retries=1, backoff=0.001, on_error="set_aside")
    source = SourceConfig(dsn=Secret(database.dsn()), name="dead", slot=database.name, publication="p")
    make = Copy.__new__(Copy)
    make.origin = database
    make.pipeline = Pipeline(
        PostgresSource(source), {"copy": lambda context: HandlerSink(config, context)}, tmp_path, SETTINGS
    )
    async with copying(make) as copy:
        await copy.run(
            "insert into t values (1, 1, 'a'), (2, 1, 'a')",
            "update t set note = 'b' where id = 1",
            "update t set note = 'b' where id = 2",
        )
        assert sorted(seen) == [
            ("easy", 1, "a"), ("easy", 2, "a"), ("easy", 2, "b"), ("picky", 2, "a"), ("picky", 2, "b"),
        ]  # fmt: skip
        letters = copy.pipeline.dead_letters("copy")
        assert [(one.kind, one.by.rpartition(".")[2], one.attempts) for one in letters] == [
            ("handler", "picky", 2),
            ("behind", "", 0),
        ]
        assert "secret" not in letters[0].message
        seen.clear()
        broken.clear()
        assert [one.outcome for one in await copy.pipeline.retry_dead("copy")] == ["applied", "applied"]
        assert sorted(seen) == [("easy", 1, "b"), ("picky", 1, "a"), ("picky", 1, "b")]
    assert (tmp_path / "sinks" / "copy.dead.jsonl").stat().st_mode & 0o777 == 0o600
