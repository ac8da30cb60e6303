"""One label of edges: its tables, and what is put into them and taken out. Everything runs in the open transaction.

A vertex that only edges know of is a ghost: it is there so that the edge can be, and goes with its last edge. LadybugDB
finds a vertex by its key and an edge by its vertices. Where an edge's key does not tell those, they are kept by it in a
node table beside the edges, the book: half of the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any

import pyarrow as pa

from walcast.model.derived import Collection, Put
from walcast.sinks.graph.database import Database
from walcast.sinks.graph.labels import NO_EDGES, Label, Vertices, keys_table
from walcast.sinks.inplace.records import Records
from walcast.sinks.inplace.values import quoted

_OWN = {"_key": "STRING", "_gen": "INT64"}


def edges(database: Database, collection: Collection) -> BookedEdges | ToldEdges:
    return (BookedEdges if collection.told is None else ToldEdges)(database, collection)


class Edges(Label):
    """A relationship table between two node tables."""

    own: tuple[str, ...] = ("_key",)
    """Its columns beside the fields."""

    def __init__(self, database: Database, collection: Collection) -> None:
        super().__init__(database, collection)
        assert collection.ends is not None
        self._labels = collection.ends
        self._source, self._target = (quoted(label) for label in collection.ends)
        # From one vertex, which the key's index finds, along its edges: any other order is a join with whole tables.
        self._path = (
            f"match (a:{self._source} {{_key: s}}) match (a)-[n:{self.name}]->(b:{self._target})"
            f" where b._key = t{' and n._key = k' if '_key' in self.own else ''}"
        )

    def make(self, before: Collection | None) -> None:
        """Makes the tables, anew when it led between other labels before, or was found in another way."""
        for label in dict.fromkeys(self._labels):
            if not self._db.columns(label):
                Vertices(self._db, Collection(label, "vertex", (), "")).make(None)
        if before is not None and (before.ends, before.told) != (self.made.ends, self.made.told):
            edges(self._db, before).drop()
        wanted = {name: _OWN[name] for name in self.own} | self._fields
        if self._db.columns(self.made.name):
            self._follow(wanted)
            return
        columns = "".join(f", {quoted(name)} {kind}" for name, kind in wanted.items())
        self._db.run(f"create rel table {self.name} (from {self._source} to {self._target}{columns})")

    def drop(self) -> None:
        self._db.run(f"drop table {self.name}")

    def _create(self, records: Records, table: pa.Table, generation: int) -> None:
        """A `merge` looks through all edges of a vertex: what is known to be new is created. Most have their vertices
        already; for the others those are made first, as ghosts."""
        if self._created(table, generation) == len(records):
            return
        assert records.ends is not None
        sources, targets = (
            self._missing(label, keys) for label, keys in zip(self._labels, records.ends, strict=True)
        )
        if self._labels[0] == self._labels[1]:
            sources = targets = sources | targets
        self._haunt(self._source, sources)
        if self._labels[0] != self._labels[1]:
            self._haunt(self._target, targets)
        places = enumerate(zip(*records.ends, strict=True))
        left = records.only(place for place, (s, t) in places if s in sources or t in targets)
        self._created(self._table(left), generation)

    def _created(self, table: pa.Table, generation: int) -> int:
        """How many of them have both vertices, and were made."""
        own = {"_key": "k", "_gen": str(generation)} if generation else {"_key": "k"}
        given = [(name, own[name]) for name in self.own if name in own] + self._numbered
        properties = f" {{{', '.join(f'{name}: {value}' for name, value in given)}}}" if given else ""
        # Two matches: of one with two vertices it makes a product first, and takes seven times as long.
        ((count,),) = self._db.run(
            f"load from $rows match (a:{self._source} {{_key: s}}) match (b:{self._target} {{_key: t}})"
            f" create (a)-[:{self.name}{properties}]->(b) return count(*)",
            rows=table,
        )
        return int(count)

    def _missing(self, label: str, keys: Sequence[str]) -> set[str]:
        wanted = set(keys)
        found = self._db.run(
            f"load from $rows match (n:{quoted(label)} {{_key: k}}) return k",
            rows=keys_table(wanted),
        )
        return wanted.difference(row[0] for row in found)

    def _haunt(self, label: str, keys: Set[str]) -> None:
        """Makes ghosts."""
        if keys:
            self._db.run(
                f"load from $rows create (n:{label} {{_key: k, _ghost: true}})", rows=keys_table(sorted(keys))
            )

    def _lay(self, label: str, keys: Set[str]) -> None:
        """Ghosts without an edge go."""
        ghosts = self._db.run(
            f"load from $rows match (n:{label} {{_key: k}}) where n._ghost = true return k",
            rows=keys_table(sorted(keys)),
        )
        if ghosts:
            self._db.run(
                f"match (n:{label}) where n._key in $keys and n._ghost = true and {NO_EDGES} delete n",
                keys=[row[0] for row in ghosts],
            )


class BookedEdges(Edges):
    """With a book."""

    def __init__(self, database: Database, collection: Collection) -> None:
        super().__init__(database, collection)
        self._book_name = f"_walcast_{collection.name}"
        self._book = quoted(self._book_name)

    def make(self, before: Collection | None) -> None:
        super().make(before)
        wanted = {"_source": "STRING", "_target": "STRING", "_gen": "INT64"}
        if self.made.tracked:
            wanted["_member"] = "STRING"
        if there := self._db.columns(self._book_name):
            for name in wanted.keys() - there.keys():
                self._db.run(f"alter table {self._book} add {name} {wanted[name]}")
            return
        columns = ", ".join(f"{name} {kind}" for name, kind in wanted.items())
        self._db.run(f"create node table {self._book} (_key string primary key, {columns})")

    def drop(self) -> None:
        super().drop()
        self._db.run(f"drop table {self._book}")

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        records = Records.of(self.made, puts)
        assert records.ends is not None
        known = {} if fresh else {key: (source, target) for key, source, target in self._known(records.ids)}
        if known:
            ends = dict(zip(records.ids, zip(*records.ends, strict=True), strict=True))
            moved = {key for key, there in known.items() if there != ends[key]}
            if moved:
                self.delete(sorted(moved), kept=ends.values())
            still = known.keys() - moved
            self._update(
                records.only(place for place, key in enumerate(records.ids) if key in still), generation
            )
            records = records.only(place for place, key in enumerate(records.ids) if key not in still)
        if not len(records):
            return
        table = self._table(records)
        self._create(records, table, generation)
        member = ", _member: m" if self.made.tracked else ""
        self._db.run(
            f"load from $rows create (n:{self._book} {{_key: k, _source: s, _target: t, _gen: $g{member}}})",
            rows=table,
            g=generation,
        )

    def _update(self, records: Records, generation: int) -> None:
        table = self._table(records)
        if self._numbered:
            self._db.run(f"load from $rows {self._path} set {self._set({})}", rows=table)
        member = ", n._member = m" if self.made.tracked else ""
        self._db.run(
            f"load from $rows match (n:{self._book} {{_key: k}}) set n._gen = $g{member}",
            rows=table,
            g=generation,
        )

    def delete(self, keys: Sequence[str], kept: Iterable[tuple[str, str]] = ()) -> None:
        """Ghosts go with their last edge, but for those that are `kept` for an edge to come."""
        known = self._known(keys)
        if not known:
            return
        table = known_table(known)
        self._db.run(f"load from $rows {self._path} delete n", rows=table)
        self._db.run(f"load from $rows match (n:{self._book} {{_key: k}}) delete n", rows=table)
        needed = set(kept)
        for label, place in ((self._source, 0), (self._target, 1)):
            self._lay(label, {there[place] for _, *there in known} - {pair[place] for pair in needed})

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
        known = self._known(keys)
        if not known:
            return {}
        rows = self._db.run(
            f"load from $rows {self._path} return k, s, t{self._columns}", rows=known_table(known)
        )
        return {row[0]: row[1:] for row in rows}

    def _known(self, keys: Sequence[str]) -> list[tuple[str, str, str]]:
        if not keys:
            return []
        rows = self._db.run(
            f"load from $rows match (n:{self._book} {{_key: k}}) return k, n._source, n._target",
            rows=keys_table(keys),
        )
        return [(row[0], row[1], row[2]) for row in rows]


class ToldEdges(Edges):
    """Without one: a key tells the vertices. Where they tell the key as well, it is not kept either."""

    own: tuple[str, ...] = ("_key", "_gen")

    def __init__(self, database: Database, collection: Collection) -> None:
        assert collection.told is not None
        self._told = collection.told
        if self._told.both_ways:
            self.own = ("_gen",)
        super().__init__(database, collection)
        self._all = f"match (a:{self._source})-[n:{self.name}]->(b:{self._target})"
        self._id = "a._key, b._key" if self._told.both_ways else "n._key"

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        records = Records.of(self.made, puts)
        table = self._table(records)
        known = (
            set()
            if fresh
            else {row[0] for row in self._db.run(f"load from $rows {self._path} return k", rows=table)}
        )
        if known:
            there = records.only(place for place, key in enumerate(records.ids) if key in known)
            sets = self._set({"_gen": str(generation)} if generation else {})
            if sets:
                self._db.run(f"load from $rows {self._path} set {sets}", rows=self._table(there))
            records = records.only(place for place, key in enumerate(records.ids) if key not in known)
            table = self._table(records)
        if len(records):
            self._create(records, table, generation)

    def delete(self, keys: Sequence[str]) -> None:
        """Ghosts go with their last edge."""
        if not keys:
            return
        rows = self._ends(keys)
        self._db.run(f"load from $rows {self._path} delete n", rows=known_table(rows))
        for label, place in ((self._source, 1), (self._target, 2)):
            self._lay(label, {row[place] for row in rows})

    def others(self, generation: int) -> list[str]:
        return self._ids(
            self._db.run(f"{self._all} where n._gen is null or n._gen <> $g return {self._id}", g=generation)
        )

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]:
        return []

    def ids(self, after: str | None, limit: int) -> list[str]:
        order = f"return {self._id} order by {self._id} limit {limit}"
        if not self._told.both_ways:
            return self._ids(self._db.run(f"{self._all} where n._key > $after {order}", after=after or ""))
        if after is None:
            return self._ids(self._db.run(f"{self._all} {order}"))
        source, target = self._told.ends(after)
        beyond = "a._key > $s or (a._key = $s and b._key > $t)"
        return self._ids(self._db.run(f"{self._all} where {beyond} {order}", s=source, t=target))

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        if not keys:
            return {}
        rows = self._db.run(
            f"load from $rows {self._path} return k, s, t{self._columns}", rows=known_table(self._ends(keys))
        )
        return {row[0]: row[1:] for row in rows}

    def _ids(self, rows: Iterable[Sequence[str]]) -> list[str]:
        return [self._told.id_of(*row) if self._told.both_ways else row[0] for row in rows]

    def _ends(self, keys: Sequence[str]) -> list[tuple[str, str, str]]:
        return [(key, *self._told.ends(key)) for key in keys]


def known_table(known: Sequence[tuple[str, str, str]]) -> pa.Table:
    return pa.table(
        {name: pa.array([row[place] for row in known], pa.string()) for place, name in enumerate("kst")}
    )
