"""The decoders print what the server prints, byte for byte, for every type."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.property.samples import SETTINGS, given_types, has_xml
from type_values import EXTENSIONS, RANDOM, SCHEMA, SINCE, VALUES

from walcast.decode import NATIVE, TWIN
from walcast.decode.frames import Implementation
from walcast.testing.postgres import Database, PostgresServer

DECODERS = [TWIN] if NATIVE is None else [NATIVE, TWIN]


@pytest.fixture(scope="module", params=(13, 15, 18), ids=lambda version: f"pg{version}")
def typed(
    request: pytest.FixtureRequest, shared_postgres: Callable[[int], PostgresServer]
) -> Iterator[tuple[psycopg.Connection[Any], int]]:
    """A connection with our settings to a database with the types of `SCHEMA` and what extensions there are."""
    server = shared_postgres(request.param)
    database = Database.create(server)
    with psycopg.connect(
        database.dsn(), options=SETTINGS, autocommit=True, prepare_threshold=None
    ) as connection:
        connection.execute(SCHEMA)
        connection.execute("create schema ext")
        for name in EXTENSIONS:
            if connection.execute("select 1 from pg_available_extensions where name = %s", [name]).fetchone():
                connection.execute(sql.SQL("create extension {} schema ext").format(sql.Identifier(name)))
        yield connection, request.param
    database.drop()


def test_every_value_is_printed_as_the_server_prints_it(typed: tuple[psycopg.Connection[Any], int]) -> None:
    connection, version = typed
    wanted: dict[str, list[str]] = {name: list(values) for name, values in VALUES.items()}
    for since, types in SINCE.items():
        for name, values in types.items() if version >= since else ():
            wanted.setdefault(name, []).extend(values)
    for extension, types in EXTENSIONS.items():
        if connection.execute("select 1 from pg_extension where extname = %s", [extension]).fetchone():
            wanted.update({name: list(values) for name, values in types.items()})
    if not has_xml(connection):
        del wanted["xml"]
    catalog = given_types(connection)
    for name, values in wanted.items():
        rows = sql.SQL(", ").join(sql.SQL("({})").format(sql.Literal(value)) for value in [*values, None])
        query = sql.SQL("select x.column1::{} from (values {}) x").format(sql.SQL(name), rows)
        assert_equal_text(connection, catalog, name, query)


def test_random_values_are_printed_as_the_server_prints_them(
    typed: tuple[psycopg.Connection[Any], int],
) -> None:
    connection, _ = typed
    catalog = given_types(connection)
    connection.execute("select setseed(0.42)")
    for name, expression in RANDOM.items():
        connection.execute(
            sql.SQL("create temp table sample as select ({})::{} as v from generate_series(1, 500)").format(
                sql.SQL(expression), sql.SQL(name)
            )
        )
        assert_equal_text(connection, catalog, name, sql.SQL("select v from pg_temp.sample"))
        connection.execute("drop table pg_temp.sample")


@pytest.mark.parametrize(("name", "size", "mantissa"), [("float8", 8, 52), ("float4", 4, 23)])
def test_floats_of_random_bits_are_printed_as_the_server_prints_them(
    typed: tuple[psycopg.Connection[Any], int], name: str, size: int, mantissa: int
) -> None:
    connection, _ = typed
    draw = random.Random(1)
    bias = (1 << (8 * size - mantissa - 2)) - 1
    bits = [draw.getrandbits(8 * size) for _ in range(3000)]
    # Where digits may lie halfway between two floats, or two candidates be equally near; and powers of two.
    bits += [
        (bias + exponent << mantissa) | draw.getrandbits(mantissa) & -(1 << draw.randrange(mantissa))
        for exponent in range(mantissa - 4, min(mantissa + 90, bias))
        for _ in range(40)
    ]
    bits += [exponent << mantissa for exponent in range(2 * bias + 1)]
    connection.execute("drop table if exists pg_temp.bits")
    connection.execute(sql.SQL("create temp table bits (v {})").format(sql.SQL(name)))
    with connection.cursor().copy("copy pg_temp.bits from stdin (format binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        copy.write(b"".join(struct.pack(">hi", 1, size) + number.to_bytes(size) for number in bits))
        copy.write(b"\xff\xff")
    assert_equal_text(connection, given_types(connection), name, sql.SQL("select v from pg_temp.bits"))


def test_types_that_only_the_server_can_print_are_known_as_such(
    typed: tuple[psycopg.Connection[Any], int],
) -> None:
    connection, _ = typed
    for decoder in DECODERS:
        assert_only_known_gaps(connection, decoder.Catalog(given_types(connection)))


def assert_only_known_gaps(connection: psycopg.Connection[Any], catalog: Any) -> None:
    unreadable = {
        name
        for name, oid in connection.execute(
            "select typname::text, oid::int8 from pg_type t where typtype in ('b', 'e', 'd', 'r', 'm', 'c')"
            " and typnamespace in ('pg_catalog'::regnamespace, 'app'::regnamespace) and typrelid = 0"
            " and typname !~ '^_'"
        )
        if not catalog.has_binary(oid)
    }
    statistics = {name for name in unreadable if name.startswith("pg_")}
    named = {name for name in unreadable if name.startswith("reg")}
    assert unreadable - statistics - named == {"aclitem", "gtsvector"}
    assert len(named) >= 10
    assert statistics <= {
        "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary"
    }  # fmt: skip


def assert_equal_text(
    connection: psycopg.Connection[Any], catalog: list[Any], name: str, query: sql.Composable
) -> None:
    """Reads the query's only column by COPY, binary and text: both must give the text that the server printed."""
    type_oid = connection.execute(query).description[0].type_code  # type: ignore[index]  # a select has one
    relation = (1, "s", "t", "d", [("v", type_oid, -1, False)])
    payloads = {form: copied(connection, query, form) for form in ("text", "binary")}
    for decoder in DECODERS:
        assert_prints_the_text(decoder, relation, payloads, catalog, name)


