"""One table at one position: digests first, then the rows of what differs, then their columns.

Both sides are views that do not move, so narrowing needs no other fence. What differs is a difference unless its key is
one that the fence says may rightly differ: that one is taken again under another fence.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from walcast.model.comparing import ComparableTable, Digest, Form, Key, Span
from walcast.verify.keys import TouchedKeys

Kind = Literal["missing", "extra", "different", "duplicate"]
BUCKET: Final = 2_000
"""Rows of a bucket, about, when a span is narrowed."""
LISTED: Final = 50_000
"""Rows of a side that are held in memory at a time."""
KEPT: Final = 20_000
"""Differences of a span that are kept; the others are counted."""
_PIECE: Final = 500
"""Keys in a statement."""
_NOTHING = Digest(0, 0)


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not the same. `columns` are those that differ, `source` and `copy` their forms (of `different` only).

    missing     the copy does not have it
    extra       only the copy has it
    different   both have the key, with other values
    duplicate   the copy has the key more than once
    """

    kind: Kind
    key: Key
    columns: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    copy: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a span or some keys came to. `again`: keys that may rightly differ; `unsettled`: the same of the whole span.
    `more` counts what there is beyond the differences kept, and rows of a table whose rows have no key."""

    rows: int = 0
    copy_rows: int = 0
    found: list[Difference] = field(default_factory=list)
    again: list[Key] = field(default_factory=list)
    unsettled: bool = False
    more: Counter[Kind] = field(default_factory=Counter)


class Pair:
    """Source and copy of one table under one fence."""

    def __init__(
        self,
        source: ComparableTable,
        copy: ComparableTable,
        forms: Mapping[str, Form],
        key: tuple[str, ...],
        touched: TouchedKeys,
    ) -> None:
        self._source = source
        self._copy = copy
        self._names = tuple(forms)
        self._key = key
        self._touched = touched

    async def span(self, span: Span) -> Outcome:
        """Compares all rows of a span."""
        ours, theirs = await self._digests(span, 1)
        mine, other = ours.get(0, _NOTHING), theirs.get(0, _NOTHING)
        outcome = Outcome(mine.rows, other.rows)
        if mine == other:
            return outcome
        if self._touched.whole:
            outcome.unsettled = True
            return outcome
        most = max(mine.rows, other.rows)
        buckets = max(1, most // BUCKET) if most > LISTED // 2 else 1
        if buckets > 1:
            ours, theirs = await self._digests(span, buckets)
        for only in _groups(ours, theirs):
            if self._key:
                await self._narrow(span, buckets, only, outcome)
            else:
                await self._count(span, buckets, only, outcome)
        return outcome

    async def keys(self, keys: Sequence[Key]) -> Outcome:
        """Compares single rows."""
        outcome = Outcome()
        for at in range(0, len(keys), _PIECE):
            piece = keys[at : at + _PIECE]
            ours, theirs = await asyncio.gather(self._source.values(piece), self._copy.values(piece))
            for key in piece:
                kind = _kind(ours.get(key), theirs.get(key))
                if kind is None:
                    continue
                if key in self._touched:
                    outcome.again.append(key)
                else:
                    outcome.found.append(self._described(kind, key, ours.get(key), theirs.get(key)))
        return outcome

    async def _digests(self, span: Span, buckets: int) -> tuple[Mapping[int, Digest], Mapping[int, Digest]]:
        return await asyncio.gather(self._source.digest(span, buckets), self._copy.digest(span, buckets))

    async def _narrow(self, span: Span, buckets: int, only: Sequence[int], outcome: Outcome) -> None:
        """The rows of some buckets, by key. A row that differs is in two buckets: both are among those that differ."""
        left: dict[Key, int | None] = {}
        async for piece in self._source.rows(span, buckets, only):
            left.update(piece)
        kinds: dict[Key, Kind] = {}
        async for piece in self._copy.rows(span, buckets, only):
            for key, hashed in piece:
                if key not in left:
                    kinds[key] = "duplicate" if key in kinds else "extra"
                elif left[key] == hashed:
                    left[key] = None
                elif left[key] is None:
                    kinds[key] = "duplicate"
                else:
                    kinds[key] = "duplicate" if key in kinds else "different"
        for key, hashed_or_none in left.items():
            if hashed_or_none is not None and key not in kinds:
                kinds[key] = "missing"
        outcome.again += [key for key in kinds if key in self._touched]
        # Looked at by key: a row whose other half is in another group of buckets is neither missing nor extra. It is told
        # where the source's half is. That half's bucket need not differ when the copy has the row more than once: such a
        # row is told where it is met first.
        told = {difference.key for difference in outcome.found if difference.kind == "duplicate"}
        for difference in (await self.keys([key for key in kinds if key not in self._touched])).found:
            if difference.kind == "different" and difference.key not in left:
                continue
            if difference.key in told:
                continue
            if len(outcome.found) < KEPT:
                outcome.found.append(difference)
            else:
                outcome.more[difference.kind] += 1

    async def _count(self, span: Span, buckets: int, only: Sequence[int], outcome: Outcome) -> None:
        """Rows without a key, as a multiset of hashes."""
        left: Counter[int] = Counter()
        async for piece in self._source.rows(span, buckets, only):
            left.update(hashed for _, hashed in piece)
        async for piece in self._copy.rows(span, buckets, only):
            left.subtract(hashed for _, hashed in piece)
        for number in left.values():
            if number:
                outcome.more["missing" if number > 0 else "extra"] += abs(number)

    def _described(
        self, kind: Kind, key: Key, ours: tuple[str, ...] | None, theirs: tuple[str, ...] | None
    ) -> Difference:
        if ours is None or theirs is None or kind == "duplicate":
            return Difference(kind, key)
        differing = [n for n, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
        return Difference(
            kind,
            key,
            tuple(self._names[n] for n in differing),
            tuple(ours[n] for n in differing),
            tuple(theirs[n] for n in differing),
        )


def _kind(ours: tuple[str, ...] | None, theirs: tuple[str, ...] | None) -> Kind | None:
    if ours == theirs:
        return None
    if theirs is None:
        return "missing"
    if ours is None:
        return "extra"
    return "different" if len(ours) == len(theirs) else "duplicate"


def _groups(ours: Mapping[int, Digest], theirs: Mapping[int, Digest]) -> Iterator[list[int]]:
    """The buckets that differ, as many together as may be held in memory."""
    group: list[int] = []
    rows = 0
    for bucket in sorted({*ours, *theirs}):
        mine, other = ours.get(bucket, _NOTHING), theirs.get(bucket, _NOTHING)
        if mine == other:
            continue
        if group and rows + max(mine.rows, other.rows) > LISTED:
            yield group
            group, rows = [], 0
        group.append(bucket)
        rows += max(mine.rows, other.rows)
    if group:
        yield group
