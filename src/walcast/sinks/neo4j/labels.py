"""One label or relationship type, and what is put into it and taken out. Everything runs in the open transaction.

A vertex that only edges know of is a ghost: it is there so that the edge can be, and goes with its last edge. Rows come
in the order of their keys, so that locks are taken in the same order by all who write so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from walcast.model.derived import Collection, Put
from walcast.sinks.inplace.values import checked, quoted, stored
from walcast.sinks.neo4j.database import Database

_PIECE: Final = 10_000
"""Keys in one query."""
_NO_EDGES: Final = "not exists { (n)--() }"


class Vertices:
    """Nodes with a label."""

    def __init__(self, database: Database, collection: Collection) -> None:
        self.made = checked(collection)
        self._name = quoted(collection.name)
        self._db = database

    def make(self, before: Collection | None) -> None:
        self._db.unique("NODE", self.made.name, "_key")
        if self.made.tracked:
            self._db.index("NODE", self.made.name, "_member")

    def settle(self) -> None:
        """Each has been replaced as a whole."""

    def drop(self) -> None:
        """Constraints stay: edges may need them."""

    def put(self, puts: Sequence[Put], version: int, generation: int) -> None:
        rows = [{"_ghost": False, **_properties(self.made, put, generation)} for put in puts]
        self._db.rows(f"unwind $rows as r merge (n:{self._name} {{_key: r._key}}) set n = r", rows)

    def delete(self, keys: Sequence[str]) -> None:
        """What edges lead to or from becomes a ghost."""
        match = f"match (n:{self._name}) where n._key in $rows"
        for piece in _pieces(keys):
            self._db.rows(f"{match} and {_NO_EDGES} delete n", piece)
            self._db.run(f"{match} set n = {{_key: n._key, _ghost: true}}", rows=piece)

    def others(self, generation: int) -> list[str]:
        rows = self._db.run(f"match (n:{self._name}) where n._gen <> $g return n._key", g=generation)
        return [row[0] for row in rows]

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]:
        rows = self._db.run(
            f"match (n:{self._name}) where n._member in $members return n._key, n._member", members=members
        )
        return [(row[0], row[1]) for row in rows]

    def ids(self, after: str | None, limit: int) -> list[str]:
        rows = self._db.run(
            f"match (n:{self._name}) where n._key > $after and n._ghost = false return n._key order by n._key limit $limit",
            after=after or "",
            limit=limit,
        )
        return [row[0] for row in rows]

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        rows = self._db.run(
            f"match (n:{self._name}) where n._key in $keys and n._ghost = false"
            f" return n._key, null as a, null as b{_fields(self.made)}",
            keys=keys,
        )
        return {row[0]: row[1:] for row in rows}


class Edges:
    """Relationships of a type."""

    def __init__(self, database: Database, collection: Collection) -> None:
        assert collection.ends is not None
        self.made = checked(collection)
        self._db = database
        self._labels = collection.ends
        self._source, self._target = (quoted(label) for label in collection.ends)
        self._name = quoted(collection.name)
        self._found = f"match (a)-[n:{self._name}]->(b) using index n:{self._name}(_key)"

    def make(self, before: Collection | None) -> None:
        for label in dict.fromkeys(self._labels):
            self._db.unique("NODE", label, "_key")
        self._db.unique("RELATIONSHIP", self.made.name, "_key")
        if self.made.tracked:
            self._db.index("RELATIONSHIP", self.made.name, "_member")
        if before is not None and before.ends is not None and before.ends != self._labels:
            Edges(self._db, before).delete(Edges(self._db, before).others(-1))

    def settle(self) -> None:
        """Each has been replaced as a whole."""

    def drop(self) -> None:
        """Nothing is left of it but its constraint."""

    def put(self, puts: Sequence[Put], version: int, generation: int) -> None:
        rows: list[dict[str, Any]] = []
        for put in puts:
            assert put.ends is not None
            source, target = put.ends
            rows.append({"s": source, "t": target, "p": _properties(self.made, put, generation)})
        ends = {row["p"]["_key"]: (row["s"], row["t"]) for row in rows}
        known = self._known(list(ends))
        moved = [key for key, there in known.items() if there != ends[key]]
        if moved:
            self.delete(moved, kept=ends.values())
        there = [row for row in rows if known.get(row["p"]["_key"]) == (row["s"], row["t"])]
        if there:
            self._db.rows(
                f"unwind $rows as r match ()-[n:{self._name} {{_key: r.p._key}}]->() using index n:{self._name}(_key)"
                " set n = r.p",
                there,
            )
        self._create([row for row in rows if known.get(row["p"]["_key"]) != (row["s"], row["t"])])

    def _create(self, rows: list[dict[str, Any]]) -> None:
        """Most have their vertices already; for the others those are made first, as ghosts."""
        if not rows or self._created(rows) == len(rows):
            return
        for label, side in ((self._source, "s"), (self._target, "t")):
            keys = sorted({row[side] for row in rows})
            self._db.rows(
                f"unwind $rows as r merge (n:{label} {{_key: r}}) on create set n._ghost = true", keys
            )
        known = self._known([row["p"]["_key"] for row in rows])
        self._created([row for row in rows if row["p"]["_key"] not in known])

    def _created(self, rows: list[dict[str, Any]]) -> int:
        ((count,),) = self._db.rows(
            f"unwind $rows as r match (a:{self._source} {{_key: r.s}}) match (b:{self._target} {{_key: r.t}})"
            f" create (a)-[n:{self._name}]->(b) set n = r.p return count(n)",
            rows,
        )
        return int(count)

    def delete(self, keys: Sequence[str], kept: Iterable[tuple[str, str]] = ()) -> None:
        """Ghosts go with their last edge, but for those that are `kept` for an edge to come."""
        needed = list(kept)
        for piece in _pieces(keys):
            known = self._known(piece)
            if not known:
                continue
            self._db.rows(f"{self._found} where n._key in $rows delete n", list(known))
            for label, place in ((self._source, 0), (self._target, 1)):
                ends = {there[place] for there in known.values()} - {pair[place] for pair in needed}
                self._db.run(
                    f"match (n:{label}) where n._key in $keys and n._ghost = true and {_NO_EDGES} delete n",
                    keys=sorted(ends),
                )

    def others(self, generation: int) -> list[str]:
        rows = self._db.run(f"match ()-[n:{self._name}]->() where n._gen <> $g return n._key", g=generation)
        return [row[0] for row in rows]

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]:
        rows = self._db.run(
            f"match ()-[n:{self._name}]->() where n._member in $members return n._key, n._member",
            members=members,
        )
        return [(row[0], row[1]) for row in rows]

    def ids(self, after: str | None, limit: int) -> list[str]:
        rows = self._db.run(
            f"{self._found} where n._key > $after return n._key order by n._key limit $limit",
            after=after or "",
            limit=limit,
        )
        return [row[0] for row in rows]

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        rows = self._db.run(
            f"{self._found} where n._key in $keys return n._key, a._key, b._key{_fields(self.made)}",
            keys=keys,
        )
        return {row[0]: row[1:] for row in rows}

    def _known(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        rows = self._db.run(f"{self._found} where n._key in $keys return n._key, a._key, b._key", keys=keys)
        return {key: (source, target) for key, source, target in rows}


def _properties(made: Collection, put: Put, generation: int) -> dict[str, Any]:
    found: dict[str, Any] = {"_key": put.id, "_gen": generation}
    if put.members:
        found["_member"] = put.members[0]
    for field, kind in made.fields:
        found[field] = stored(kind, put.body.get(field))
    return found


def _fields(made: Collection) -> str:
    return "".join(f", n.{quoted(field)}" for field, _ in made.fields)


def _pieces(keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _PIECE):
        yield list(keys[start : start + _PIECE])
