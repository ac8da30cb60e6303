"""Rows of one relation, and COPY input made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

from walcast.decode.twin.catalog import PyCatalog
from walcast.decode.twin.index import Relation, Tuple
from walcast.model import ValueFormat

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""COPY BINARY's signature, no flags, no extension."""
TRAILER = b"\xff\xff"

_COUNT = Struct(">h")
_LENGTH = Struct(">i")
_NULL = _LENGTH.pack(-1)
_ESCAPED = {
    ord("\\"): "\\\\",
    ord("\b"): "\\b",
    ord("\f"): "\\f",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    ord("\v"): "\\v",
}


class PyRowSet:
    """See `walcast.decode.frames.RowSet`."""

    def __init__(self, relation: Relation, rows: Sequence[Tuple]) -> None:
        self._relation = relation
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def format(self) -> ValueFormat:
        kinds = set().union(*(row.kinds for row in self._rows))
        if ord("t") not in kinds:
            return "binary"
        return "mixed" if ord("b") in kinds else "text"

    def copy(self, columns: list[int]) -> list[bytes]:
        check_columns(columns, len(self._relation.columns))
        if self.format == "mixed":
            raise ValueError("rows with binary and text values have no COPY form")
        if self.format == "binary":
            return [HEADER, *(_binary_row(row, columns) for row in self._rows), TRAILER]
        return [_text_row(row, columns) for row in self._rows]

    def arrow(self, columns: list[int], catalog: PyCatalog, numeric: str, temporal: str, arrays: str) -> Any:
        from walcast.decode.twin.arrow import rows_table

        return rows_table(self._relation, self._rows, columns, catalog, (numeric, temporal, arrays))

    def values(
        self, columns: list[tuple[int, str]], start: int, stop: int
    ) -> list[list[int | str | bool | None]] | None:
        return None

    def rows(self) -> Iterator[tuple[bytes, tuple[bytes | None, ...]]]:
        return ((row.kinds, row.values) for row in self._rows)


def check_columns(columns: Sequence[int], width: int) -> None:
    """Raises ValueError for a column that is not there."""
    for column in columns:
        if not 0 <= column < width:
            raise ValueError(f"column {column} of {width}")


def _binary_row(row: Tuple, columns: list[int]) -> bytes:
    pieces = [_COUNT.pack(len(columns))]
    for column in columns:
        value = row.values[column]
        pieces += (_NULL,) if value is None else (_LENGTH.pack(len(value)), value)
    return b"".join(pieces)


def _text_row(row: Tuple, columns: list[int]) -> bytes:
    fields = []
    for column in columns:
        value = row.values[column]
        # latin-1 maps every byte to one character and back.
        fields.append(
            b"\\N" if value is None else value.decode("latin-1").translate(_ESCAPED).encode("latin-1")
        )
    return b"\t".join(fields) + b"\n"
