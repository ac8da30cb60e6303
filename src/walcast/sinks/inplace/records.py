"""Vertices or edges of one collection, column by column, as their properties have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from walcast.model.derived import Collection, Put, PutColumns
from walcast.sinks.inplace.values import stored

Column = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Records:
    """`ends`: the ids of the edges' vertices. `members`: the first row that each was made from; None where nobody asks.
    `fields` are in the collection's order. No id is in it twice."""

    ids: Sequence[str]
    ends: tuple[Sequence[str], Sequence[str]] | None
    members: Sequence[str | None] | None
    fields: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, made: Collection, puts: Sequence[Put]) -> Records:
        if isinstance(puts, PutColumns):
            fields = {field: _stored(kind, puts.fields.get(field), len(puts)) for field, kind in made.fields}
            return cls(puts.ids, puts.ends, [None] * len(puts) if made.tracked else None, fields)
        ends = None
        if made.kind == "edge":
            pairs = [put.ends for put in puts if put.ends is not None]
            ends = [source for source, _ in pairs], [target for _, target in pairs]
        return cls(
            [put.id for put in puts],
            ends,
            [put.members[0] if put.members else None for put in puts] if made.tracked else None,
            {field: [stored(kind, put.body.get(field)) for put in puts] for field, kind in made.fields},
        )

    def only(self, places: Iterable[int]) -> Records:
        """Those at these places."""
        at = list(places)

        def some(column: Column) -> Column:
            return [column[place] for place in at]

        return Records(
            some(self.ids),
            None if self.ends is None else (some(self.ends[0]), some(self.ends[1])),
            None if self.members is None else some(self.members),
            {field: some(column) for field, column in self.fields.items()},
        )

    def in_order(self) -> Records:
        """By their ids: whoever else writes these takes locks in the same order."""
        ids = self.ids
        return self.only(sorted(range(len(ids)), key=ids.__getitem__))


def _stored(kind: Any, column: Column | None, rows: int) -> Column:
    if column is None:
        return [None] * rows
    if kind in ("integer", "boolean"):
        return column
    return [stored(kind, value) for value in column]
