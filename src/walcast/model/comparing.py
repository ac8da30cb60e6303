"""Comparing a copy with its source: what both sides can be asked, in terms that are the same on both.

A row becomes one text, a *form* for each column; its hash is 60 bits of the text's MD5. A span of rows is summed up as
their number and the sum of their hashes: neither depends on an order, and a row that is there twice counts twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from walcast.model.relation import Relation

NULL = "~"
"""What stands for null among a row's forms; no form of a value is equal to it."""
SEPARATOR = "|"

Form = Literal["text", "string", "hashed", "float8", "list"]
"""How a column's value is written:

text    PostgreSQL's own text of it; for types whose text has neither `|` nor `~`: numbers, dates, times, booleans
        (true, false), bytes, uuid
string  the same of any type, with its length in characters before it: `3:a|b`
hashed  the MD5 of the same, for types whose text is dear to make twice
float8  the 64 IEEE bits in hex (`\\x3ff0...`), of a float4 after it was widened: -0 is not 0, and every NaN is `nan`
list    an array of one dimension: its elements, as strings, after their number
"""

Key = tuple[str, ...]
"""The forms of a row's key columns."""


class Digest(NamedTuple):
    """The rows of a span, and the sum of their hashes."""

    rows: int
    total: int


@dataclass(frozen=True, slots=True)
class Span:
    """A range of keys in the source's order: after `lower`, up to `upper`; None: open. Bounds are PostgreSQL's text of the
    key's values."""

    lower: tuple[str, ...] | None = None
    upper: tuple[str, ...] | None = None


def by_key(rows: Iterable[tuple[str, ...]], width: int) -> dict[Key, tuple[str, ...]]:
    """Rows that begin with the `width` columns of their key, as `ComparableTable.values` gives them."""
    found: dict[Key, tuple[str, ...]] = {}
    for row in rows:
        key = tuple(row[:width])
        found[key] = (*found.get(key, ()), *row[width:])
    return found


class ComparableTable(Protocol):
    """One table of one side, as of one moment."""

    async def digest(self, span: Span, buckets: int) -> Mapping[int, Digest]:
        """The digest of each bucket (a row's hash modulo `buckets`) that has rows."""
        ...

    def rows(self, span: Span, buckets: int, only: Sequence[int]) -> AsyncIterator[Sequence[tuple[Key, int]]]:
        """(key, hash) of each row of these buckets, in pieces of some thousand; keys are empty for a table without one."""
        ...

    async def values(self, keys: Sequence[Key]) -> Mapping[Key, tuple[str, ...]]:
        """The forms of all columns of the rows with these keys; rows that are not there are left out. A key that is there
        more than once has the columns of all its rows, one row after the other (see `by_key`)."""
        ...


class CopiedTable(ComparableTable, Protocol):
    """The copy's side of a table. `forms`: how each column that it holds can be written; the source's columns that
    are not among them are not in the copy. `ordered`: it has the source's order of keys, so that spans mean the same."""

    @property
    def forms(self) -> Mapping[str, Form]: ...
    @property
    def ordered(self) -> bool: ...
    def choose(self, forms: Mapping[str, Form]) -> None:
        """Only these columns are compared, in this order."""
        ...


class CopyView(Protocol):
    """A copy as it was when the view was opened, whatever is written since. To be closed soon: the target keeps old
    versions of its rows for it."""

    async def table(self, relation: Relation) -> CopiedTable | None:
        """None when the copy has no such table."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Comparable(Protocol):
    """A sink that can show its rows for comparison."""

    async def view(self, relations: Sequence[Relation]) -> CopyView:
        """A view of these tables as they are written and flushed now. Called while nothing is written."""
        ...
