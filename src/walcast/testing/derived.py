"""Derived copies without servers: a store in memory, and a reader of tables in memory. Doubles, for quick property tests.

The store behaves as one with transactions does: what was not `done`, or not flushed, is lost when it is closed.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Collection as Group
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from walcast.mapping.values import key_of
from walcast.model import Checkpoint, Durability, Fenced, Lsn, Relation, TableId
from walcast.model.derived import Collection, Derived, Key, Kind, Put, Row


@dataclass(slots=True)
class DerivedState:
    """What survives. `collections`: name -> id -> (version, what was put)."""

    collections: dict[str, dict[str, tuple[int, Put]]] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    journal: dict[str, Any] = field(default_factory=dict)

    def bodies(self, collection: str) -> dict[str, dict[str, Any]]:
        """Id -> body of what is there."""
        return {id_: put.body for id_, (_, put) in self.collections.get(collection, {}).items()}

    async def load(self) -> dict[str, Any]:
        """As `walcast.model.Journal`."""
        return dict(self.journal)

    async def save(self, key: str, value: Any) -> None:
        """As `walcast.model.Journal`."""
        if value is None:
            self.journal.pop(key, None)
        else:
            self.journal[key] = value


class MemoryDerivedStore:
    """Implements `walcast.model.derived.DerivedStore`. `forgets`: it keeps no checkpoint, and has only versions."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"document", "vertex", "edge"})

    def __init__(self, state: DerivedState, *, forgets: bool = False) -> None:
        self.state = state
        self._forgets = forgets
        self._working: DerivedState | None = None
        self._seen: Checkpoint | None = None
        self._making: dict[str, dict[str, tuple[int, Put]]] = {}
        self._whole = True

    async def __aenter__(self) -> Self:
        self._working = copy.deepcopy(self.state)
        self._seen = self.state.checkpoint
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._working = None
        self._making.clear()

    @property
    def keeps_checkpoint(self) -> bool:
        return not self._forgets

    @property
    def _open(self) -> DerivedState:
        assert self._working is not None, "the store is not open"
        return self._working

    def journal(self) -> DerivedState:
        return self.state

    async def checkpoint(self) -> Checkpoint | None:
        return None if self._forgets else self.state.checkpoint

    async def built(self) -> Mapping[str, str]:
        return dict(self._open.prints)

    async def begin(self, collection: Collection) -> None:
        self._making[collection.name] = {}

    async def finish(self, collection: Collection) -> None:
        if collection.name in self._making:
            self._open.collections[collection.name] = self._making.pop(collection.name)
            self._open.prints[collection.name] = collection.fingerprint
            self._commit()

    async def drop(self, name: str) -> None:
        self._open.collections.pop(name, None)
        self._open.prints.pop(name, None)
        self._commit()

    async def write(self, derived: Derived) -> Durability:
        for name in derived.empty:
            self._of(name).clear()
        for collection, id_ in derived.deletes:
            there = self._of(collection)
            if id_ in there and there[id_][0] <= derived.version:
                del there[id_]
        for put in derived.puts:
            there = self._of(put.collection)
            if put.id not in there or there[put.id][0] <= derived.version:
                there[put.id] = (derived.version, put)
        self._whole = derived.done
        if derived.checkpoint is not None:
            self._open.checkpoint = derived.checkpoint
        return Durability.ACCEPTED

    async def flush(self) -> None:
        assert self._whole, "a flush between the parts of a transaction"
        self._commit()

    async def holders(self, collection: Collection, members: Sequence[str]) -> Sequence[tuple[str, str]]:
        wanted = set(members)
        there = self._of(collection.name).items()
        return [(id_, put.members[0]) for id_, (_, put) in there if wanted & set(put.members)]

    async def ids(self, collection: Collection, after: str | None) -> Sequence[str]:
        return list(self._of(collection.name)) if after is None else []

    async def held(self, collection: Collection, ids: Sequence[str]) -> Mapping[str, Any]:
        there = self._of(collection.name)
        return {id_: self.form(collection, there[id_][1]) for id_ in ids if id_ in there}

    def form(self, collection: Collection, put: Put) -> Any:
        return put.body, put.ends

    def _of(self, name: str) -> dict[str, tuple[int, Put]]:
        made = self._making.get(name)
        return made if made is not None else self._open.collections[name]

    def _commit(self) -> None:
        if not self._whole:
            return
        if self.state.checkpoint is not self._seen:
            raise Fenced("another sink wrote to this store")
        self.state.collections = copy.deepcopy(self._open.collections)
        self.state.prints = dict(self._open.prints)
        self.state.checkpoint = self._seen = self._open.checkpoint


class MemoryReader:
    """Implements `walcast.model.derived.SourceReader` over tables in memory, as they are when they are read: ahead of the
    batches, as a real source is. `rows` gives a table's rows with Python values."""

    def __init__(
        self, relations: Mapping[TableId, Relation], rows: Callable[[TableId], Sequence[Row]]
    ) -> None:
        self._relations = relations
        self._rows = rows
        self.asked = 0
        """Queries so far."""
        self.shown = Lsn(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def relations(self, tables: Group[TableId]) -> Mapping[TableId, Relation]:
        return {table: self._relations[table] for table in tables if table in self._relations}

    async def settle(self) -> None:
        return None

    @asynccontextmanager
    async def view(self, xids: Group[int]) -> AsyncIterator[Self]:
        yield self

    async def rows(
        self, table: TableId, columns: Sequence[str], by: Sequence[str], values: Group[Key]
    ) -> Sequence[Row]:
        self.asked += 1
        wanted = set(values)
        found = [row for row in self._rows(table) if key_of(row[column] for column in by) in wanted]
        return [{column: row[column] for column in columns} for row in found]

    async def page(
        self, table: TableId, columns: Sequence[str], key: Sequence[str], after: Key | None, limit: int
    ) -> Sequence[Row]:
        self.asked += 1
        ordered = sorted((self._key(row, key), number, row) for number, row in enumerate(self._rows(table)))
        rest = [row for at, _, row in ordered if after is None or at > after][:limit]
        return [{column: row[column] for column in columns} for row in rest]

    @staticmethod
    def _key(row: Row, key: Sequence[str]) -> Key:
        made = key_of(row[column] for column in key)
        assert made is not None, "a key is never null"
        return made
