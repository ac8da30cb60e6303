"""One label of the graph: its table, and what is put into it and taken out. Everything runs in the open transaction.

A vertex that only edges know of is a ghost: it is there so that the edge can be, and goes with its last edge. LadybugDB
finds a vertex by its key and an edge by its vertices, so each edge's ends are kept by its id beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from walcast.model.derived import Collection, FieldKind, Put
from walcast.sinks.graph.database import Database
from walcast.sinks.inplace.values import checked, quoted, stored

_TYPES: dict[FieldKind, str] = {
    "boolean": "BOOL",
    "integer": "INT64",
    "float": "DOUBLE",
    "text": "STRING",
    "json": "STRING",
}
_OWN = {"_version": "INT64", "_member": "STRING", "_gen": "INT64"}
_NO_EDGES = "not exists { match (n)-[]-() }"


class Label:
    """What vertices and edges have in common: a table with a column for each field."""

    def __init__(self, database: Database, collection: Collection) -> None:
        self.made = checked(collection)
        self.name = quoted(collection.name)
        self._db = database
        self._kinds = dict(collection.fields)
        columns = [
            f"n.{quoted(field)} = cast(r.{quoted(field)} as {_TYPES[kind]})"
            for field, kind in collection.fields
        ]
        self._sets = ", ".join(
            ["n._version = r._version", "n._member = r._member", "n._gen = r._gen", *columns]
        )

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

    def _record(self, put: Put, version: int, generation: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "_key": put.id,
            "_version": version,
            "_gen": generation,
            "_member": put.members[0] if put.members else None,
        }
        for field, kind in self._kinds.items():
            record[field] = stored(kind, put.body.get(field))
        return record

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

    def put(self, puts: Sequence[Put], version: int, generation: int) -> None:
        self._db.run(
            f"unwind $rows as r merge (n:{self.name} {{_key: r._key}}) set n._ghost = false, {self._sets}",
            rows=[self._record(put, version, generation) for put in puts],
        )

    def delete(self, keys: Sequence[str]) -> None:
        """What edges lead to or from becomes a ghost."""
        self._db.run(f"match (n:{self.name}) where n._key in $keys and {_NO_EDGES} delete n", keys=keys)
        empty = "".join(f", n.{quoted(field)} = null" for field in self._kinds)
        self._db.run(
            f"match (n:{self.name}) where n._key in $keys set n._ghost = true, n._member = null, n._gen = null{empty}",
            keys=keys,
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


class Edges(Label):
    """A relationship table between two node tables, and a node table of the edges' ends."""

    def __init__(self, database: Database, collection: Collection) -> None:
        super().__init__(database, collection)
        assert collection.ends is not None
        self._labels = collection.ends
        self._source, self._target = (quoted(label) for label in collection.ends)
        self._book_name = f"_walcast_{collection.name}"
        self._book = quoted(self._book_name)
        self._sets = ", ".join(
            ["n._version = r._version"]
            + [
                f"n.{quoted(field)} = cast(r.{quoted(field)} as {_TYPES[kind]})"
                for field, kind in self._kinds.items()
            ]
        )
        self._path = f"(a:{self._source} {{_key: r._source}})-[n:{self.name} {{_key: r._key}}]->(b:{self._target} {{_key: r._target}})"

    def make(self, before: Collection | None) -> None:
        """Makes the tables, anew when it led between other labels before."""
        for label in dict.fromkeys(self._labels):
            if not self._db.columns(label):
                Vertices(self._db, Collection(label, "vertex", (), "")).make(None)
        if before is not None and before.ends != self._labels:
            self.drop()
        if self._db.columns(self.made.name):
            self._follow({"_version": "INT64", **self._fields})
            return
        columns = "".join(f", {quoted(name)} {kind}" for name, kind in self._fields.items())
        self._db.run(
            f"create rel table {self.name} (from {self._source} to {self._target}, _key string, _version int64{columns})"
        )
        self._db.run(
            f"create node table {self._book} (_key string primary key, _source string, _target string, _member string, _gen int64)"
        )

    def drop(self) -> None:
        self._db.run(f"drop table {self.name}")
        self._db.run(f"drop table {self._book}")

    def put(self, puts: Sequence[Put], version: int, generation: int) -> None:
        rows = []
        for put in puts:
            assert put.ends is not None
            source, target = put.ends
            rows.append({**self._record(put, version, generation), "_source": source, "_target": target})
        ends = {row["_key"]: (row["_source"], row["_target"]) for row in rows}
        known = {key: (source, target) for key, source, target in self._known(list(ends))}
        moved = [key for key, there in known.items() if there != ends[key]]
        if moved:
            self.delete(moved, kept=ends.values())
        there = [row for row in rows if known.get(row["_key"]) == ends[row["_key"]]]
        if there:
            self._db.run(f"unwind $rows as r match {self._path} set {self._sets}", rows=there)
            self._db.run(
                f"unwind $rows as r match (n:{self._book} {{_key: r._key}}) set n._member = cast(r._member as string), n._gen = r._gen",
                rows=[{name: row[name] for name in ("_key", "_member", "_gen")} for row in there],
            )
        new = [row for row in rows if known.get(row["_key"]) != ends[row["_key"]]]
        if new:
            self._create(new)

    def _create(self, rows: list[dict[str, Any]]) -> None:
        """A `merge` looks through all edges of a vertex: what is known to be new is created."""
        for label, side in ((self._source, "_source"), (self._target, "_target")):
            keys = list(dict.fromkeys(row[side] for row in rows))
            found = self._db.run(f"unwind $keys as k match (n:{label} {{_key: k}}) return k", keys=keys)
            missing = set(keys).difference(row[0] for row in found)
            if missing:
                self._db.run(
                    f"unwind $rows as r create (n:{label} {{_key: r.key, _ghost: true}})",
                    rows=[{"key": key} for key in sorted(missing)],
                )
        given = ["_key: r._key", "_version: r._version"]
        given += [
            f"{quoted(name)}: cast(r.{quoted(name)} as {_TYPES[kind]})" for name, kind in self._kinds.items()
        ]
        # Two matches: of one with two vertices it makes a product first, and takes seven times as long.
        self._db.run(
            f"unwind $rows as r match (a:{self._source} {{_key: r._source}}) match (b:{self._target} {{_key: r._target}})"
            f" create (a)-[:{self.name} {{{', '.join(given)}}}]->(b)",
            rows=rows,
        )
        self._db.run(
            f"unwind $rows as r create (n:{self._book} {{_key: r._key, _source: r._source, _target: r._target,"
            " _member: cast(r._member as string), _gen: r._gen})",
            rows=[
                {name: row[name] for name in ("_key", "_source", "_target", "_member", "_gen")}
                for row in rows
            ],
        )

    def delete(self, keys: Sequence[str], kept: Iterable[tuple[str, str]] = ()) -> None:
        """Ghosts go with their last edge, but for those that are `kept` for an edge to come."""
        known = self._known(keys)
        if not known:
            return
        rows = [{"_key": key, "_source": source, "_target": target} for key, source, target in known]
        self._db.run(f"unwind $rows as r match {self._path} delete n", rows=rows)
        self._db.run(
            f"match (n:{self._book}) where n._key in $keys delete n", keys=[key for key, *_ in known]
        )
        needed = set(kept)
        for label, place in ((self._source, 0), (self._target, 1)):
            gone = {there[place] for _, *there in known} - {pair[place] for pair in needed}
            self._db.run(
                f"match (n:{label}) where n._key in $keys and n._ghost = true and {_NO_EDGES} delete n",
                keys=sorted(gone),
            )

    def others(self, generation: int) -> list[str]:
        rows = self._db.run(f"match (n:{self._book}) where n._gen <> $g return n._key", g=generation)
        return [row[0] for row in rows]

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]:
        rows = self._db.run(
            f"match (n:{self._book}) where n._member in $members return n._key, n._member", members=members
        )
        return [(row[0], row[1]) for row in rows]

    def ids(self, after: str | None, limit: int) -> list[str]:
        rows = self._db.run(
            f"match (n:{self._book}) where n._key > $after return n._key order by n._key limit {limit}",
            after=after or "",
        )
        return [row[0] for row in rows]

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        known = [{"_key": key, "_source": a, "_target": b} for key, a, b in self._known(keys)]
        if not known:
            return {}
        rows = self._db.run(
            f"unwind $rows as r match {self._path} return n._key, a._key, b._key{self._columns}", rows=known
        )
        return {row[0]: row[1:] for row in rows}

    def _known(self, keys: Sequence[str]) -> list[tuple[str, str, str]]:
        if not keys:
            return []
        rows = self._db.run(
            f"unwind $keys as k match (n:{self._book} {{_key: k}}) return k, n._source, n._target", keys=keys
        )
        return [(row[0], row[1], row[2]) for row in rows]