def assert_prints_the_text(
    decoder: Implementation, relation: Any, payloads: dict[str, list[bytes]], catalog: list[Any], name: str
) -> None:
    known = decoder.Catalog(catalog)
    assert known.has_binary(relation[4][0][1]), name
    frames = {form: decoder.snapshot_frames(relation, payload, form, 5) for form, payload in payloads.items()}
    expected = [row[0] for _, row in raw_rows(frames["text"])]
    for form, found in frames.items():
        lines = found.json_lines(known, [[]]).decode().splitlines()
        assert len(lines) == len(expected)
        for line, want in zip(lines, expected, strict=True):
            assert printed(line, name) == want_text(want, name), f"{name} ({decoder.name}, {form})"


def raw_rows(frames: Any) -> list[tuple[bytes, tuple[bytes | None, ...]]]:
    return [(entry[6], entry[7]) for entry in frames.entries()]


def printed(line: str, name: str) -> str | None:
    """The value in a line of JSON as canonical text."""
    if name in ("json", "jsonb"):
        return line[line.index('"new":{"v":') + 11 : -2]
    value = json.loads(line, parse_int=str, parse_float=str)["new"]["v"]
    if isinstance(value, bool):
        return "t" if value else "f"
    assert value is None or isinstance(value, str)
    return value


def want_text(value: bytes | None, name: str) -> str | None:
    if name in ("json", "jsonb"):
        return "null" if value is None else value.decode().replace("\n", " ")
    return None if value is None else value.decode()


def copied(connection: psycopg.Connection[Any], query: sql.Composable, form: str) -> list[bytes]:
    statement = sql.SQL("copy ({}) to stdout (format {})").format(query, sql.SQL(form))
    with connection.cursor().copy(statement) as copy:
        return [bytes(piece) for piece in copy]
