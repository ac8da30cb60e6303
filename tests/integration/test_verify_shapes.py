"""No difference is seen where there is none: every type, every shape of a table, names, filters, partitions, keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import sql
from tests.soak_verify import servers, soak
from type_values import VALUES
from verify_tools import World, duckdb, postgres, world

from walcast.testing.postgres import Database, PostgresServer

REFUSED_BY_DUCKDB = {
    "numeric(10,2)": ("NaN",),
    "timestamp": ("294276-12-31 23:59:59.999999",),
    "timestamptz": ("294276-12-31 23:59:59.999999+00", "294247-01-10 04:00:54.775807+00"),
    "json": ('"\\ud800"',),
}


@pytest.fixture
def target(postgres_server: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres_server)


def every_type(database: Database) -> int:
    """A table for each type, with all its odd values; how many."""
    made = 0
    with database.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name, values in VALUES.items():
            if name.startswith(("app.", "xml")):
                continue
            table = sql.Identifier(f"v {made}")
            connection.execute(
                sql.SQL("create table {} (id serial primary key, v {})").format(table, sql.SQL(name))  # type: ignore[arg-type]  # a type's name
            )
            for value in (*values, None):
                if value not in REFUSED_BY_DUCKDB.get(name, ()):
                    connection.execute(sql.SQL("insert into {} (v) values (%s)").format(table), [value])
            made += 1
        connection.execute("create publication p for all tables")
    return made


async def test_every_value_of_every_type_is_equal(
    database: Database, target: Database, tmp_path: Path
) -> None:
    count = every_type(database)
    lake = duckdb(tmp_path / "copy.duckdb")
    async with world(database, tmp_path / "state", copy=postgres(target), lake=lake) as made:
        for sink in ("copy", "lake"):
            report = await made.verify(sink)
            assert {t.table: (t.listed, t.reason) for t in report.tables if t.state != "equal"} == {}
            assert (len(report.tables), [t.not_compared for t in report.tables]) == (count, [[]] * count)


SHAPES = """
create type mood as enum ('b', 'a');
create domain code as text check (value <> '');
create table "Odd ""name"" é" ("Key, 1" text, "k2" mood, v int, primary key ("Key, 1", k2));
insert into "Odd ""name"" é" select 'k|' || n, (array['b','a'])[1 + n % 2]::mood, n from generate_series(1, 100) n;
create table by_code (c code primary key, f float8 unique, n numeric(10,2));
insert into by_code select 'c' || n, n / 3.0, n from generate_series(1, 100) n;
create table by_float (f float8 primary key, b bool);
insert into by_float select n / 3.0, n % 2 = 0 from generate_series(1, 100) n;
create table by_number (n numeric primary key);
insert into by_number values (1.0), (2.00), ('NaN'), (1e30);
create table flags (b bool, d date, t timestamptz, u uuid, x bytea, n int, primary key (b, d, t, u, x));
insert into flags select n % 2 = 0, date '2020-01-01' + n, timestamptz '2020-01-01Z' + n * interval '1 us',
  ('00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid, decode(lpad(to_hex(n), 4, '0'), 'hex'), n
  from generate_series(1, 100) n;
create table parts (id int primary key, v text) partition by range (id);
create table parts_1 partition of parts for values from (0) to (50);
create table parts_2 partition of parts for values from (50) to (1000);
insert into parts select n, 'p' || n from generate_series(1, 100) n;
create table filtered (id int primary key, shown bool, secret text);
insert into filtered select n, n % 3 = 0, 's' from generate_series(1, 100) n;
create table no_key (a int, b text);
alter table no_key replica identity full;
insert into no_key select n % 7, null from generate_series(1, 100) n;
create table empty (id int primary key);
create table wide (id int primary key, {wide});
insert into wide (id) select n from generate_series(1, 10) n;
create publication p for table "Odd ""name"" é", by_code, by_float, by_number, flags, parts, no_key, empty, wide,
  filtered (id, shown) where (shown) with (publish_via_partition_root = true);
""".replace("{wide}", ", ".join(f"c{number} int default {number}" for number in range(250)))


async def test_keys_names_filters_lists_and_partitions(
    database: Database, target: Database, tmp_path: Path
) -> None:
    database.execute(SHAPES)
    lake = duckdb(tmp_path / "copy.duckdb")
    copy = postgres(target, schemas={"public": "copied"})
    async with world(database, tmp_path / "state", copy=copy, lake=lake) as made:
        for sink in ("copy", "lake"):
            await _changed_and_equal(made, sink)
            report = await made.verify(sink, span_rows=30)
            assert {t.table: (t.state, t.reason, t.listed) for t in report.tables if t.state != "equal"} == {}
            rows = {t.table: (t.rows, t.copy_rows) for t in report.tables}
            assert rows["public.filtered"] == (33, 33)
            assert rows["public.parts"] == (100, 100)
        target.execute("update copied.by_float set b = not b where f = 2 / 3.0::float8")
        target.execute("""delete from copied."Odd ""name"" é" where "Key, 1" = 'k|7'""")
        target.execute("alter table copied.parts add column extra int default 7")
        mended = await made.verify("copy", repair=True)
        assert (mended.differences, mended.state) == (2, "repaired")
        assert (await made.verify("copy")).state == "equal"


async def _changed_and_equal(made: World, sink: str) -> None:
    made.origin.execute("update by_number set n = 2.0 where n = 2; update by_number set n = 2.00 where n = 2")
    await made.caught_up()


async def test_a_column_that_a_copy_does_not_hold_is_named(
    database: Database, target: Database, tmp_path: Path
) -> None:
    database.execute("create table t (id int primary key, a int); insert into t values (1, 2)")
    database.execute("create publication p for all tables")
    async with world(database, tmp_path, copy=postgres(target)) as made:
        target.execute("alter table t drop column a")
        (table,) = (await made.verify()).tables
        assert (table.state, table.not_compared) == ("equal", ["a"])
        target.execute("drop table t")
        (table,) = (await made.verify()).tables
        assert (table.state, table.reason) == ("skipped", "the copy has no such table")


async def test_it_keeps_to_a_pace(database: Database, target: Database, tmp_path: Path) -> None:
    database.execute("create table t (id int primary key); insert into t select generate_series(1, 1000)")
    database.execute("create publication p for all tables")
    async with world(database, tmp_path, copy=postgres(target)) as made:
        began = time.monotonic()
        (table,) = (await made.verify(rate=1000.0, span_rows=100)).tables
        assert (table.rows, table.state) == (1000, "equal")
        assert time.monotonic() - began > 0.9  # the last span waits for nobody


async def test_a_table_truncated_while_it_is_compared_is_no_difference(
    database: Database, target: Database, tmp_path: Path
) -> None:
    database.execute("create table t (id int primary key); insert into t select generate_series(1, 1000)")
    database.execute("create publication p for all tables")
    async with world(database, tmp_path, copy=postgres(target)) as made:
        comparing = asyncio.create_task(made.verify(rate=1500.0, span_rows=100, hold=0.1))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(database.execute, "truncate t")
        (table,) = (await comparing).tables
        assert (table.state, table.reason) == ("equal", None)


async def test_nothing_is_found_while_everything_is_written(tmp_path: Path) -> None:
    with servers() as (server, other):
        tally = await soak(server, other, tmp_path, rounds=25, seconds=60, seed=3)
    assert (tally.differences, tally.skipped) == (0, 0)
    assert tally.rounds >= 8
