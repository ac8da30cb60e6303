"""Every value that PostgreSQL can hold is the same in DuckDB, or stops its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from psycopg import sql
from sink_tools import CONTEXT, kept
from type_values import SINCE, VALUES

from walcast import decode
from walcast.decode import StreamBatch
from walcast.decode.builtin import BUILTIN
from walcast.model import Column, Part, Relation, TableId, TableStopped
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.testing.postgres import Database

REFUSED = {
    "numeric(10,2)": ("NaN",),
    "timestamp": ("294276-12-31 23:59:59.999999",),
    "timestamptz": ("294276-12-31 23:59:59.999999+00", "294247-01-10 04:00:54.775807+00"),
    "json": ('"\\ud800"',),
}
NATIVE = {
    "bool": "BOOLEAN",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "oid": "UINTEGER",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "numeric": "VARCHAR",
    "numeric(10,2)": "DECIMAL(10,2)",
    "text": "VARCHAR",
    "bytea": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timetz": "TIME WITH TIME ZONE",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "interval": "VARCHAR",
    "uuid": "UUID",
    "json": "JSON",
    "jsonb": "JSON",
    "int4[]": "VARCHAR",
}


class Copied:
    """A column of values at a real server, as COPY BINARY has them, and as text."""

    def __init__(self, database: Database, name: str, values: tuple[str, ...], number: int) -> None:
        self.table = TableId("public", f"t{number}")
        with database.connect() as connection:
            identifier = sql.Identifier(*self.table)
            connection.execute("set timezone = 'UTC'; set extra_float_digits = 3")
            connection.execute(
                sql.SQL("create table {} (id serial primary key, v {})").format(identifier, sql.SQL(name))  # type: ignore[arg-type]  # a type's name
            )
            for value in (*values, None):
                connection.execute(sql.SQL("insert into {} (v) values (%s)").format(identifier), [value])
            self.texts = [
                row[0]
                for row in connection.execute(
                    sql.SQL(
                        "select case when v is not null then format('%s', v) end from {} order by id"
                    ).format(identifier)
                ).fetchall()
            ]
            oid, typmod = connection.execute(
                "select atttypid::int8, atttypmod from pg_attribute where attrelid = %s::regclass and attname = 'v'",
                [str(self.table)],
            ).fetchone() or (0, 0)
            with connection.cursor().copy(
                sql.SQL("copy (select id, v from {} order by id) to stdout (format binary)").format(
                    identifier
                )
            ) as copy:
                data = b"".join(bytes(block) for block in copy)
        self.oid = oid
        columns = [("id", 23, -1, True), ("v", oid, typmod, False)]
        relation = Relation(
            20000 + number,
            self.table,
            tuple(
                Column(name, BUILTIN[oid], typmod, key=key, attnum=n + 1)
                for n, (name, oid, typmod, key) in enumerate(columns)
            ),
        )
        frames = decode.snapshot_frames((relation.oid, *self.table, "d", columns), [data], "binary", 0x5000)
        self.batch = StreamBatch(frames, [relation], decode.Catalog([]), part=Part(0, True))


def copies(database: Database) -> dict[str, Copied]:
    """Every built-in type that this server has, and has a binary form."""
    values = dict(VALUES)
    for more in SINCE.values():
        for name, added in more.items():
            values[name] = (*values.get(name, ()), *added)
    found = {}
    for number, (name, texts) in enumerate(values.items()):
        if name.startswith(("app.", "xml")):  # user-defined; not every server is built with it
            continue
        held = tuple(text for text in texts if text not in REFUSED.get(name, ()))
        copied = Copied(database, name, held, number)
        if BUILTIN[copied.oid].has_binary:
            found[name] = copied
    return found


async def test_every_type_of_a_real_server(database: Database, tmp_path: Path) -> None:
    known = copies(database)
    assert len(known) > 60
    async with DuckDBSink(DuckDBSinkConfig(tmp_path / "copy.duckdb"), CONTEXT) as sink:
        for copied in known.values():
            await kept(sink, [copied.batch])
    with duckdb.connect(str(tmp_path / "copy.duckdb")) as connection:
        connection.execute("set TimeZone = 'UTC'")
        for name, copied in known.items():
            kind = connection.execute(
                "select data_type from duckdb_columns() where table_name = ? and column_name = 'v'",
                [copied.table.name],
            ).fetchall()[0][0]
            assert kind == NATIVE.get(name, kind), name
            found = connection.execute(
                f"select {_text(kind)} from public.{copied.table.name} order by id"
            ).fetchall()
            assert [_read(kind, row[0]) for row in found] == [_read(kind, text) for text in copied.texts], (
                name
            )


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
async def test_a_value_that_duckdb_cannot_hold_stops_its_table(
    database: Database, tmp_path: Path, name: str, value: str
) -> None:
    copied = Copied(database, name, (value,), 1)
    async with DuckDBSink(DuckDBSinkConfig(tmp_path / "copy.duckdb"), CONTEXT) as sink:
        with pytest.raises(TableStopped, match=r"public\.t1") as stopped:
            await kept(sink, [copied.batch])
        assert value not in stopped.value.message
        assert "resync" in (stopped.value.hint or "")
        assert await sink.count(copied.table) == 0
    if name == "numeric(10,2)":
        async with DuckDBSink(DuckDBSinkConfig(tmp_path / "copy.duckdb", numeric="text"), CONTEXT) as sink:
            await kept(sink, [copied.batch])
            _, rows = await sink.query("select v from public.t1 order by id")
            assert rows == [("NaN",), (None,)]


async def test_numbers_and_arrays_as_chosen(database: Database, tmp_path: Path) -> None:
    choices = DuckDBSinkConfig(tmp_path / "copy.duckdb", numeric="float", json="text", arrays="list")
    examples: list[tuple[str, tuple[str, ...], str, list[Any]]] = [
        ("numeric", ("1.5", "NaN", "1e300"), "DOUBLE", [1.5, "nan", 1e300]),
        ("jsonb", ('{"a": 1}',), "VARCHAR", ['{"a": 1}']),
        ("int4[]", ("{1,NULL,3}", "{}"), "INTEGER[]", [[1, None, 3], []]),
        ("text[]", ('{a,"b,c"}',), "VARCHAR[]", [["a", "b,c"]]),
        ("date[]", ("{2024-02-29}",), "DATE[]", ["[2024-02-29]"]),
        ("timestamp[]", ('{"0044-03-15 12:00:00 BC",infinity}',), "TIMESTAMP[]", None),  # type: ignore[list-item]
    ]
    async with DuckDBSink(choices, CONTEXT) as sink:
        for number, (name, values, _, _) in enumerate(examples):
            await kept(sink, [Copied(database, name, values, number).batch])
    with duckdb.connect(str(tmp_path / "copy.duckdb")) as connection:
        for number, (_, _, kind, expected) in enumerate(examples):
            rows = connection.execute(
                f"select v, cast(v as varchar), typeof(v) from public.t{number} where v is not null order by id"
            ).fetchall()
            assert {row[2] for row in rows} == {kind}
            if expected is not None:
                for row, value in zip(rows, expected, strict=True):
                    assert value in (row[0], row[1])
            else:
                assert rows[0][1] == "['0044-03-15 (BC) 12:00:00', infinity]"


async def test_an_array_of_two_dimensions_is_no_list(database: Database, tmp_path: Path) -> None:
    copied = Copied(database, "int4[]", ("{{1,2},{3,4}}",), 1)
    async with DuckDBSink(DuckDBSinkConfig(tmp_path / "copy.duckdb", arrays="list"), CONTEXT) as sink:
        with pytest.raises(TableStopped):
            await kept(sink, [copied.batch])


def _text(kind: str) -> str:
    texts = {"BOOLEAN": "if(v, 't', 'f')", "BLOB": "'\\x' || lower(hex(v))"}
    return f"if(v is null, null, {texts.get(kind, 'cast(v as varchar)')})"


def _read(kind: str, text: str | None) -> object:
    if text is None or kind not in ("FLOAT", "DOUBLE"):
        return text.replace(" (BC)", "") + " BC" if text and " (BC)" in text else text
    return str(float(text))
