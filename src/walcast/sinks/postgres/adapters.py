"""Values whose binary form another database does not take as it is.

- Arrays and composites carry the oids of their element and field types, which differ between databases for types
  that are not built in. From 14 on the server tolerates that; for 13 the oids are rewritten.
- Empty values of tsquery, int2vector and oidvector are sent in binary, but not received.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from walcast.model import TypeInfo
from walcast.sinks.postgres.target import built_in

if TYPE_CHECKING:
    from walcast.sinks.postgres.ddl import Binding

Adapter = Callable[[bytes], tuple[bytes, int]]
"""Binary value -> (value, format: 0 text, 1 binary)."""

_TSQUERY, _VECTORS = 3615, (22, 30)
_ARRAY_HEADER = 20
_TOLERANT = 140_000
_U32, _I32 = struct.Struct(">I"), struct.Struct(">i")


def adapters(binding: Binding, version: int) -> dict[int, Adapter]:
    """By column number; most tables have none."""
    found: dict[int, Adapter] = {}
    for number, column in enumerate(binding.relation.columns):
        base = column.type.base
        if base.oid == _TSQUERY:
            found[number] = _tsquery
        elif base.oid in _VECTORS:
            found[number] = _vector
        elif version < _TOLERANT and _carries_oids(base):
            found[number] = _rewriter(base, binding.oids)
    return found


def array_items(value: bytes) -> list[bytes | None]:
    """The elements of an array's binary form."""
    (dimensions,) = _I32.unpack_from(value, 0)
    return _items(value, 12 + 8 * dimensions, 0)


def _tsquery(value: bytes) -> tuple[bytes, int]:
    return (b"", 0) if value == b"\0\0\0\0" else (value, 1)


def _vector(value: bytes) -> tuple[bytes, int]:
    return (b"", 0) if len(value) <= _ARRAY_HEADER else (value, 1)


def _carries_oids(info: TypeInfo) -> bool:
    """Whether an oid that is not built in lies within values of the type."""
    base = info.base
    if base.kind == "array" and base.element is not None:
        return not built_in(base.element) or _carries_oids(base.element)
    return base.kind == "composite" and any(
        not built_in(kind) or _carries_oids(kind) for _, kind in base.fields
    )


def _rewriter(info: TypeInfo, oids: dict[int, int]) -> Adapter:
    def rewrite(value: bytes) -> tuple[bytes, int]:
        return _rewrite(info, value, oids), 1

    return rewrite


def _rewrite(info: TypeInfo, value: bytes, oids: dict[int, int]) -> bytes:
    base = info.base
    if not _carries_oids(base):
        return value
    if base.kind == "array" and base.element is not None:
        (dimensions,) = _I32.unpack_from(value, 0)
        start = 12 + 8 * dimensions
        head = value[:8] + _U32.pack(oids.get(base.element.oid, base.element.oid)) + value[12:start]
        return head + b"".join(_item(base.element, item, oids) for item in _items(value, start, 0))
    parts = [value[:4]]
    for (_, kind), item in zip(base.fields, _items(value, 4, 4), strict=True):
        parts += (_U32.pack(oids.get(kind.oid, kind.oid)), _item(kind, item, oids))
    return b"".join(parts)


def _item(info: TypeInfo, item: bytes | None, oids: dict[int, int]) -> bytes:
    if item is None:
        return _I32.pack(-1)
    rewritten = _rewrite(info, item, oids)
    return _I32.pack(len(rewritten)) + rewritten


def _items(value: bytes, place: int, skip: int) -> list[bytes | None]:
    """Length-prefixed items to the end of the value; `skip` bytes stand before each."""
    found: list[bytes | None] = []
    while place < len(value):
        place += skip
        (length,) = _I32.unpack_from(value, place)
        place += 4
        found.append(None if length < 0 else value[place : place + length])
        place += max(length, 0)
    return found
