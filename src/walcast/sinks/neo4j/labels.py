"""One label or relationship type, and what is put into it and taken out. Everything runs in the open transaction.

A vertex that only edges know of is a ghost: it is there so that the edge can be, and goes with its last edge. Rows come
in the order of their keys, so that locks are taken in the same order by all who write so.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, Final

from walcast.model.derived import Collection, Put
from walcast.sinks.inplace.records import Records
from walcast.sinks.inplace.values import checked, quoted
from walcast.sinks.neo4j.database import Database

_PIECE: Final = 10_000
"""Keys in one query."""
_EACH: Final = "unwind range(0, size($k) - 1) as i"
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

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        given = _given(self.made, {"_ghost": "false"})
        self._db.columns(
            f"{_EACH} merge (n:{self._name} {{_key: $k[i]}}) set n = {given}",
            **_columns(Records.of(self.made, puts).in_order()),
            g=generation,
        )

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
        self._make_vertices()
        self._db.unique("RELATIONSHIP", self.made.name, "_key")
        if self.made.tracked:
            self._db.index("RELATIONSHIP", self.made.name, "_member")
        self._leave(before)

    def _make_vertices(self) -> None:
        for label in dict.fromkeys(self._labels):
            self._db.unique("NODE", label, "_key")

    def _leave(self, before: Collection | None) -> None:
        """Edges that led between other labels before, or that are found in another way, go."""
        if before is not None and (before.ends, before.told) != (self.made.ends, self.made.told):
            earlier = edges(self._db, before)
            earlier.delete(earlier.others(-1))

    def settle(self) -> None:
        """Each has been replaced as a whole."""

    def drop(self) -> None:
        """Nothing is left of it but its constraint."""

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        records = Records.of(self.made, puts).in_order()
        if fresh:
            self._create(records, generation)
            return
        assert records.ends is not None
        ends = dict(zip(records.ids, zip(*records.ends, strict=True), strict=True))
        known = self._known(records.ids)
        moved = [key for key, there in known.items() if there != ends[key]]
        if moved:
            self.delete(moved, kept=ends.values())
        if known:
            still = known.keys() - set(moved)
            places = [place for place, key in enumerate(records.ids) if key in still]
            self._db.columns(
                f"{_EACH} match ()-[n:{self._name} {{_key: $k[i]}}]->() using index n:{self._name}(_key)"
                f" set n = {_given(self.made)}",
                **_columns(records.only(places)),
                g=generation,
            )
            records = records.only(place for place, key in enumerate(records.ids) if key not in still)
        self._create(records, generation)

    def _create(self, records: Records, generation: int) -> None:
        """Most have their vertices already; for the others those are made first, as ghosts."""
        if not len(records) or self._created(records, generation) == len(records):
            return
        assert records.ends is not None
        for label, keys in zip((self._source, self._target), records.ends, strict=True):
            self._db.rows(
                f"unwind $rows as r merge (n:{label} {{_key: r}}) on create set n._ghost = true",
                sorted(set(keys)),
            )
        known = self._there(records)
        left = (place for place, key in enumerate(records.ids) if key not in known)
        self._created(records.only(left), generation)

    def _created(self, records: Records, generation: int) -> int:
        ((count,),) = self._db.columns(
            f"{_EACH} match (a:{self._source} {{_key: $s[i]}}) match (b:{self._target} {{_key: $t[i]}})"
            f" create (a)-[n:{self._name} {_given(self.made)}]->(b) return count(n)",
            **_columns(records),
            g=generation,
        )
        return int(count)

    def _there(self, records: Records) -> Container[str]:
        """Those of these keys that are there."""
        return self._known(records.ids)

    def delete(self, keys: Sequence[str], kept: Iterable[tuple[str, str]] = ()) -> None:
        """Ghosts go with their last edge, but for those that are `kept` for an edge to come."""
        needed = list(kept)
        for piece in _pieces(keys):
            known = self._known(piece)
            if not known:
                continue
            self._db.rows(f"{self._found} where n._key in $rows delete n", list(known))
            for label, place in ((self._source, 0), (self._target, 1)):
                self._lay(
                    label,
                    {there[place] for there in known.values()} - {pair[place] for pair in needed},
                )

    def _lay(self, label: str, keys: Set[str]) -> None:
        """Ghosts without an edge go."""
        self._db.run(
            f"match (n:{label}) where n._key in $keys and n._ghost = true and {_NO_EDGES} delete n",
            keys=sorted(keys),
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


class ToldEdges(Edges):
    """Relationships whose keys tell their ends: found from there, without an index and its cost."""

    def __init__(self, database: Database, collection: Collection) -> None:
        super().__init__(database, collection)
        assert collection.told is not None
        self._told = collection.told
        self._at = (
            f"{_EACH} match (a:{self._source} {{_key: $s[i]}}) match (b:{self._target} {{_key: $t[i]}})"
            f" match (a)-[n:{self._name} {{_key: $k[i]}}]->(b)"
        )

    def make(self, before: Collection | None) -> None:
        self._make_vertices()
        self._leave(before)

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        records = Records.of(self.made, puts).in_order()
        known = set() if fresh else self._there(records)
        if known:
            places = [place for place, key in enumerate(records.ids) if key in known]
            self._db.columns(
                f"{self._at} set n = {_given(self.made)}", **_columns(records.only(places)), g=generation
            )
            records = records.only(place for place, key in enumerate(records.ids) if key not in known)
        self._create(records, generation)

    def _there(self, records: Records) -> set[str]:
        assert records.ends is not None
        source, target = records.ends
        return {
            row[0] for row in self._db.run(f"{self._at} return n._key", k=records.ids, s=source, t=target)
        }

    def delete(self, keys: Sequence[str], kept: Iterable[tuple[str, str]] = ()) -> None:
        """Ghosts go with their last edge."""
        for piece in _pieces(keys):
            given = self._ends(piece)
            self._db.columns(f"{self._at} delete n", **given)
            for label, side in ((self._source, "s"), (self._target, "t")):
                self._lay(label, set(given[side]))

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        rows = self._db.run(
            f"{self._at} return n._key, a._key, b._key{_fields(self.made)}", **self._ends(keys)
        )
        return {row[0]: row[1:] for row in rows}

    def ids(self, after: str | None, limit: int) -> list[str]:
        rows = self._db.run(
            f"match ()-[n:{self._name}]->() where n._key > $after return n._key order by n._key limit $limit",
            after=after or "",
            limit=limit,
        )
        return [row[0] for row in rows]

    def _ends(self, keys: Sequence[str]) -> dict[str, list[str]]:
        ends = [self._told.ends(key) for key in keys]
        return {"k": list(keys), "s": [source for source, _ in ends], "t": [target for _, target in ends]}


def edges(database: Database, collection: Collection) -> Edges:
    return (Edges if collection.told is None else ToldEdges)(database, collection)


def _columns(records: Records) -> dict[str, Any]:
    """Parameters: a list for each column. Lists of values are half of the work that maps are, for the driver and the server."""
    found: dict[str, Any] = {"k": records.ids}
    if records.ends is not None:
        found["s"], found["t"] = records.ends
    if records.members is not None:
        found["m"] = records.members
    return found | {f"f{number}": column for number, column in enumerate(records.fields.values())}


def _given(made: Collection, own: Mapping[str, str] = MappingProxyType({})) -> str:
    """The properties of the vertex or edge at place `i` of these parameters."""
    given = {"_key": "$k[i]", "_gen": "$g", **own}
    if made.tracked:
        given["_member"] = "$m[i]"
    given |= {quoted(field): f"$f{number}[i]" for number, (field, _) in enumerate(made.fields)}
    return "{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}"


def _fields(made: Collection) -> str:
    return "".join(f", n.{quoted(field)}" for field, _ in made.fields)


def _pieces(keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _PIECE):
        yield list(keys[start : start + _PIECE])
