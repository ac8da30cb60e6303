"""Narrowing from sums to rows, on two tables in memory: what is found is what differs, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import md5

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from walcast.model import Column, Relation, TableId, Touched, TypeInfo
from walcast.model.comparing import Digest, Key, Span, by_key
from walcast.verify import compare
from walcast.verify.compare import Pair
from walcast.verify.keys import TouchedKeys, readable

INT8 = TypeInfo(20, "pg_catalog", "int8")
RELATION = Relation(1, TableId("a", "t"), (Column("id", INT8, key=True), Column("n", INT8)))
Rows = list[tuple[str, str]]


class Memory:
    """A side of a comparison."""

    def __init__(self, rows: Rows, key: int = 1) -> None:
        self.rows_ = rows
        self._key = key

    def _hashed(self) -> list[tuple[Key, int]]:
        return [
            (row[: self._key], int(md5("|".join(row).encode()).hexdigest()[:15], 16)) for row in self.rows_
        ]

    async def digest(self, span: Span, buckets: int) -> Mapping[int, Digest]:
        found: dict[int, Digest] = {}
        for _, hashed in self._hashed():
            before = found.get(hashed % buckets, Digest(0, 0))
            found[hashed % buckets] = Digest(before.rows + 1, before.total + hashed)
        return found

    async def rows(
        self, span: Span, buckets: int, only: Sequence[int]
    ) -> AsyncIterator[Sequence[tuple[Key, int]]]:
        yield [(key, hashed) for key, hashed in self._hashed() if hashed % buckets in only]

    async def values(self, keys: Sequence[Key]) -> Mapping[Key, tuple[str, ...]]:
        return by_key(((*row[:1], *row) for row in self.rows_ if row[:1] in keys), 1)


def pair(source: Rows, copy: Rows, touched: Touched | None = None) -> Pair:
    forms = {"id": "text", "n": "text"}
    return Pair(Memory(source), Memory(copy), forms, ("id",), TouchedKeys(touched, ("id",), forms))  # type: ignore[arg-type]  # literals


ROWS = st.dictionaries(st.integers(0, 30).map(str), st.integers(0, 3).map(str), max_size=30)


@pytest.fixture(autouse=True, scope="module")
def _small() -> object:
    """So that a few rows are many."""
    before = compare.BUCKET, compare.LISTED
    compare.BUCKET, compare.LISTED = 2, 6  # type: ignore[misc]  # for the tests
    yield
    compare.BUCKET, compare.LISTED = before  # type: ignore[misc]


@settings(deadline=None)
@example({"6": "0"}, dict.fromkeys(map(str, range(9)), "0") | {"6": "1"}, ["6"])
@given(source=ROWS, copy=ROWS, twice=st.lists(st.integers(0, 30).map(str), max_size=3))
async def test_what_is_found_is_what_differs(
    source: dict[str, str], copy: dict[str, str], twice: list[str]
) -> None:
    doubled = {key for key in twice if key in copy}
    outcome = await pair(list(source.items()), [*copy.items(), *((key, copy[key]) for key in doubled)]).span(
        Span()
    )
    expected = {("missing", key) for key in source.keys() - copy.keys()}
    expected |= {("extra", key) for key in copy.keys() - source.keys()}
    both = source.keys() & copy.keys()
    expected |= {("different", key) for key in both if source[key] != copy[key] and key not in doubled}
    expected |= {("duplicate", key) for key in both & doubled}
    assert {(difference.kind, *difference.key) for difference in outcome.found} == expected
    assert len(outcome.found) == len(expected)
    assert outcome.rows == len(source)


async def test_a_key_that_may_rightly_differ_is_taken_again() -> None:
    touched = Touched(keys={(RELATION, ((ord("t"), b"1"),))})
    outcome = await pair([("1", "a"), ("2", "a")], [("1", "b"), ("2", "b")], touched).span(Span())
    assert outcome.again == [("1",)]
    assert [difference.key for difference in outcome.found] == [("2",)]
    whole = await pair([("1", "a")], [("1", "b")], Touched(whole=True)).span(Span())
    assert (whole.unsettled, whole.found) == (True, [])
    assert not (await pair([("1", "a")], [("1", "a")], Touched(whole=True)).span(Span())).unsettled


async def test_no_more_than_so_many_differences_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "KEPT", 5)
    outcome = await pair([], [(str(number), "x") for number in range(40)]).span(Span())
    assert (len(outcome.found), outcome.more["extra"]) == (5, 35)


def test_forms_are_shown_as_values() -> None:
    assert readable("string", "3:a:b") == "a:b"
    assert readable("float8", "\\x8000000000000000") == "-0.0"
    assert readable("text", "1.50") == "1.50"
