"""Python values as plain JSON, as text that is compared, and as ids."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from walcast.model.derived import FieldKind, Key, Row, escaped, unescaped
from walcast.model.relation import TypeInfo

_DEEPEST = 100
"""Levels of arrays and objects in one value."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_KINDS: dict[str, FieldKind] = {
    "bool": "boolean",
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "integer"),
    **dict.fromkeys(("float4", "float8"), "float"),
    **dict.fromkeys(("json", "jsonb"), "json"),
}


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it. Text for what JSON has no exact form of: numeric, NaN, dates (ISO 8601), bytea (hex); and for
    what nests deeper than stores take. NUL and lone surrogates, which json (not jsonb) columns may hold and no store takes,
    become U+FFFD."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, (dict, list, tuple)) and depth >= _DEEPEST:
        return plain(_deep(value))
    if isinstance(value, dict):
        return {plain(str(name)): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)


def _deep(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "..."


def text(value: Any) -> str:
    """A value as PostgreSQL reads it back, the same for equal values."""
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, Decimal) and value.is_finite():
        return format(value.normalize(), "f")
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, default=str)
    return str(value)


def key_of(values: Iterable[Any]) -> Key | None:
    """Values that are compared; None when one of them is null, which equals nothing."""
    made = []
    for value in values:
        if value is None:
            return None
        made.append(text(value))
    return tuple(made)


def key_in(row: Row, columns: Sequence[str]) -> Key | None:
    """The values of these columns, as `key_of` makes them."""
    if len(columns) == 1:
        value = row[columns[0]]
        return None if value is None else (text(value),)
    return key_of(row[column] for column in columns)


def id_of(values: Iterable[Any]) -> str:
    """The id that values make: the text of a single one; several joined by colons, which are escaped within."""
    made = ["" if value is None else text(value) for value in values]
    if len(made) == 1:
        return made[0]
    return ":".join(map(escaped, made))


def parts_of(id_: str, columns: int) -> Key | None:
    """The values that `id_of` made this id from; None when it made no such id."""
    if columns == 1:
        return (id_,)
    parts = tuple(map(unescaped, id_.split(":")))
    return parts if len(parts) == columns and all(parts) else None


def member_of(node: int, key: Key) -> str:
    """The name of a row at a place of the tree, as stores keep it."""
    return f"{node}:{id_of(key)}"


def key_of_member(member: str, columns: int) -> Key:
    """The key in a member's name; `columns`: of how many."""
    text_of = member.partition(":")[2]
    if columns == 1:
        return (text_of,)
    return tuple(map(unescaped, text_of.split(":")))


def field_kind(info: TypeInfo) -> FieldKind:
    """What a column's values are in plain JSON."""
    base = info.base
    if base.kind in ("array", "composite"):
        return "json"
    return _KINDS.get(base.name, "text") if base.schema in ("pg_catalog", "") else "text"


def sort_key(row: dict[str, Any], columns: Iterable[str]) -> tuple[tuple[bool, Any], ...]:
    """Orders rows by these columns, nulls last."""
    return tuple((row[column] is None, row[column]) for column in columns)
