"""A copy compared with its source while both are in use: what differs is found, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from duckdb import connect as connected
from verify_tools import duckdb, postgres, world

from walcast.app.verifying import Notes, Wanted
from walcast.model import OperatorError
from walcast.testing.postgres import Database, PostgresServer
from walcast.verify.report import TableReport

SCHEMA = """
create table t (id bigint primary key, a text, n numeric, f float8, at timestamptz);
insert into t select n, 'row ' || n, n * 1.50, n / 7.0, '2024-01-01'::timestamptz + n * interval '1 s'
  from generate_series(1, 1000) n;
create table names (name text, part int, body jsonb, primary key (name, part));
insert into names select 'name ' || n, n % 7, jsonb_build_object('n', n) from generate_series(1, 500) n;
create table log (line text, n int);
alter table log replica identity full;
insert into log select 'line ' || n % 10, n % 3 from generate_series(1, 300) n;
create publication p for all tables;
"""


@pytest.fixture
def target(postgres_server: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres_server)


async def test_what_is_equal_is_said_to_be(database: Database, target: Database, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    async with world(database, tmp_path, copy=postgres(target)) as made:
        report = await made.verify(span_rows=300)
    assert report.state == "equal"
    assert {table.table: (table.rows, table.copy_rows) for table in report.tables} == {
        "public.t": (1000, 1000),
        "public.names": (500, 500),
        "public.log": (300, 300),
    }
    spans = {table.table: table.ranges for table in report.tables}
    assert spans == {"public.t": 4, "public.names": 1, "public.log": 1}


async def test_every_kind_of_difference_is_named(
    database: Database, target: Database, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    async with world(database, tmp_path, copy=postgres(target)) as made:
        await made.caught_up()
        target.execute("""
            delete from t where id = 5;
            insert into t (id, a) values (5000, 'extra');
            update t set a = null, f = '-0' where id = 7;
            update names set body = '{"n": 0}' where name = 'name 9';
            delete from log where ctid = (select ctid from log limit 1);
        """)
        report = await made.verify(span_rows=300, values=True)
        tables = {table.table: table for table in report.tables}
        t, names, log = tables["public.t"], tables["public.names"], tables["public.log"]
        assert (report.state, report.differences) == ("different", 5)
        found = {row.key["id"]: (row.kind, row.columns) for row in t.listed}
        assert found == {
            "5": ("missing", {}),
            "5000": ("extra", {}),
            "7": ("different", {"a": ("row 7", None), "f": ("1", "-0")}),
        }
        assert [(row.kind, row.key, list(row.columns)) for row in names.listed] == [
            ("different", {"name": "name 9", "part": "2"}, ["body"])
        ]
        assert (log.differences["missing"], log.differences["extra"]) == (1, 0)

        repaired = await made.verify(repair=True)
        states = {table.table: (table.state, table.repaired) for table in repaired.tables}
        assert states == {
            "public.t": ("repaired", 3),
            "public.names": ("repaired", 1),
            "public.log": ("repaired", 1),
        }
        (anew,) = (table for table in repaired.tables if table.table == "public.log")
        assert "copied anew" in str(anew.reason), "its rows have no key"
        assert (await made.verify()).state == "equal"


async def test_a_copy_in_duckdb_is_compared_and_repaired(database: Database, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    path = tmp_path / "copy.duckdb"
    async with world(database, tmp_path / "state", copy=duckdb(path)) as made:
        assert (await made.verify(span_rows=300)).state == "equal"
    with connected(str(path)) as connection:
        connection.execute("use public")
        connection.execute("delete from t where id = 5")
        connection.execute("insert into t select * from t where id = 6")
        connection.execute("insert into t (id, a) values (5000, 'extra')")
        connection.execute("update t set a = null, f = '-0'::double where id = 7")
        connection.execute("""update names set body = '{"n": 0}' where name = 'name 9'""")
        connection.execute("insert into log select * from log limit 1")
        connection.execute("update log set n = 9 where rowid = (select max(rowid) from log)")
    async with world(database, tmp_path / "state", copy=duckdb(path)) as made:
        report = await made.verify(span_rows=300, values=True)
        t, names, log = (next(x for x in report.tables if x.table.endswith(n)) for n in ("t", "names", "log"))
        assert {row.key["id"]: (row.kind, row.columns) for row in t.listed} == {
            "5": ("missing", {}),
            "6": ("duplicate", {}),
            "5000": ("extra", {}),
            "7": ("different", {"a": ("row 7", None), "f": ("1.0", "-0.0")}),
        }
        assert (names.total, log.differences["missing"], log.differences["extra"]) == (1, 0, 1)
        repaired = await made.verify(repair=True)
        assert [table.state for table in repaired.tables] == ["repaired"] * 3
        assert (await made.verify()).state == "equal"


async def test_a_commit_that_waits_for_a_standby_is_no_difference(
    postgres_factory: Callable[..., PostgresServer],
    make_database: Callable[[PostgresServer], Database],
    target: Database,
    tmp_path: Path,
) -> None:
    server = postgres_factory(
        18, settings={"synchronous_standby_names": "ghost", "synchronous_commit": "local"}
    )
    origin = make_database(server)
    origin.execute(SCHEMA)
    async with world(origin, tmp_path, source={"allow_synchronous": True}, copy=postgres(target)) as made:
        waiting = threading.Thread(
            target=origin.execute, args=("set synchronous_commit = on; update t set a = 'new' where id = 3",)
        )
        waiting.start()
        async with asyncio.timeout(10):
            while target.execute("select a from t where id = 3") != [("new",)]:
                made.flow.source.poke()
                await asyncio.sleep(0.01)
        assert origin.execute("select a from t where id = 3") == [("row 3",)]
        comparing = asyncio.create_task(made.verify())
        async with asyncio.timeout(10):
            while made.last is None or "not yet visible" not in made.last.progress.note:  # noqa: ASYNC110  # a status
                await asyncio.sleep(0.01)
        assert not comparing.done()
        server.execute("alter system set synchronous_standby_names = ''")
        server.execute("select pg_reload_conf()")
        waiting.join()
        assert (await comparing).state == "equal"


async def test_a_sink_that_fails_meanwhile_costs_another_fence(
    database: Database, target: Database, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    async with world(database, tmp_path, copy=postgres(target)) as made:
        comparing = asyncio.create_task(made.verify(rate=2000.0, span_rows=100, hold=0.05))
        for _ in range(5):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(
                target.execute,
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and application_name !~ 'view'",
            )
        report = await comparing
        assert (report.state, report.rows) == ("equal", 1800)


async def test_a_comparison_that_was_broken_off_goes_on(
    database: Database, target: Database, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    async with world(database, tmp_path, copy=postgres(target)) as made:
        notes = Notes(tmp_path, Wanted("copy"))
        reached = asyncio.Event()

        async def note(table: TableReport, upper: tuple[str, ...] | None) -> None:
            await notes.save(table, upper)
            if (table.table, upper) == ("public.t", ("500",)):
                reached.set()
                await asyncio.sleep(30)

        comparing = asyncio.create_task(made.verify(span_rows=100, rate=400.0, finished=note))
        await asyncio.wait([comparing, asyncio.ensure_future(reached.wait())], return_when="FIRST_COMPLETED")
        if comparing.done():
            comparing.result()
        comparing.cancel()
        await asyncio.wait([comparing])
        with pytest.raises(OperatorError, match="broken off"):
            Notes(tmp_path, Wanted("copy", repair=True)).load()
        done, begun = Notes(tmp_path, Wanted("copy")).load()
        assert set(done) == {"public.log", "public.names"}
        assert begun is not None
        assert int(begun[1][0]) in range(100, 600, 100)  # written down no more often than twice a second
        report = await made.verify(span_rows=100, done=done, begun=begun)
        assert {table.table: (table.state, table.rows) for table in report.tables} == {
            "public.log": ("equal", 300),
            "public.names": ("equal", 500),
            "public.t": ("equal", 1000),
        }
        assert made.last is not None
        assert made.last.report.tables[0] is done["public.log"]
