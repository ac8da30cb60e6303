"""Documents that the native module makes of rows are those that the mapping makes of them one by one."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pytest
from tests.property import samples as sampled

from walcast.decode import NATIVE, TWIN, StreamBatch
from walcast.mapping.values import id_of, plain
from walcast.testing.batches import INT8, TEXT, Stream, Table, Value
from walcast.testing.postgres import Database, PostgresServer

pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native module is not there")


def inserted(table: Table, rows: list[list[Value]], given: list[object] = []) -> StreamBatch:  # noqa: B006  # read only
    stream = Stream(table)
    stream.begin()
    for row in rows:
        stream.insert(table, row)
    stream.commit()
    (batch,) = stream.batches(types=given, implementation=NATIVE)
    return batch


def test_every_type_is_written_as_the_mapping_writes_it_or_left_to_it(
    shared_postgres: Callable[[int], PostgresServer],
) -> None:
    database = Database.create(shared_postgres(18))
    with psycopg.connect(database.dsn(), options=sampled.SETTINGS, autocommit=True) as connection:
        found = sampled.load(connection, 18)
    database.drop()
    written = set()
    for sample in found.types:
        table = Table(16400, "app", "t", [("id", INT8, True), ("v", sample.oid, False, sample.typmod)])
        values: list[Value] = [None]
        for text, binary in sample.values:
            values += [text.decode(), binary]
        batch = inserted(table, [[number, value] for number, value in enumerate(values)], found.given)
        (relation,) = batch.relations
        try:
            made = batch.documents(relation, [("key", "id"), ('a "v"', "v")], ["id"], 0, 1000)
        except ValueError:  # a binary form that only the server can read
            continue
        if made is None:
            continue
        written.add(sample.name)
        rows = [change.new or {} for change in batch.changes()]
        assert made[0] == [str(number) for number in range(len(values))]
        for body, row in zip(made[1], rows, strict=True):
            expected = {"key": plain(row["id"]), 'a "v"': plain(row["v"])}
            assert repr(json.loads(body)) == repr(json.loads(json.dumps(expected))), sample.name
    assert written >= {"bool", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "bytea", "uuid"}
    assert written >= {"date", "time", "timestamp", "timestamptz", "interval", "inet"}
    assert not written & {"json", "jsonb", "timetz", "int4[]"}


def test_ids_of_several_columns_and_slices() -> None:
    table = Table(16400, "app", "t", [("a", TEXT, True), ("b", TEXT, True), ("n", INT8)])
    rows: list[list[Value]] = [["x:y", "50%", 1], ["", "é", 2], ["x", "y:50%", 3]]
    batch = inserted(table, rows)
    (relation,) = batch.relations
    fields = [("n", "n")]
    assert batch.documents(relation, fields, ["a", "b"], 0, 2) == (
        [id_of(row[:2]) for row in rows[:2]],
        [b'{"n":1}', b'{"n":2}'],
    )
    assert batch.documents(relation, fields, ["b"], 2, 9) == (["y:50%"], [b'{"n":3}'])
    assert batch.documents(relation, fields, ["b"], 3, 9) == ([], [])
    assert batch.documents(relation, [("n", "gone")], ["b"], 0, 9) is None
    assert batch.without([1]).documents(relation, [], ["n"], 0, 9) == (["1", "3"], [b"{}", b"{}"])
    stream = Stream(table)
    stream.begin()
    stream.insert(table, rows[0])
    stream.commit()
    (twin,) = stream.batches(implementation=TWIN)
    assert twin.documents(relation, fields, ["b"], 0, 9) is None
