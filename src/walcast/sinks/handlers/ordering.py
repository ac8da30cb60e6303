"""Which changes may be handled at the same time: those that share no row.

A change belongs to the key before it and to the key after it. Changes that share a key, directly or by way of others,
form a lane: a lane is handled in commit order, lanes beside each other. A truncate or a message waits for all before
it, and all after it wait for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

from walcast.model import UNCHANGED, Change, TableId

Lane = list[Change]


def lanes(changes: Sequence[Change]) -> Iterator[list[Lane]]:
    """Groups of lanes; the groups come one after another."""
    gathered: list[Change] = []
    for change in changes:
        if change.op in ("truncate", "message"):
            if gathered:
                yield _apart(gathered)
                gathered = []
            yield [[change]]
        else:
            gathered.append(change)
    if gathered:
        yield _apart(gathered)


def _apart(changes: Iterable[Change]) -> list[Lane]:
    """Joins what shares a key, by union-find."""
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = parents[parent]
            key = parent
        return key

    placed = []
    for change in changes:
        before, after = _keys(change)
        here = root(before)
        if after != before:
            parents[root(after)] = here
        placed.append((change, before))
    found: dict[Hashable, Lane] = {}
    for change, key in placed:
        found.setdefault(root(key), []).append(change)
    return list(found.values())


def _keys(change: Change) -> tuple[Hashable, Hashable]:
    """The row's key before the change and after it; the table alone when its rows have no key."""
    relation = change.relation
    assert relation is not None
    names = [column.name for column in relation.columns if column.key]
    if not names:
        return relation.table, relation.table
    new, old = change.new, change.old
    if old is None:
        key = _key(relation.table, [(new or {}).get(name) for name in names])
        return key, key
    before = [old.get(name) for name in names]
    if new is None:
        after = before
    else:
        after = [
            kept if (value := new.get(name)) is UNCHANGED else value
            for name, kept in zip(names, before, strict=True)
        ]
    return _key(relation.table, before), _key(relation.table, after)


def _key(table: TableId, values: list[object]) -> Hashable:
    key = (table, *values)
    try:
        hash(key)
    except TypeError:
        return (table, repr(values))
    return (
        key if key == tuple(v for v in key if v == v) else (table, repr(values))
    )  # a NaN is not equal to itself
