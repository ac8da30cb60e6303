"""Rows of one relation, and their values as Python has them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from walcast.decode import frames as raw_layer
from walcast.decode.values import Loader, loaders
from walcast.model import UNCHANGED, ArrowTable, Relation, TypeChoices, ValueFormat

loaders_for = functools.cache(loaders)
DEFAULT_CHOICES = TypeChoices()
_Values = tuple[bytes, tuple[bytes | None, ...]]
_UNCHANGED, _TEXT = b"ut"
_LETTERS = {16: "b", 20: "i", 21: "i", 23: "i", 25: "s", 1043: "s"}
"""Types, by OID, whose Python form the decoder makes of whole columns: see `RowSet.values`."""


class Rows:
    """A `walcast.model.RowSet` over the decoder's."""

    def __init__(self, rows: raw_layer.RowSet, catalog: raw_layer.Catalog, relation: Relation) -> None:
        self._rows = rows
        self._catalog = catalog
        self._relation = relation

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def format(self) -> ValueFormat:
        return self._rows.format

    def copy(self, columns: Sequence[int]) -> Sequence[bytes | memoryview]:
        return self._rows.copy(list(columns))

    def table(self, columns: Sequence[int], choices: TypeChoices = DEFAULT_CHOICES) -> ArrowTable:
        return self._rows.arrow(list(columns), self._catalog, *settings_of(choices))

    def rows(self) -> Iterator[tuple[bytes, tuple[bytes | None, ...]]]:
        return self._rows.rows()

    def values(self, columns: Sequence[int], most: int) -> Iterator[list[list[Any]]]:
        letters = [_LETTERS.get(self._relation.columns[number].type.oid) for number in columns]
        lettered = [(number, letter) for number, letter in zip(columns, letters, strict=True) if letter]
        start = 0
        if len(lettered) == len(columns):
            while start < len(self) and (made := self._rows.values(lettered, start, start + most)):
                yield made
                start += most
        names = [self._relation.columns[number].name for number in columns]
        both = [loaders_for(self._relation.columns[number].type) for number in columns]
        alike = {"text": 0, "binary": 1}.get(self.format)
        rows = islice(self.rows(), start, None)
        while some := list(islice(rows, most)):
            yield [
                _mixed(some, number, (name, *of)) if alike is None else _column(some, number, of[alike])
                for number, name, of in zip(columns, names, both, strict=True)
            ]


class RowReader:
    """Reads the tuples of one relation into dicts of Python values."""

    def __init__(self, relation: Relation, raw: raw_layer.RelationTuple) -> None:
        self.relation = relation
        self._columns: list[tuple[str, Loader, Loader]] = [
            (column.name, *loaders(column.type)) for column in relation.columns
        ]
        self._key = [column[3] for column in raw[4]]

    def row(self, kinds: bytes, values: Sequence[bytes | None]) -> dict[str, Any]:
        return {
            column[0]: value_of(kind, value, column)
            for kind, value, column in zip(kinds, values, self._columns, strict=True)
        }

    def key(self, kinds: bytes, values: Sequence[bytes | None]) -> dict[str, Any]:
        return {
            column[0]: value_of(kind, value, column)
            for kind, value, column, key in zip(kinds, values, self._columns, self._key, strict=True)
            if key
        }


def value_of(kind: int, value: bytes | None, column: tuple[str, Loader, Loader]) -> Any:
    if value is None:
        return UNCHANGED if kind == _UNCHANGED else None
    return column[1](value) if kind == _TEXT else column[2](value)


def _column(rows: Sequence[_Values], number: int, load: Loader) -> list[Any]:
    """A column of which all values were sent in one format."""
    found = [None if (value := values[number]) is None else load(value) for _, values in rows]
    if None not in found:
        return found
    return [
        UNCHANGED if kinds[number] == _UNCHANGED else value
        for (kinds, _), value in zip(rows, found, strict=True)
    ]


def _mixed(rows: Sequence[_Values], number: int, column: tuple[str, Loader, Loader]) -> list[Any]:
    return [value_of(kinds[number], values[number], column) for kinds, values in rows]


def settings_of(choices: TypeChoices) -> tuple[str, str, str]:
    return choices.numeric, choices.temporal, choices.arrays
