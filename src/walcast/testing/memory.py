"""A copy in memory: for tests of programs that use Walcast, and for Walcast's own.

    store = MemoryStore()
    pipeline = Pipeline(source, {"copy": MemorySink(store)}, state_dir)
    ...
    assert store.rows(TableId("app", "users")) == [...]

The store stands for the target: it outlives the sink, as a database outlives its client. What a sink accepted and did
not make durable is lost when the sink is closed. The store refuses changes out of order and changes given twice, so
a pipeline that runs to its end on it has proved both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from walcast.model import (
    UNCHANGED,
    Batch,
    Change,
    Checkpoint,
    Durability,
    FatalError,
    Fenced,
    Position,
    Relation,
    TableId,
)

Row = dict[str, Any]


@dataclass(slots=True)
class MemoryStore:
    """What survives: rows by table and key, the checkpoint, the journal. `last` is the latest change's position.

    `changes` keeps every change in order when `record` is set.
    """

    tables: dict[TableId, dict[Any, Row]] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    journal: dict[str, Any] = field(default_factory=dict)
    last: tuple[int, Position] | None = None
    record: bool = False
    changes: list[Change] = field(default_factory=list)
    again: int = 0
    """Changes that came a second time, where that is allowed."""

    def rows(self, table: TableId) -> list[Row]:
        """The rows of a table, in the order of their keys' text."""
        found = self.tables.get(table, {})
        return [found[key] for key in sorted(found, key=repr)]

    async def load(self) -> dict[str, Any]:
        """As `walcast.model.Journal`."""
        return dict(self.journal)

    async def save(self, key: str, value: Any) -> None:
        """As `walcast.model.Journal`."""
        if value is None:
            self.journal.pop(key, None)
        else:
            self.journal[key] = value


class MemorySink:
    """Writes to a MemoryStore, exactly once; can be opened again.

    Parameters
    ----------
    durable
        False: `write` only accepts, and `flush` makes durable
    keeps_checkpoint
        False: the pipeline keeps the checkpoint, and changes may come again
    before_write
        called with each batch, before anything is done with it
    """

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        durable: bool = True,
        keeps_checkpoint: bool = True,
        before_write: Callable[[Batch], None] | None = None,
    ) -> None:
        self.store = store if store is not None else MemoryStore()
        self.relations: dict[TableId, Relation] = {}
        self._durable = durable
        self._keeps = keeps_checkpoint
        self._before_write = before_write
        self._pending: list[Change | TableId] = []
        self._reached: Checkpoint | None = None
        self._seen: Checkpoint | None = None
        self._in_parts = False

    async def __aenter__(self) -> Self:
        self._pending.clear()
        self.relations.clear()
        self._in_parts = False
        self._seen = self._reached = self.store.checkpoint
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._pending.clear()

    @property
    def keeps_checkpoint(self) -> bool:
        return self._keeps

    def journal(self) -> MemoryStore:
        return self.store

    async def checkpoint(self) -> Checkpoint | None:
        return self.store.checkpoint

    async def prepare(self, relation: Relation) -> None:
        self.relations[relation.table] = relation

    async def write(self, batch: Batch) -> Durability:
        if self._before_write is not None:
            self._before_write(batch)
        for relation in batch.relations:
            if batch.kind == "snapshot" and self.relations.get(relation.table) != relation:
                raise FatalError(f"{relation} was not prepared")
        part = batch.part
        if batch.kind == "snapshot" and part is not None and part.number == 0:
            self._pending.append(batch.relations[0].table)
        self._pending += batch.changes()
        self._in_parts = batch.kind == "changes" and part is not None and not part.last
        if batch.checkpoint is not None:
            self._reached = batch.checkpoint
        if not self._durable or self._in_parts:
            return Durability.ACCEPTED
        self._commit()
        return Durability.DURABLE

    async def flush(self) -> None:
        if self._in_parts:
            raise FatalError("flush between the parts of a transaction")
        self._commit()

    async def count(self, table: TableId) -> int:
        return len(self.store.tables.get(table, {}))

    async def query(self, schema: str, name: str) -> list[Row]:
        """The rows of a table: what the control socket's `query` asks."""
        return self.store.rows(TableId(schema, name))

    def _commit(self) -> None:
        store = self.store
        if self._keeps:
            if store.checkpoint is not self._seen:
                raise Fenced("another sink wrote to this store")
            store.checkpoint = self._seen = self._reached
        for item in self._pending:
            if isinstance(item, Change):
                self._apply(item)
            else:
                store.tables[item] = {}
        self._pending.clear()

    def _apply(self, change: Change) -> None:
        store = self.store
        if change.op != "snapshot":
            epoch = self._reached.epoch if self._reached is not None else 0
            at = (epoch, change.position)
            several = (
                change.op == "truncate" and at == store.last
            )  # tables truncated together share a position
            if store.last is not None and at <= store.last and not several:
                if self._keeps:
                    raise FatalError(f"change {change.position} came after {store.last[1]}")
                store.again += 1
            else:
                store.last = at
            if store.record:
                store.changes.append(change)
        if change.relation is None:
            return
        rows = store.tables.setdefault(change.relation.table, {})
        if change.op == "truncate":
            rows.clear()
            return
        before = None if change.op in ("insert", "snapshot") else _find(rows, change)
        old = rows.pop(before) if before is not None else {}
        if change.new is not None:
            new = {name: old.get(name) if value is UNCHANGED else value for name, value in change.new.items()}
            rows[_key(change.relation, new, rows)] = new


def _key(relation: Relation, row: Row, rows: dict[Any, Row]) -> Any:
    names = [column.name for column in relation.columns if column.key]
    if names:
        return tuple(_plain(row[name]) for name in names)
    number = len(rows)
    while ("row", number) in rows:
        number += 1
    return ("row", number)


def _find(rows: dict[Any, Row], change: Change) -> Any:
    """The key under which the row before the change is."""
    assert change.relation is not None
    names = [column.name for column in change.relation.columns if column.key]
    before = change.old if change.old is not None else (change.new or {})
    if names:
        key = tuple(_plain(before[name]) for name in names)
        return key if key in rows else None
    return next((key for key, row in rows.items() if row == before), None)


def _plain(value: Any) -> Any:
    return repr(value) if isinstance(value, (list, dict)) else value
