"""Names that a server allows, through the whole pipeline into PostgreSQL, DuckDB and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
from psycopg import sql
from tests.flow_tools import running

from walcast.engine import Pipeline, PipelineSettings
from walcast.model import Lsn
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig
from walcast.testing.postgres import Database, PostgresServer

NAMES = (
    'say "hi"',
    "it's",
    "shop.order",
    "Order",
    "select",
    "user",
    "table",
    "🍏 emoji",
    "ü" * 31,
    "x" * 63,
    "per%cent %s %(x)s {} {0}",
    "$1 :name ?",
    "semi;colon -- /*",
    "back\\slash",
    "tab\tand\nnewline",
    " blank ",
    "_op",
    "_walcast",
    "schema",
    "*",
)
SETTINGS = PipelineSettings(serve=False, backoff_first=0.05, retry_limit=5)


def quoted(*parts: str) -> sql.Identifier:
    return sql.Identifier(*parts)


def fill(database: Database, schema: str, name: str) -> None:
    """A table of that name, with a column, a type and a label of that name."""
    with database.connect() as connection:
        parts = {
            "table": quoted(schema, name),
            "column": quoted(name),
            "type": quoted(schema, f"{name[:25]} t"),
        }
        for statement in (
            "create type {type} as enum ({label}, 'b')",
            "create table {table} (id int primary key, {column} text, kind {type})",
            "insert into {table} values (1, {value}, {label}), (2, 'two', 'b'), (3, 'three', null)",
        ):
            values = {"label": sql.Literal(name[:31]), "value": sql.Literal(name)}
            connection.execute(sql.SQL(statement).format(**parts, **values))


def change(database: Database, schema: str, name: str) -> None:
    """An insert, an update, a key change, a delete and a new column."""
    table, column = quoted(schema, name), quoted(name)
    with database.connect() as connection:
        for statement in (
            "insert into {table} values (4, 'four', 'b')",
            "update {table} set {column} = {column} || '!' where id = 1",
            "update {table} set id = 20 where id = 2",
            "delete from {table} where id = 3",
            "alter table {table} add column {more} int",
            "insert into {table} values (5, 'five', null, 5)",
        ):
            more = quoted(f"{name[:20]}+")
            connection.execute(sql.SQL(statement).format(table=table, column=column, more=more))


def rows(database: Database, schema: str, name: str) -> list[tuple[Any, ...]]:
    query = sql.SQL("select x::text from (select * from {} order by id) x").format(quoted(schema, name))
    return database.execute(query)


async def test_every_name_that_a_server_allows_comes_through(
    database: Database,
    make_database: Callable[[PostgresServer], Database],
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    target = make_database(postgres_server)
    odd = 'odd "Schema".🍐'
    tables = [("public", name) for name in NAMES] + [(odd, name) for name in NAMES[:4]]
    database.execute(sql.SQL("create schema {}").format(quoted(odd)))
    for schema, name in tables:
        fill(database, schema, name)
    publication = 'all "of" 🍏 them.'
    database.execute(sql.SQL("create publication {} for all tables").format(quoted(publication)))
    config = SourceConfig(
        dsn=Secret(database.dsn()), name='it\'s "p" 🍏', slot=database.name, publication=publication
    )
    path = tmp_path / 'it\'s "copy" 🍏.duckdb'
    sinks: dict[str, Any] = {
        'to "pg"': lambda context: PostgresSink(PostgresSinkConfig(Secret(target.dsn())), context),
        "it's duck": lambda context: DuckDBSink(DuckDBSinkConfig(path), context),
        "files 🍏": lambda context: JsonLinesSink(JsonLinesSinkConfig(tmp_path / "lines"), context),
    }
    flow = Pipeline(PostgresSource(config), sinks, tmp_path / "state", SETTINGS, name='it\'s "p" 🍏')
    async with running(flow, 60):
        for schema, name in tables:
            change(database, schema, name)
        ((text,),) = database.execute("select pg_current_wal_insert_lsn()::text")
        await flow.wait_for(Lsn.parse(text), timeout=60)
        assert [sink.stopped_tables for sink in flow.status().sinks] == [(), (), ()]
    with duckdb.connect(str(path)) as copy:
        for schema, name in tables:
            wanted = rows(database, schema, name)
            assert rows(target, schema, name) == wanted, name
            query = f"select * from {duck(schema)}.{duck(name)} order by id"
            assert copy.execute(query).fetchall() == values(database, schema, name), name
    files = sorted((tmp_path / "lines").glob("*.jsonl*"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    seen = {(line["schema"], line["table"]) for line in lines}
    assert seen == set(tables)


def values(database: Database, schema: str, name: str) -> list[tuple[Any, ...]]:
    return database.execute(sql.SQL("select * from {} order by id").format(quoted(schema, name)))


def duck(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
