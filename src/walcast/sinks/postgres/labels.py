"""Enum labels that came with the data.

`alter type ... add value` sends nothing through the stream, so that the first row with a new label is how the copy
hears of it. The label is added at the end of the copy's order; where it belongs is set when the table is next prepared.
"""

from __future__ import annotations

from walcast.model import Batch, Relation, TypeInfo
from walcast.sinks.postgres.adapters import array_items

_BINARY = ord("b")


def labels(batch: Batch, relation: Relation) -> dict[TypeInfo, set[str]]:
    """The labels, by enum, that a batch has in a table's enum columns and arrays of enums."""
    kinds = {
        n: found for n, column in enumerate(relation.columns) if (found := _enum(column.type)) is not None
    }
    seen: dict[TypeInfo, set[str]] = {}
    if not kinds:
        return seen
    for raw in batch.raw():
        if raw.op not in (b"I", b"U", b"R") or batch.relations[raw.relation] != relation:
            continue
        for n, info in kinds.items():
            value = raw.values[n]
            if value is not None:
                is_array = relation.columns[n].type.base.kind == "array"
                items = _items(value, raw.kinds[n]) if is_array else [value]
                seen.setdefault(info, set()).update(label.decode() for label in items)
    return seen


def _enum(info: TypeInfo) -> TypeInfo | None:
    base = info.base
    if base.kind == "array" and base.element is not None:
        base = base.element.base
    return base if base.kind == "enum" else None


def _items(value: bytes, kind: int) -> list[bytes]:
    """Of an array in binary; in text a label may be quoted, and the decoder's parser is not for single values."""
    return [item for item in array_items(value) if item is not None] if kind == _BINARY else []
