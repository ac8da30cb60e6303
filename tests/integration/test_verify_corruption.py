"""Every corruption that is planted in a copy is found, with its key and its column, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from duckdb import connect as connected
from verify_tools import duckdb, postgres, world

from walcast.testing.postgres import Database, PostgresServer
from walcast.verify.report import TableReport

SCHEMA = """
create type mood as enum ('sad', 'ok');
create table t (
  id bigint primary key, a text, n numeric, price numeric(12,2), f8 float8, f4 float4, i int, b bytea, at timestamptz,
  day date, flag bool, u uuid, j jsonb, raw json, list int[], m mood, span interval, c char(8), "odd, 'name'" text
);
insert into t select k, 'row é ' || k || '|~\\', k * 1.10, k * 1.5, k / 7.0, k / 3.0, k, decode(lpad(to_hex(k), 8, '0'), 'hex'),
  '2024-02-29 12:00:00.000001Z'::timestamptz + k * interval '1 s', '2024-02-29'::date + k, k % 2 = 0,
  ('00000000-0000-0000-0000-' || lpad(to_hex(k), 12, '0'))::uuid, jsonb_build_object('k', k), ('{"k":  ' || k || '}')::json,
  array[k, null, 3], 'ok', k * interval '1 hour', 'c' || k, ''
  from generate_series(1, 4000) k;
