"""One label of vertices: its table, and what is put into it and taken out. Everything runs in the open transaction.

Rows go to LadybugDB as Arrow tables: as lists of values they take it four times as long.
"""

from __future__ import annotations

from collections.abc import Collection as Group
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from walcast.model.derived import Collection, FieldKind, Put
from walcast.sinks.graph.database import Database
from walcast.sinks.inplace.records import Records
from walcast.sinks.inplace.values import checked, quoted

_TYPES: dict[FieldKind, str] = {
    "boolean": "BOOL",
    "integer": "INT64",
    "float": "DOUBLE",
    "text": "STRING",
    "json": "STRING",
}
_ARROW: dict[FieldKind, pa.DataType] = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "json": pa.string(),
}
_OWN = {"_member": "STRING", "_gen": "INT64"}
NO_EDGES = "not exists { match (n)-[]-() }"


class Label:
    """What vertices and edges have in common: a table with a column for each field."""

    def __init__(self, database: Database, collection: Collection) -> None:
        self.made = checked(collection)
        self.name = quoted(collection.name)
        self._db = database
        self._kinds = dict(collection.fields)
        self._numbered = [(quoted(field), f"f{number}") for number, field in enumerate(self._kinds)]

    def _follow(self, wanted: dict[str, str]) -> None:
        """Adds columns. One of another type is made anew: it is filled again. Others stay for those who read until `settle`."""
        there = self._db.columns(self.made.name)
        for name, kind in wanted.items():
            if there.get(name, kind) != kind:
                self._db.run(f"alter table {self.name} drop {quoted(name)}")
            if there.get(name) != kind:
                self._db.run(f"alter table {self.name} add {quoted(name)} {kind}")

    def settle(self) -> None:
        """Drops columns that are nobody's any more."""
        own = {"_key", "_ghost", *_OWN, *self._kinds}
        for name in self._db.columns(self.made.name).keys() - own:
            self._db.run(f"alter table {self.name} drop {quoted(name)}")

    def _table(self, records: Records) -> pa.Table:
        """Columns `k`; of edges `s` and `t`; `m` where it is tracked; and `f0` and so on."""
        columns: dict[str, Any] = {"k": pa.array(records.ids, pa.string())}
        if records.ends is not None:
            columns |= {
                "s": pa.array(records.ends[0], pa.string()),
                "t": pa.array(records.ends[1], pa.string()),
            }
        if records.members is not None:
            columns["m"] = pa.array(records.members, pa.string())
        for (field, kind), (_, name) in zip(self._kinds.items(), self._numbered, strict=True):
            columns[name] = pa.array(records.fields[field], _ARROW[kind])
        return pa.table(columns)

    def _set(self, own: Mapping[str, str]) -> str:
        """Of `n`: these, and the fields."""
        return ", ".join(f"n.{name} = {value}" for name, value in [*own.items(), *self._numbered])

    @property
    def _columns(self) -> str:
        """To be returned after something else."""
        return "".join(f", n.{quoted(field)}" for field in self._kinds)

    @property
    def _fields(self) -> dict[str, str]:
        return {field: _TYPES[kind] for field, kind in self._kinds.items()}


class Vertices(Label):
    """A node table."""

    def make(self, before: Collection | None) -> None:
        """Makes the table, or brings its columns to the mapping's."""
        wanted = {**_OWN, "_ghost": "BOOL", **self._fields}
        if self._db.columns(self.made.name):
            self._follow(wanted)
        else:
            columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in wanted.items())
            self._db.run(f"create node table {self.name} (_key string primary key, {columns})")

    def drop(self) -> None:
        """The table stays: edges may need it."""

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        records = Records.of(self.made, puts)
        member = "m" if self.made.tracked else "null"
        sets = self._set({"_ghost": "false", "_member": member, "_gen": "$g"})
        self._db.run(
            f"load from $rows merge (n:{self.name} {{_key: k}}) set {sets}",
            rows=self._table(records),
            g=generation,
        )

    def delete(self, keys: Sequence[str]) -> None:
        """What edges lead to or from becomes a ghost."""
        self._db.run(f"match (n:{self.name}) where n._key in $keys and {NO_EDGES} delete n", keys=keys)
        empty = "".join(f", n.{quoted(field)} = null" for field in self._kinds)
        self._db.run(
            f"load from $rows match (n:{self.name} {{_key: k}}) set n._ghost = true, n._member = null, n._gen = null{empty}",
            rows=keys_table(keys),
        )

    def others(self, generation: int) -> list[str]:
        """The keys of what is not of this generation."""
        rows = self._db.run(
            f"match (n:{self.name}) where n._ghost = false and (n._gen is null or n._gen <> $g) return n._key",
            g=generation,
        )
        return [row[0] for row in rows]

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]:
        rows = self._db.run(
            f"match (n:{self.name}) where n._member in $members return n._key, n._member", members=members
        )
        return [(row[0], row[1]) for row in rows]

    def ids(self, after: str | None, limit: int) -> list[str]:
        rows = self._db.run(
            f"match (n:{self.name}) where n._key > $after and n._ghost = false return n._key order by n._key limit {limit}",
            after=after or "",
        )
        return [row[0] for row in rows]

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        rows = self._db.run(
            f"match (n:{self.name}) where n._key in $keys and n._ghost = false return n._key{self._columns}",
            keys=keys,
        )
        return {row[0]: [None, None, *row[1:]] for row in rows}


def keys_table(keys: Group[str]) -> pa.Table:
    return pa.table({"k": pa.array(keys, pa.string())})
