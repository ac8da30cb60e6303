"""Values of every type as a real server sends them, text and binary side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from tests.integration.type_values import SCHEMA, SINCE, VALUES

SETTINGS = (
    "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 -c bytea_output=hex "
    "-c lc_monetary=C -c client_encoding=UTF8 -c search_path="
)
_GIVEN_TYPES = """
select t.oid::int8, t.typname::text,
       case t.typtype when 'e' then 'enum' when 'd' then 'domain' when 'c' then 'composite' when 'r' then 'range'
            when 'm' then 'multirange' else case when t.typelem <> 0 and t.typlen = -1 then 'array' else 'base' end end,
       coalesce(nullif(t.typelem, 0), nullif(t.typbasetype, 0), r.rngsubtype, m.rngtypid, 0)::int8,
       array(select a.attname::text from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 order by a.attnum),
       array(select a.atttypid::int8 from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 order by a.attnum),
       coalesce(e.typdelim, ',')::text
from pg_type t left join pg_range r on r.rngtypid = t.oid left join pg_range m on to_jsonb(m)->>'rngmultitypid' = t.oid::text
left join pg_type e on e.oid = t.typelem
where t.oid >= 16384
"""
_TYPE_OF_COLUMN = "select atttypid::int8, atttypmod from pg_attribute where attrelid = 'app.sample'::regclass and attnum = 1"


class Sample(NamedTuple):
    """A type, and some of its values as (text, binary)."""

    name: str
    oid: int
    typmod: int
    values: list[tuple[bytes, bytes]]


class Samples(NamedTuple):
    types: list[Sample]
    given: list[Any]
    """The types that are not built in, as `Catalog` takes them."""


def load(connection: psycopg.Connection[Any], version: int) -> Samples:
    """Creates the types of `SCHEMA` in the connection's database, and reads values of every type."""
    connection.execute(SCHEMA)
    wanted: dict[str, list[str]] = {name: list(values) for name, values in VALUES.items()}
    for since, types in SINCE.items():
        for name, values in types.items() if version >= since else ():
            wanted.setdefault(name, []).extend(values)
    if not has_xml(connection):
        del wanted["xml"]
    found = [_sample(connection, name, values) for name, values in wanted.items()]
    return Samples(found, given_types(connection))


def given_types(connection: psycopg.Connection[Any]) -> list[Any]:
    """What the catalog says of types that are not built in, as `Catalog` takes it."""
    return [
        (oid, name, kind, element, list(zip(names, oids, strict=True)), delimiter)
        for oid, name, kind, element, names, oids, delimiter in connection.execute(_GIVEN_TYPES)
    ]


def _sample(connection: psycopg.Connection[Any], name: str, values: list[str]) -> Sample:
    connection.execute(sql.SQL("create table app.sample (v {})").format(sql.SQL(name)))
    try:
        with connection.cursor() as cursor:
            cursor.executemany("insert into app.sample values (%s)", [(value,) for value in values])
        oid, typmod = connection.execute(_TYPE_OF_COLUMN).fetchone() or (0, 0)
        texts, binaries = _raw(connection, binary=False), _raw(connection, binary=True)
    finally:
        connection.execute("drop table app.sample")
    return Sample(name, oid, typmod, list(zip(texts, binaries, strict=True)))


def _raw(connection: psycopg.Connection[Any], binary: bool) -> list[bytes]:
    """The only column of the sample table as sent, not loaded."""
    cursor = connection.cursor(binary=binary)
    cursor.execute("select v from app.sample")
    result = cursor.pgresult
    assert result is not None
    return [result.get_value(row, 0) or b"" for row in range(result.ntuples)]


def has_xml(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server was built with libxml."""
    try:
        connection.execute("select '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True