insert into t (id) values (0);
create publication p for all tables;
"""
POSTGRES: dict[str, tuple[str, str]] = {
    "stale": ("a", "update t set a = 'row é ' || (id - 1) || '|~\\' where id = {}"),
    "one bit of a text": (
        "a",
        "update t set a = overlay(a placing chr(ascii(substr(a, 1, 1)) # 1) from 1 for 1) where id = {}",
    ),
    "one bit of bytes": ("b", "update t set b = set_bit(b, 5, 1 - get_bit(b, 5)) where id = {}"),
    "one bit of a number": ("i", "update t set i = i # 1 where id = {}"),
    "last bit of a float": ("f8", "update t set f8 = f8 * (1 + 2.3e-16) where id = {}"),
    "null for empty": ("odd, 'name'", "update t set \"odd, 'name'\" = null where id = {}"),
    "a blank for empty": ("odd, 'name'", "update t set \"odd, 'name'\" = ' ' where id = {}"),
    "the null mark for null": ("odd, 'name'", "update t set \"odd, 'name'\" = '~' where id = {}"),
    "numeric scale": ("n", "update t set n = n::numeric(20,3) where id = {}"),
    "text normalisation": ("a", "update t set a = normalize(a, nfd) where id = {}"),
    "microsecond": ("at", "update t set at = at + interval '1 us' where id = {}"),
    "day": ("day", "update t set day = day - 1 where id = {}"),
    "flag": ("flag", "update t set flag = not flag where id = {}"),
    "uuid": ("u", "update t set u = 'ffffffff-0000-0000-0000-000000000000' where id = {}"),
    "jsonb": ("j", "update t set j = j || '{{\"x\": null}}' where id = {}"),
    "json's blanks": ("raw", "update t set raw = replace(raw::text, '  ', ' ')::json where id = {}"),
    "array": ("list", "update t set list = array[list[1], 3, null] where id = {}"),
    "enum": ("m", "update t set m = 'sad' where id = {}"),
    "interval": ("span", "update t set span = justify_hours(span) + interval '1 us' where id = {}"),
    "price": ("price", "update t set price = price + 0.01 where id = {}"),
}
DUCKDB: dict[str, tuple[str, str]] = {
    "stale": ("a", "update t set a = 'row é ' || (id - 1) || '|~\\' where id = {}"),
    "one bit of a text": ("a", "update t set a = 's' || substr(a, 2) where id = {}"),
    "one bit of bytes": (
        "b",
        "update t set b = unhex(lpad(to_hex(id # 1), 8, '0')) where id = {}".replace(" # ", " + "),
    ),
    "one bit of a number": ("i", "update t set i = xor(i, 1) where id = {}"),
    "last bit of a float": ("f8", "update t set f8 = f8 * (1 + 2.3e-16::double) where id = {}"),
    "null for empty": ("odd, 'name'", "update t set \"odd, 'name'\" = null where id = {}"),
    "the null mark for null": ("odd, 'name'", "update t set \"odd, 'name'\" = '~' where id = {}"),
    "numeric scale": ("n", "update t set n = n || '0' where id = {}"),
    "text normalisation": ("a", "update t set a = replace(a, 'é', 'e\u0301') where id = {}"),
    "microsecond": ("at", 'update t set "at" = "at" + interval \'1 microsecond\' where id = {}'),
    "day": ("day", "update t set day = day - 1 where id = {}"),
    "flag": ("flag", "update t set flag = not flag where id = {}"),
    "uuid": ("u", "update t set u = 'ffffffff-0000-0000-0000-000000000000' where id = {}"),
    "json's blanks": ("raw", "update t set raw = replace(raw::varchar, '  ', ' ')::json where id = {}"),
    "array": ("list", "update t set list = replace(list, 'NULL', '0') where id = {}"),
    "enum": ("m", "update t set m = 'sad' where id = {}"),
    "price": ("price", "update t set price = price + 0.01 where id = {}"),
}
ZERO = """
create temporary table zero as select * from t where id = 0;
delete from t where id = 0;
update zero set f8 = 1, f4 = 1;
update zero set f8 = '-0', f4 = '-0';
insert into t select * from zero;
"""
"""In DuckDB an update of 0 to -0 changes nothing."""


def planted(
    run: Callable[[str], object], kinds: dict[str, tuple[str, str]], count: int, seed: int
) -> dict[str, tuple[str, list[str]]]:
    """Corrupts so many rows; what has to be found: kind and columns by id."""
    chance = random.Random(seed)
    expected: dict[str, tuple[str, list[str]]] = {}
    ids = chance.sample(range(1, 4001), count)
    for place, key in enumerate(ids):
        if place % 10 == 0:
            run(f"delete from t where id = {key}")
            expected[str(key)] = ("missing", [])
        elif place % 10 == 1:
            run(f"insert into t (id, a) values ({key + 100000}, 'extra')")
            expected[str(key + 100000)] = ("extra", [])
        else:
            column, statement = kinds[chance.choice(list(kinds))]
            run(statement.format(key))
            expected[str(key)] = ("different", [column])
    return expected


def found(table: TableReport) -> dict[str, tuple[str, list[str]]]:
    return {row.key["id"]: (row.kind, list(row.columns)) for row in table.listed}


@pytest.fixture
def target(postgres_server: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(postgres_server)


async def test_a_thousand_corruptions_of_a_copy_in_postgres(
    database: Database, target: Database, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    database.execute("update t set f8 = 0, f4 = 0 where id = 0")
    async with world(database, tmp_path, copy=postgres(target)) as made:
        await made.caught_up()
        (clean,) = (await made.verify(listed=2000)).tables
        assert found(clean) == {}
        with target.connect() as connection:
            expected = planted(connection.execute, POSTGRES, 1000, 1)  # type: ignore[arg-type]  # a test's own statements
            connection.execute(ZERO)  # type: ignore[arg-type]
        expected["0"] = ("different", ["f8", "f4"])
        (table,) = (await made.verify(listed=2000, span_rows=1500)).tables
        assert found(table) == expected
        assert (await made.verify(repair=True)).state == "repaired"
        assert (await made.verify()).state == "equal"


async def test_a_thousand_corruptions_of_a_copy_in_duckdb(database: Database, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    database.execute("update t set f8 = 0, f4 = 0 where id = 0")
    path = tmp_path / "copy.duckdb"
    async with world(database, tmp_path / "state", copy=duckdb(path)) as made:
        await made.caught_up()
        (clean,) = (await made.verify(listed=2000)).tables
        assert found(clean) == {}
    with connected(str(path)) as connection:
        connection.execute("set TimeZone = 'UTC'; use public; begin")
        expected = planted(connection.execute, DUCKDB, 1000, 2)
        connection.execute(ZERO)
        connection.execute("commit")
    expected["0"] = ("different", ["f8", "f4"])
    async with world(database, tmp_path / "state", copy=duckdb(path)) as made:
        (table,) = (await made.verify(listed=2000, span_rows=1500)).tables
        assert found(table) == expected
        assert (await made.verify(repair=True)).state == "repaired"
        assert (await made.verify()).state == "equal"
