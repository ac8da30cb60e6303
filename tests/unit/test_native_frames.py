"""The native batch from Python: Arrow capsules that others read, and errors of walcast.model."""

from __future__ import annotations

import gc
import struct

import pytest

from walcast.accel import NATIVE
from walcast.model import DecodeError, ValueRangeError

pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native module is not there")

COLUMNS = [
    ("id", 23, -1, True),
    ("name", 25, -1, False),
    ("price", 1700, (10 << 16 | 2) + 4, False),
    ("at", 1184, -1, False),
    ("tags", 1009, -1, False),
]
RELATION = (16400, "public", "item", "d", COLUMNS)
ROWS = b"1\tcaf\xc3\xa9\t1.50\t2024-01-01 00:00:00+00\t{a,NULL}\n2\t\\N\tNaN\tinfinity\t[0:0]={x}\n"
TEXT = ("text", "text", "text")
NARROW = ("decimal", "native", "list")


@pytest.fixture
def frames() -> object:
    assert NATIVE is not None
    return NATIVE.snapshot_frames(RELATION, [ROWS[:7], ROWS[7:]], "text", 0x16B374D848)


def test_arrow_is_read_by_pyarrow_and_outlives_the_batch(frames) -> None:
    pa = pytest.importorskip("pyarrow")
    exported = frames.arrow(0, NATIVE.Catalog([]), *TEXT)
    assert len(exported) == 2
    table, again = pa.table(exported), pa.table(exported)
    assert pa.schema(exported) == table.schema
    del frames, exported
    gc.collect()
    table.validate(full=True)
    assert again == table
    assert table.schema.names == [
        "_op", "_commit_lsn", "_ordinal", "_xid", "_commit_time", "_unchanged", "_old",
        "id", "name", "price", "at", "tags",
    ]  # fmt: skip
    assert table.schema.field("price").metadata == {b"pg.type_oid": b"1700", b"pg.typmod": b"655366"}
    assert table.column("_op").to_pylist() == ["R", "R"]
    assert table.column("_commit_lsn").to_pylist() == [0x16B374D848] * 2
    assert table.column("_commit_time").to_pylist() == [None, None]
    assert table.column("_unchanged").to_pylist() == [[], []]
    assert table.column("_old").to_pylist() == [None, None]
    assert table.column("id").to_pylist() == [1, 2]
    assert table.column("name").to_pylist() == ["café", None]
    assert table.column("price").to_pylist() == ["1.50", "NaN"]
    assert table.column("tags").to_pylist() == ["{a,NULL}", "[0:0]={x}"]


def test_arrow_is_read_by_duckdb(frames) -> None:
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    rows = frames.net(0, [0])[5][0][2]
    item = rows.arrow([1, 0], NATIVE.Catalog([]), *TEXT)
    with duckdb.connect() as connection:
        connection.register("item", item)
        assert connection.execute("select name, id from item order by id").fetchall() == [
            ("café", 1),
            (None, 2),
        ]


def test_empty_tables_and_tables_without_columns_keep_their_shape() -> None:
    pa = pytest.importorskip("pyarrow")
    empty = NATIVE.snapshot_frames(RELATION, [], "binary", 5)
    assert pa.table(empty.arrow(0, NATIVE.Catalog([]), *NARROW)).num_rows == 0
    bare = NATIVE.snapshot_frames((1, "s", "t", "d", []), [struct.pack(">hh", 0, 0)], "binary", 5)
    assert len(bare) == 2
    assert pa.table(bare.arrow(0, NATIVE.Catalog([]), *TEXT)).num_rows == 2


def test_a_value_outside_of_a_choice_names_its_column_and_a_way_out(frames) -> None:
    with pytest.raises(ValueRangeError, match="column price: a numeric that decimal") as raised:
        frames.arrow(0, NATIVE.Catalog([]), *NARROW)
    assert raised.value.hint is not None
    assert "NaN" not in raised.value.message


def test_malformed_payloads_raise_with_the_place() -> None:
    with pytest.raises(DecodeError, match="another number of fields") as raised:
        NATIVE.snapshot_frames(RELATION, [b"1\tx\n"], "text", 5)
    assert raised.value.offset == 3
    value = NATIVE.snapshot_frames(
        (1, "s", "t", "d", [("v", 23, -1, False)]), [struct.pack(">hi", 1, 2) + b"ab"], "binary", 5
    )
    with pytest.raises(DecodeError, match="column v: a value of 2 bytes where 4 belong"):
        value.arrow(0, NATIVE.Catalog([]), *TEXT)


def test_wrong_arguments_are_value_errors(frames) -> None:
    catalog = NATIVE.Catalog([])
    for wrong in (
        lambda: frames.arrow(1, catalog, *TEXT),
        lambda: frames.arrow(0, catalog, "text", "text", "yes"),
        lambda: frames.net(0, [5]),
        lambda: frames.json_lines(catalog, []),
        lambda: frames.net(0, [0])[5][0][2].copy([9]),
        lambda: NATIVE.snapshot_frames(RELATION, [], "csv", 5),
        lambda: NATIVE.Catalog([(1, "x", "odd", 0, [], ",")]),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_snapshot_rows_pass_through_copy_unchanged(frames) -> None:
    truncate, _, _, replay, deletes, upserts = frames.net(0, [])
    assert (truncate, replay, deletes) == (False, False, None)
    [(unchanged, fresh, rows)] = upserts
    assert (unchanged, fresh, rows.format) == ([], True, "text")
    assert b"".join(rows.copy([0, 1, 2, 3, 4])) == ROWS
    assert b"".join(rows.copy([0])) == b"1\n2\n"
    assert [kinds for kinds, _ in rows.rows()] == [b"ttttt", b"tnttt"]
