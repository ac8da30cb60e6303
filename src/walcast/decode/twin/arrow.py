"""Changes and rows as pyarrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from walcast.decode.twin.arrow_types import Reading, reading
from walcast.decode.twin.catalog import PyCatalog
from walcast.decode.twin.index import NO_TUPLE, Column, Entry, Relation, Tuple
from walcast.decode.twin.rowset import check_columns
from walcast.model import ConfigError, DecodeError, ValueRangeError

Choices = tuple[str, str, str]
"""numeric, temporal, arrays, as in model.TypeChoices."""

_UNCHANGED = ord("u")


def changes_table(relation: Relation, entries: Sequence[Entry], catalog: PyCatalog, choices: Choices) -> Any:
    """All changes of one relation: what is said of each change, its old row, and its columns."""
    pa = _pyarrow()
    columns = _columns(pa, relation.columns, catalog, choices)
    own = [column.field for column in columns]
    fields = [
        pa.field("_op", pa.string(), nullable=False),
        pa.field("_commit_lsn", pa.uint64(), nullable=False),
        pa.field("_ordinal", pa.uint64(), nullable=False),
        pa.field("_xid", pa.uint32(), nullable=False),
        pa.field("_commit_time", pa.timestamp("us", "UTC")),
        pa.field("_unchanged", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("_old", pa.struct(own)),
        *own,
    ]
    times = [None if entry.op == b"R" else entry.transaction.commit_time for entry in entries]
    arrays = [
        pa.array([entry.op.decode() for entry in entries], pa.string()),
        pa.array([entry.transaction.commit_lsn for entry in entries], pa.uint64()),
        pa.array([entry.ordinal for entry in entries], pa.uint64()),
        pa.array([entry.transaction.xid for entry in entries], pa.uint32()),
        pa.array(times, pa.int64()).cast(fields[4].type),
        pa.array([_unchanged(entry.new) for entry in entries], fields[5].type),
        _old(pa, columns, own, entries),
        *(column.array(pa, [entry.new for entry in entries]) for column in columns),
    ]
    return pa.table(arrays, pa.schema(fields))


def rows_table(
    relation: Relation, rows: Sequence[Tuple], numbers: list[int], catalog: PyCatalog, choices: Choices
) -> Any:
    """These columns of the rows, in this order."""
    pa = _pyarrow()
    check_columns(numbers, len(relation.columns))
    columns = [_columns(pa, relation.columns, catalog, choices)[number] for number in numbers]
    return pa.table(
        [column.array(pa, rows) for column in columns], pa.schema([column.field for column in columns])
    )


class _ArrowColumn:
    """One column on its way to Arrow."""

    def __init__(self, pa: Any, number: int, column: Column, read: Reading) -> None:
        self._number = number
        self._name = column.name
        self._read = read
        metadata = {"pg.type_oid": str(column.type_oid), "pg.typmod": str(column.typmod)}
        self.field = pa.field(column.name, read.type, metadata=metadata)

    def array(self, pa: Any, rows: Sequence[Tuple]) -> Any:
        try:
            values = [self._value(row) for row in rows]
        except DecodeError as error:
            raise DecodeError(
                f"column {self._name}: {error.message}", offset=error.offset, hint=error.hint
            ) from None
        except ValueRangeError as error:
            raise ValueRangeError(f"column {self._name}: {error.message}", hint=error.hint) from None
        return pa.array(values, self._read.storage).cast(self._read.type)

    def _value(self, row: Tuple) -> Any:
        value = row.values[self._number] if row.kinds else None
        return None if value is None else self._read.load(row.kinds[self._number], value)


def _columns(pa: Any, columns: Sequence[Column], catalog: PyCatalog, choices: Choices) -> list[_ArrowColumn]:
    return [
        _ArrowColumn(pa, number, column, reading(pa, catalog, column.type_oid, column.typmod, choices))
        for number, column in enumerate(columns)
    ]


def _old(pa: Any, columns: list[_ArrowColumn], fields: list[Any], entries: Sequence[Entry]) -> Any:
    if not fields:
        return pa.nulls(len(entries), pa.struct([]))
    rows = [entry.old if entry.old_kind else NO_TUPLE for entry in entries]
    missing = pa.array([not entry.old_kind for entry in entries], pa.bool_())
    return pa.StructArray.from_arrays(
        [column.array(pa, rows) for column in columns], fields=fields, mask=missing
    )


def _unchanged(row: Tuple) -> list[int]:
    return [number for number, kind in enumerate(row.kinds) if kind == _UNCHANGED]


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ConfigError(
            "Arrow tables without the native module need pyarrow",
            hint="pip install 'walcast[arrow]', or install walcast where its native module can be built",
        ) from None
    return pyarrow
