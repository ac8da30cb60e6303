"""What the tests of the source share: a source on a test's database, and a mirror that applies what it sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from walcast.model import UNCHANGED, Batch, Change, Checkpoint, Lsn, TableId
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.testing.postgres import Database

Stream = AsyncGenerator[Batch, None]
PUBLISH_ALL = "create publication p for all tables"


def source_config(database: Database, **settings: Any) -> SourceConfig:
    """Slot named as the database, publication p."""
    defaults: dict[str, Any] = {"dsn": database.dsn(), "name": "t", "slot": database.name, "publication": "p"}
    chosen = defaults | settings
    return SourceConfig(**(chosen | {"dsn": Secret(chosen["dsn"])}))


@asynccontextmanager
async def opened(database: Database, *, slot: bool = True, **settings: Any) -> AsyncIterator[PostgresSource]:
    """An open source with a new slot (unless `slot` is False or it is there), whose snapshot was let go."""
    async with PostgresSource(source_config(database, **settings)) as source:
        if slot and await source.slot() is None:
            await source.create_slot()
            async for _ in source.snapshot([]):
                pass
        yield source


def stream(source: PostgresSource, after: Checkpoint | None = None) -> aclosing[Stream]:
    return aclosing(cast(Stream, source.stream(after)))


async def changes(source: PostgresSource, count: int, after: Checkpoint | None = None) -> list[Change]:
    """The next `count` changes of a stream of its own; fails when more come with them."""
    found: list[Change] = []
    async with asyncio.timeout(20), stream(source, after) as batches:
        async for batch in batches:
            found += batch.changes()
            if len(found) >= count:
                break
    assert len(found) == count, [change.op for change in found]
    return found


class Mirror:
    """A copy in memory, by the plainest rules: what a sink must end up with."""

    def __init__(self, source: PostgresSource) -> None:
        self.source = source
        self.tables: dict[TableId, dict[tuple[Any, ...], dict[str, Any]]] = {}
        self.checkpoint: Checkpoint | None = None
        self.parts = 0

    async def snapshot(self, tables: list[TableId] | None = None) -> None:
        wanted = tables or [item.table for item in await self.source.tables()]
        async with aclosing(cast(Stream, self.source.snapshot(wanted))) as batches:
            async for batch in batches:
                self.apply(batch)

    async def follow(self, done: Callable[[], bool] | None = None, *, to: Lsn | None = None) -> None:
        """Until `done`, or until it holds all up to the position `to` (default: the source's now)."""
        if done is None and to is None:
            to = await self.source.position()
        async with asyncio.timeout(30), stream(self.source, self.checkpoint) as batches:
            async for batch in batches:
                self.apply(batch)
                if done is not None:
                    if done():
                        return
                elif self.checkpoint is not None and to is not None:
                    if self.checkpoint.through >= to:
                        return
                    self.source.poke()

    def apply(self, batch: Batch) -> None:
        kept = batch.after(self.checkpoint, self.source.starts) if batch.kind != "snapshot" else batch
        if batch.checkpoint is not None:
            self.checkpoint = batch.checkpoint
        if kept is None:
            return
        if kept.kind == "snapshot" and kept.part is not None and kept.part.number == 0:
            self.tables[kept.relations[0].table] = {}
        self.parts += kept.part is not None
        for change in kept.changes():
            if change.relation is not None:
                self._change(change, self.tables.setdefault(change.relation.table, {}))

    def _change(self, change: Change, rows: dict[tuple[Any, ...], dict[str, Any]]) -> None:
        assert change.relation is not None
        names = [c.name for c in change.relation.columns if c.key] or list(change.relation.names)
        if change.op == "truncate":
            rows.clear()
        elif change.op == "delete":
            del rows[tuple(change.row[name] for name in names)]
        else:
            assert change.new is not None
            old: dict[str, Any] = {}
            if change.op == "update":
                before = change.old if change.old is not None else change.new
                old = rows.pop(tuple(before[name] for name in names))
            new = {n: old[n] if v is UNCHANGED else v for n, v in change.new.items()}
            key = tuple(new[name] for name in names)
            assert key not in rows, (change.op, key)
            rows[key] = new

    def rows(self, table: str) -> list[dict[str, Any]]:
        schema, _, name = table.rpartition(".")
        found = self.tables[TableId(schema or "public", name)]
        return sorted(found.values(), key=lambda row: str(list(row.values())))


def source_rows(database: Database, table: str) -> list[dict[str, Any]]:
    """The table as it is at the source, in the mirror's order."""
    with database.connect() as connection:
        cursor = connection.execute(f"select * from {table}")
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return sorted(rows, key=lambda row: str(list(row.values())))
