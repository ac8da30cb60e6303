"""Root rows to documents, vertices and edges: the tables below are read level by level, one query each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from walcast.mapping.plan import Node, Target
from walcast.mapping.values import id_of, key_in, member_of, sort_key
from walcast.model.derived import Key, Put, Row, SourceView

T = TypeVar("T")
_Groups = dict[int, dict[Key, list[Row]]]


async def assemble(view: SourceView | None, target: Target, rows: Sequence[Row]) -> list[Put]:
    """What these root rows become; nothing for those that are softly deleted, routed nowhere, or are edges without an end.

    A flat target needs no view.
    """
    root = target.root
    alive = [row for row in rows if not root.gone(row)]
    groups: _Groups = {}
    if view is not None:
        await _descend(view, root, alive, groups)
    made = [_put(target, row, groups) for row in alive]
    return [put for put in made if put is not None]


async def _descend(view: SourceView, node: Node, rows: Sequence[Row], groups: _Groups) -> None:
    for child in node.children:
        keys = (key_in(row, child.theirs) for row in rows)
        values = {key for key in keys if key is not None}
        found = await view.rows(child.table, child.columns, child.ours, values) if values else ()
        there = [row for row in found if not child.gone(row)]
        by_link = groups[child.number] = {}
        for row in there:
            link = key_in(row, child.ours)
            if link is not None:
                by_link.setdefault(link, []).append(row)
        await _descend(view, child, there, groups)


def _put(target: Target, row: Row, groups: _Groups) -> Put | None:
    collection = target.name if target.route is None else target.route(row)
    if collection is None:
        return None
    ends = None
    if target.ends is not None:
        source, there = target.ends
        if any(row[column] is None for column in (*source, *there)):
            return None
        ends = (id_of(row[column] for column in source), id_of(row[column] for column in there))
    members: list[str] = []
    if target.tracked:
        key = key_in(row, target.root.key)
        assert key is not None, "a key is never null"
        members.append(member_of(0, key))
    body = _body(target.root, row, groups, members)
    return Put(collection, target.id_from(row), body, tuple(dict.fromkeys(members)), ends)


def _body(node: Node, row: Row, groups: _Groups, members: list[str]) -> dict[str, Any]:
    body = _own(node, row, members)
    for child in node.children:
        name = child.children[0].name if child.join else child.name
        items = _items(child, row, groups, members)
        body[name] = items if child.many else (items[0] if items else None)
    return body


def _items(node: Node, parent: Row, groups: _Groups, members: list[str]) -> list[dict[str, Any]]:
    """What belongs to a row of the parent, in order."""
    rows = _rows(node, parent, groups)
    if not node.join:
        return [_body(node, row, groups, members) for row in _in_order(rows, node.sorted_by, _same)]
    (child,) = node.children
    items = []
    for joining in _in_order(rows, node.key, _same):
        extra = _own(node, joining, members)
        items += [(row, extra) for row in _rows(child, joining, groups)]
    return [
        {**extra, **_body(child, row, groups, members)}
        for row, extra in _in_order(items, child.sorted_by, _first)
    ]


def _own(node: Node, row: Row, members: list[str]) -> dict[str, Any]:
    """A row's own fields."""
    if node.tracked and node.parent is not None:
        key = key_in(row, node.key)
        assert key is not None, "a key is never null"
        members.append(member_of(node.number, key))
    return {emit.name: emit.of(row) for emit in node.emits}


def _rows(node: Node, parent: Row, groups: _Groups) -> Sequence[Row]:
    values = key_in(parent, node.theirs)
    return groups.get(node.number, {}).get(values, ()) if values is not None else ()


def _same(row: Row) -> Row:
    return row


def _first(item: tuple[Row, Any]) -> Row:
    return item[0]


def _in_order(items: Sequence[T], columns: Sequence[str], row_of: Callable[[T], Row]) -> Sequence[T]:
    if len(items) < 2:
        return items
    try:
        return sorted(items, key=lambda item: sort_key(row_of(item), columns))
    except TypeError:  # a date that is text because Python has none for it
        return sorted(items, key=lambda item: repr(sort_key(row_of(item), columns)))
