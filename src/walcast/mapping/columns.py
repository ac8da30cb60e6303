"""Rows to vertices, edges and documents column by column: for targets of which each row is told by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from walcast.mapping.plan import Target
from walcast.mapping.values import id_of, text
from walcast.model import Relation
from walcast.model.derived import PutColumns


def columnar(target: Target, relation: Relation) -> bool:
    """Whether a row of this version of the root's table, and its key alone when it is gone, tell all that becomes of it:
    nothing is read for it, and no two rows have the same id."""
    root = target.root
    return (
        target.flat
        and target.route is None
        and not target.tracked
        and root.deleted is None
        and set(target.id_columns) == set(root.key) == {relation.names[number] for number in relation.key}
        and set(root.columns) <= set(relation.names)
    )


def put_columns(
    target: Target, columns: Mapping[str, Sequence[Any]], fresh: bool
) -> tuple[PutColumns, list[str]]:
    """What whole rows become, and the ids of those that become nothing: edges without an end. `fresh` as PutColumns says."""
    (collection,) = target.collections
    ids = ids_of(columns, target.id_columns)
    gone: list[str] = []
    ends = None
    if target.ends is not None:
        loose = {
            place
            for side in target.ends
            for name in side
            if None in columns[name]
            for place, value in enumerate(columns[name])
            if value is None
        }
        if loose:
            gone = [ids[place] for place in sorted(loose)]
            kept = [place for place in range(len(ids)) if place not in loose]
            ids = [ids[place] for place in kept]
            columns = {name: [values[place] for place in kept] for name, values in columns.items()}
        ends = (ids_of(columns, target.ends[0]), ids_of(columns, target.ends[1]))
    fields = {emit.name: emit.of_all(columns, len(ids)) for emit in target.root.emits}
    return PutColumns(collection, ids, fields, ends, fresh), gone


def ids_of(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[str]:
    """The ids that these columns make."""
    if all(set(map(type, columns[name])) == {int} for name in names):  # most keys, by far the fastest
        texts = [map(str, columns[name]) for name in names]
        return list(texts[0]) if len(texts) == 1 else list(map(":".join, zip(*texts, strict=True)))
    if len(names) == 1:
        return ["" if value is None else text(value) for value in columns[names[0]]]
    return [id_of(values) for values in zip(*(columns[name] for name in names), strict=True)]
