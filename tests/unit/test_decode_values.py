"""Values as Python objects: the same from the server's binary and text form, and what each type becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from tests.property import samples as sampled

from walcast.decode.builtin import BUILTIN
from walcast.decode.values import has_binary, loaders, text_of_binary
from walcast.model import DecodeError, TypeInfo
from walcast.testing.batches import type_info
from walcast.testing.postgres import Database, PostgresServer

OIDS = {info.name: oid for oid, info in BUILTIN.items()}


@pytest.fixture(scope="module")
def samples(shared_postgres: Callable[[int], PostgresServer]) -> Iterator[sampled.Samples]:
    database = Database.create(shared_postgres(18))
    with psycopg.connect(database.dsn(), options=sampled.SETTINGS, autocommit=True) as connection:
        yield sampled.load(connection, 18)
    database.drop()


def test_binary_and_text_become_the_same_python_value(samples: sampled.Samples) -> None:
    types = {item[0]: item for item in samples.given}
    for kind in samples.types:
        info = type_info(kind.oid, types)
        from_text, from_binary = loaders(info)
        assert has_binary(info), kind.name
        for text, binary in kind.values:
            assert text_of_binary(info)(binary) == text.decode(), kind.name
            # By their repr: NaN is not equal to itself, and 1.0 is not 1.00.
            assert repr(from_binary(binary)) == repr(from_text(text)), kind.name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("bool", "f", False),
        ("int8", "-5", -5),
        ("xid8", "18446744073709551615", 2**64 - 1),
        ("float4", "0.1", 0.1),
        ("numeric", "1.50", Decimal("1.50")),
        ("numeric", "-Infinity", Decimal("-Infinity")),
        ("money", "$1.00", "$1.00"),
        ("bytea", "\\x00ff", b"\x00\xff"),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("date", "0044-03-15 BC", "0044-03-15 BC"),
        ("date", "infinity", "infinity"),
        ("time", "24:00:00", "24:00:00"),
        ("time", "12:34:56.5", time(12, 34, 56, 500_000)),
        ("timestamp", "2024-02-29 12:00:00", datetime(2024, 2, 29, 12)),
        ("timestamp", "12024-02-29 12:00:00", "12024-02-29 12:00:00"),
        ("timestamptz", "2024-02-29 12:00:00+00", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("interval", "1 mon -1 days", "1 mon -1 days"),
        ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("jsonb", '{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ("_int4", "[0:1]={1,NULL}", [1, None]),
        ("_text", '{{a,"b, c"},{"NULL",NULL}}', [["a", "b, c"], ["NULL", None]]),
        ("_box", "{(1,1),(0,0);(2,2),(0,0)}", ["(1,1),(0,0)", "(2,2),(0,0)"]),
        ("int4range", "[1,5)", "[1,5)"),
        ("regclass", "pg_class", "pg_class"),
    ],
)
def test_each_type_becomes_the_python_type_of_the_reference(name: str, text: str, value: Any) -> None:
    found = loaders(BUILTIN[OIDS[name]])[0](text.encode())
    assert found == value
    assert type(found) is type(value)


def test_composites_become_dicts_and_domains_their_base() -> None:
    price = TypeInfo(20_001, "app", "price", "domain", BUILTIN[OIDS["numeric"]])
    pair = TypeInfo(20_002, "app", "pair", "composite", fields=(("a", BUILTIN[OIDS["int4"]]), ("b", price)))
    load = loaders(pair)[0]
    assert load(b"(1,2.50)") == {"a": 1, "b": Decimal("2.50")}
    assert load(b"(,)") == {"a": None, "b": None}


def test_a_composite_from_before_its_type_was_altered_stays_text() -> None:
    pair = TypeInfo(20_002, "app", "pair", "composite", fields=(("a", BUILTIN[OIDS["int4"]]),))
    assert loaders(pair)[0](b"(1,2)") == "(1,2)"


def test_json_that_python_cannot_hold_is_not_lost() -> None:
    load = loaders(BUILTIN[OIDS["json"]])[0]
    assert load(b"1" * 5_000) == Decimal("1" * 5_000)
    deep = b"[" * 100_000 + b"]" * 100_000
    assert load(deep) == deep.decode()


def test_an_unknown_type_is_its_text_and_its_binary_form_is_refused() -> None:
    unknown = TypeInfo(99_999, "ext", "cube")
    from_text, from_binary = loaders(unknown)
    assert from_text(b"(1, 2)") == "(1, 2)"
    assert not has_binary(unknown)
    with pytest.raises(DecodeError, match="cube") as raised:
        from_binary(b"\x00")
    assert raised.value.hint


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("_int4", bytes.fromhex("00000001 00000000 00000017 7fffffff 00000001")),
        ("_int4", bytes.fromhex("00000006 00000000 00000017" + "0000ffff00000001" * 6)),
        ("tsquery", bytes.fromhex("7fffffff")),
        ("tsquery", bytes.fromhex("00000001 02 02")),
        ("numeric", bytes.fromhex("7fff 0000 0000 0000")),
        ("path", bytes.fromhex("01 7fffffff")),
        ("varbit", bytes.fromhex("7fffffff 00")),
        ("text", b"\xff"),
    ],
)
def test_hostile_binary_values_are_refused_at_a_byte(name: str, data: bytes) -> None:
    with pytest.raises(DecodeError) as raised:
        text_of_binary(BUILTIN[OIDS[name]])(data)
    assert raised.value.offset is not None
