"""Tables and types as the stream and the catalog describe them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

TypeKind = Literal["base", "enum", "domain", "composite", "range", "multirange", "array", "pseudo"]
ReplicaIdentity = Literal["d", "i", "f", "n"]


_PLAIN = re.compile("[a-z_][a-z0-9_]*")
_QUOTE = '"'


class TableId(NamedTuple):
    """A table's qualified name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def written(self) -> str:
        """As SQL and patterns write it: odd parts in double quotes."""
        return ".".join(
            part if _PLAIN.fullmatch(part) else f'"{part.replace(_QUOTE, _QUOTE * 2)}"' for part in self
        )

    @property
    def argument(self) -> str:
        """As a shell wants it."""
        return shlex.quote(self.written)


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """A row of pg_type with what is needed to read its values.

    `element` is the element type of an array, the base of a domain, the subtype of a range, the range of a
    multirange. `fields` are a composite's attributes, `labels` an enum's. `has_binary` is False for types
    without a binary send function (and for arrays, domains, composites and ranges over such types).
    """

    oid: int
    schema: str
    name: str
    kind: TypeKind = "base"
    element: TypeInfo | None = None
    fields: tuple[tuple[str, TypeInfo], ...] = ()
    labels: tuple[str, ...] = ()
    delimiter: str = ","
    has_binary: bool = True

    @property
    def base(self) -> TypeInfo:
        """The type under all domains."""
        return self.element.base if self.kind == "domain" and self.element is not None else self


@dataclass(frozen=True, slots=True)
class Column:
    """A published column.

    `sql_type` is the type as SQL writes it (format_type: `numeric(10,2)`, `app.mood`). `attnum` is the
    attribute number when the catalog proved it, else None: the stream does not carry it. `key` says that the
    column belongs to the row's key (see Relation.key).
    """

    name: str
    type: TypeInfo
    typmod: int = -1
    sql_type: str = ""
    attnum: int | None = None
    key: bool = False
    nullable: bool = True
    generated: bool = False
    missing: str | None = None
    unproven: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """One schema version of a table.

    `identity` is the replica identity: default, index, full, nothing. The key of a row is the replica identity
    index; under FULL the primary key if there is one; a relation without key columns is matched by whole rows.
    """

    oid: int
    table: TableId
    columns: tuple[Column, ...]
    identity: ReplicaIdentity = "d"

    @property
    def key(self) -> tuple[int, ...]:
        """The numbers (from 0) of the key's columns; empty when rows are matched whole."""
        return tuple(number for number, column in enumerate(self.columns) if column.key)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def __str__(self) -> str:
        return str(self.table)


@dataclass(frozen=True, slots=True)
class TypeChoices:
    """How values whose Arrow type would not hold all of them travel.

    By default they are canonical text. A narrowing makes them native, and fails loudly (`ValueRangeError`) on a
    value outside: NaN or infinity in a decimal, infinity in a timestamp, a nested array in a list.
    """

    numeric: Literal["text", "decimal", "float"] = "text"
    temporal: Literal["text", "native"] = "text"
    arrays: Literal["text", "list"] = "text"


@dataclass(frozen=True, slots=True)
class TypeCatalog:
    """The types that a stream may carry, by oid. Built-in types need not be listed."""

    types: dict[int, TypeInfo] = field(default_factory=dict)
