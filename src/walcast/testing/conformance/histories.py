"""Random histories of a small social network, and what a mapping makes of their end."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from collections.abc import Collection as Group
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any, Literal, Self

from walcast.decode import StreamBatch
from walcast.mapping import (
    DataMapping,
    Document,
    Edge,
    End,
    Field,
    Nested,
    Route,
    Through,
    Vertex,
    assemble,
    compile_mapping,
)
from walcast.model import Lsn, TableId
from walcast.model.derived import Kind, Row
from walcast.testing.batches import INT4
from walcast.testing.conformance.world import Col, Tab, World
from walcast.testing.derived import MemoryReader

Identity = Literal["d", "f"]
_NUMBERS = count()
Content = dict[str, dict[str, tuple[dict[str, Any], tuple[str, str] | None]]]
"""Collection -> id -> (body, the ids of an edge's ends)."""

PEOPLE = Nested(
    "app.users",
    on={"id": "author_id"},
    many=False,
    fields={"name": "name", "bio": "bio"},
    deleted="closed",
)
MAPPING = DataMapping(
    documents={
        "posts": Document(
            "app.posts",
            fields={"title": "title", "body": "body", "shout": Field(template="{title}!")},
            nested={
                "author": PEOPLE,
                "comments": Nested(
                    "app.comments", on={"post_id": "id"}, fields={"text": "text"}, nested={"by": PEOPLE}
                ),
                "tags": Nested(
                    "app.tags",
                    through=Through(
                        "app.post_tags",
                        ours={"post_id": "id"},
                        theirs={"tag_id": "id"},
                        fields={"weight": "weight"},
                    ),
                    fields={"label": "label"},
                ),
            },
        ),
        "notes": Document(
            "app.comments", route=Route("lang", {"en": "notes_en", "fr": "notes_fr"}), tenant="author_id"
        ),
        "people": Document("app.users", id=("name",), fields={"bio": "bio"}, deleted="closed"),
    },
    vertices={"User": Vertex("app.users", fields={"name": "name", "bio": "bio"}), "Tag": Vertex("app.tags")},
    edges={
        "FOLLOWS": Edge(
            "app.follows", End("User", ("a_id",)), End("User", ("b_id",)), fields={"since": "since"}
        ),
        "WROTE": Edge(
            "app.comments", End("User", ("author_id",)), End("User", ("friend_id",)), fields={"text": "text"}
        ),
    },
)


def tables(identity: Identity) -> dict[str, Tab]:
    """The tables, those whose keys do not tell everything under this replica identity."""
    made = (
        Tab("users", (Col("id", INT4, key=True), Col("name"), Col("bio", toast=True), Col("closed"))),
        Tab(
            "posts",
            (Col("id", INT4, key=True), Col("author_id", INT4), Col("title"), Col("body", toast=True)),
            identity=identity,
        ),
        Tab(
            "comments",
            (
                Col("id", INT4, key=True),
                Col("post_id", INT4),
                Col("author_id", INT4),
                Col("friend_id", INT4),
                Col("lang"),
                Col("text", toast=True),
            ),
            identity=identity,
        ),
        Tab("tags", (Col("id", INT4, key=True), Col("label"))),
        Tab("post_tags", (Col("post_id", INT4, key=True), Col("tag_id", INT4, key=True), Col("weight"))),
        Tab("follows", (Col("a_id", INT4, key=True), Col("b_id", INT4, key=True), Col("since"))),
    )
    return {
        tab.name: Tab(tab.name, tab.columns, identity=tab.identity, oid=16400 + 10 * number)
        for number, tab in enumerate(made)
    }


class History:
    """A world with a random past. `states[n]` is what its tables held after n transactions."""

    def __init__(self, seed: int, transactions: int = 20, identity: Identity = "d") -> None:
        self.random = Random(seed)
        self.world = World(binary=self.random.random() < 0.5)
        self.tables = tables(identity)
        for table in self.tables.values():
            self.world.table(table)
        self.states = [copy.deepcopy(self.world.rows)]
        self.ends = [self.world.end]
        self.told = 0
        """The state at the last batch or snapshot that was taken."""
        self._words = 0
        self.go_on(transactions)

    def go_on(self, transactions: int) -> None:
        """More of it."""
        for _ in range(transactions):
            with self.world.transaction():
                for _ in range(self.random.randint(1, 5)):
                    self._step()
            self.noted()
        if transactions:
            self.end_on(self.random.choice(list(self.tables)))

    def end_on(self, name: str) -> None:
        """One change more, of that table: nothing later covers up what was missed of it."""
        table = self.tables[name]
        rows = self.world.rows[table.id]
        with self.world.transaction():
            what = self.random.random()
            if not rows:
                self._insert(table)
            elif what < 0.3:
                self.world.truncate(table)
            elif what < 0.6:
                self.world.delete(table, dict(self.random.choice(rows)))
            else:
                self._update(table, self.random.choice(rows))
        self.noted()

    def plenty(self) -> None:
        """Some rows in every table."""
        with self.world.transaction():
            for table in self.tables.values():
                for _ in range(4):
                    self._insert(table)
        self.noted()

    def noted(self) -> None:
        """A transaction ended."""
        self.states.append(copy.deepcopy(self.world.rows))
        self.ends.append(self.world.end)

    def batches(self, part_bytes: int = 64 << 20) -> list[StreamBatch]:
        """All that happened since the last call, cut at random."""
        self.told = len(self.states) - 1
        return self.world.batches(part_bytes=part_bytes, batch_bytes=self.random.choice((1, 2000, 1 << 20)))

    def snapshot(self, table: Tab) -> tuple[Lsn, list[StreamBatch]]:
        """The table now, in one chunk or several."""
        self.told = len(self.states) - 1
        return self.world.snapshot(table, self.random.randint(1, 3))

    def rows(self, table: TableId, state: int = -1) -> list[Row]:
        """A table's rows with Python values, as they were after that many transactions."""
        columns = {c.name: c.oid for c in self.tables[table.name].columns}
        return [
            {name: int(v) if v is not None and columns[name] == INT4 else v for name, v in row.items()}
            for row in self.states[state][table]
        ]

    async def expected(self, mapping: DataMapping, kinds: Group[Kind]) -> Content:
        """What a rebuild from scratch gives now."""
        reader = MemoryReader({t.id: t.relation() for t in self.tables.values()}, self.rows)
        plan = compile_mapping(mapping, {t.id: t.relation() for t in self.tables.values()}, kinds)
        found: Content = {name: {} for name in plan.collections}
        for target in plan.targets:
            for put in await assemble(reader, target, self.rows(target.root.table)):
                found[put.collection][put.id] = (put.body, put.ends)
        return found

    def _step(self) -> None:
        pick = self.random
        table = pick.choices(list(self.tables.values()), (3, 4, 6, 2, 4, 4))[0]
        rows = self.world.rows[table.id]
        what = pick.random()
        if not rows or what < 0.5:
            self._insert(table)
        elif what < 0.85:
            self._update(table, pick.choice(rows))
        elif what < 0.98:
            self.world.delete(table, dict(pick.choice(rows)))
        else:
            self.world.truncate(table)

    def _insert(self, table: Tab) -> None:
        row = {column.name: self._value(table, column) for column in table.columns}
        key = [row[name] for name in table.key]
        if not any([there[name] for name in table.key] == key for there in self.world.rows[table.id]):
            self.world.insert(table, **row)

    def _update(self, table: Tab, row: dict[str, str | None]) -> None:
        pick = self.random
        free = [column for column in table.columns if not column.key]
        changes = {c.name: self._value(table, c) for c in pick.sample(free, pick.randint(1, len(free)))}
        if pick.random() < 0.15:
            moved = {
                name: self._value(table, next(c for c in table.columns if c.name == name))
                for name in table.key
            }
            taken = [[there[name] for name in table.key] for there in self.world.rows[table.id]]
            if list(moved.values()) not in taken:
                changes |= moved
        self.world.update(table, {name: row[name] for name in table.key}, **changes)

    def _value(self, table: Tab, column: Col) -> str | None:
        pick = self.random
        if column.oid == INT4:
            return None if not column.key and pick.random() < 0.1 else str(pick.randint(1, 9))
        if column.name == "lang":
            return pick.choice(("en", "fr", "de", None))
        if column.name == "closed":
            return pick.choice((None, None, None, "2020-01-01"))
        self._words += 1
        return f"{column.name} {self._words}" + " long" * (30 if column.toast else 0)


class HistoryReader(MemoryReader):
    """Shows the world in one of its states, never an older one than before, and never one that lacks what was asked for: as a
    source does that is ahead of its stream."""

    def __init__(self, history: History) -> None:
        super().__init__({t.id: t.relation() for t in history.tables.values()}, self._now)
        self._history = history
        self._state = 0
        self.number = next(_NUMBERS)
        """Its own."""

    async def __aenter__(self) -> Self:
        self.shown = self._history.ends[-1]
        return await super().__aenter__()

    async def settle(self) -> None:
        """Everything that may have been streamed is visible now."""
        self._state = max(self._state, self._history.told)

    @asynccontextmanager
    async def view(self, xids: Group[int]) -> AsyncIterator[HistoryReader]:
        last = len(self._history.states) - 1
        least = max((xid - 700 for xid in xids), default=0)
        self._state = (
            self._history.random.randint(max(self._state, least), last) if self._state < last else last
        )
        self.shown = self._history.ends[self._state]
        yield self

    def _now(self, table: TableId) -> Sequence[Row]:
        return self._history.rows(table, self._state)
