"""What a batch does to a table, where its changes do not collapse by key.

They are followed in memory, by key or by whole row, without reading a single value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from walcast.model import RawChange, Relation

_UNCHANGED = ord("u")

Image = tuple[tuple[int, bytes | None], ...]
"""(kind, bytes) of each key column, or of each column."""


@dataclass(frozen=True, slots=True)
class Ref:
    """One side of one change: where a value is to be found."""

    lsn: int
    ordinal: int
    old: bool = False


@dataclass(slots=True)
class Row:
    """A row as the batch leaves it. `origin` has the key under which the copy holds it, None for a new row; `holes` says
    for columns that the last change did not send which change did, None: the copy."""

    last: Ref
    origin: Ref | None
    holes: dict[int, Ref | None]


@dataclass(slots=True)
class Plan:
    """What a batch does to a table: `gone` keys are deleted, then `rows` inserted. Without a key: so many copies of an
    image are deleted or inserted."""

    truncate: bool = False
    gone: dict[Image, Ref] = field(default_factory=dict)
    rows: dict[Image, Row] = field(default_factory=dict)
    copies: dict[Image, int] = field(default_factory=dict)
    refs: dict[Image, Ref] = field(default_factory=dict)


def by_key(changes: Iterator[RawChange], relation: Relation) -> Plan:
    """Follows rows by their keys. Raises ValueError when a new row lacks a value that nothing sent."""
    plan, key = Plan(), relation.key
    for change in changes:
        if change.op == b"T":
            plan = Plan(truncate=True)
            continue
        after, before = Ref(change.commit_lsn, change.ordinal), Ref(change.commit_lsn, change.ordinal, True)
        old = _old_image(change, key)
        new = None if change.op == b"D" else _new_image(change, key)
        if change.op == b"I":
            assert new is not None
            plan.gone.setdefault(new, after)
            _put(plan, new, Row(after, None, {}), change)
            continue
        where = before if old is not None else after
        was = old if old is not None else new
        assert was is not None
        row = plan.rows.pop(was, None)
        if row is None:
            plan.gone.setdefault(was, where)
        if new is None:
            continue
        if new != was:
            plan.gone.setdefault(new, after)
        holes: dict[int, Ref | None] = {}
        for number, kind in enumerate(change.kinds):
            if kind == _UNCHANGED and not _sent_old(change, number, key):
                holes[number] = row.holes.get(number, row.last) if row is not None else None
        origin = row.origin if row is not None else where
        _put(plan, new, Row(after, origin, holes), change)
    return plan


def _put(plan: Plan, key: Image, row: Row, change: RawChange) -> None:
    missing = row.origin is None and any(source is None for source in row.holes.values())
    if missing or (change.op == b"I" and _UNCHANGED in change.kinds):
        raise ValueError("a value was neither sent nor is it in the copy")
    plan.rows[key] = row


def by_row(changes: Iterator[RawChange], relation: Relation) -> Plan:
    """Counts copies of whole rows: which of several equal ones goes makes no difference."""
    plan, columns = Plan(), range(len(relation.columns))
    for change in changes:
        if change.op == b"T":
            plan = Plan(truncate=True)
            continue
        if change.op != b"I":
            old = _old_image(change, columns)
            assert old is not None
            plan.copies[old] = plan.copies.get(old, 0) - 1
            plan.refs.setdefault(old, Ref(change.commit_lsn, change.ordinal, True))
        if change.op != b"D":
            new = _new_image(change, columns)
            plan.copies[new] = plan.copies.get(new, 0) + 1
            plan.refs.setdefault(new, Ref(change.commit_lsn, change.ordinal))
    return plan


def _old_image(change: RawChange, columns: Sequence[int]) -> Image | None:
    if not change.old_kind:
        return None
    return tuple((change.old_kinds[number], change.old_values[number]) for number in columns)


def _new_image(change: RawChange, columns: Sequence[int]) -> Image:
    """An unchanged column has its old value, where that was sent."""
    return tuple(
        (change.old_kinds[number], change.old_values[number])
        if change.kinds[number] == _UNCHANGED and change.old_kind
        else (change.kinds[number], change.values[number])
        for number in columns
    )


def _sent_old(change: RawChange, number: int, key: Sequence[int]) -> bool:
    return change.old_kind == b"O" or (change.old_kind == b"K" and number in key)
