"""Names and values as graphs take them."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from walcast.model import OperatorError
from walcast.model.derived import Collection, FieldKind

_OWN: Final = ("_key", "_ghost", "_version", "_gen", "_member")


def quoted(name: str) -> str:
    """A label or property as Cypher writes it. Raises OperatorError for one that it cannot."""
    if not name or "`" in name or "\\" in name:
        raise OperatorError(f"{name!r} cannot be a name in the graph", hint="choose one without backquotes")
    return f"`{name}`"


def checked(collection: Collection) -> Collection:
    """Raises OperatorError for a name that is the store's own."""
    for field, _ in collection.fields:
        if field in _OWN:
            raise OperatorError(
                f"{collection.name}.{field}: the store keeps its own under that name",
                hint="give the field another name in the mapping",
            )
    return collection


def stored(kind: FieldKind, value: Any) -> Any:
    """A value as its property has it; what is no scalar as JSON text. NaN, which equals nothing and so could not be found
    again, is null."""
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value, ensure_ascii=False)
    if kind == "text":
        return str(value)
    if kind == "float":
        number = float(value)
        return None if math.isnan(number) else number
    return value
