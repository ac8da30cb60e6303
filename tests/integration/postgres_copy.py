"""What the tests of the PostgreSQL sink share: a source, a copy, and the plainest loop between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, cast

from walcast.model import Batch, Checkpoint, Relation, SinkContext, SourceIdentity, TableId, TableStopped
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig
from walcast.testing.postgres import Database

_ROWS = "select x::text from (select * from {} t) x order by 1"
_EXACT = "set extra_float_digits = 3; set timezone = 'UTC'; set intervalstyle = 'postgres'"


def sink_of(target: Database, name: str = "copy", **settings: Any) -> PostgresSink:
    """A sink that is not open yet. `dsn` in the settings replaces the target's."""
    dsn = settings.pop("dsn", None) or target.dsn()
    config = PostgresSinkConfig(Secret(dsn), **settings)
    return PostgresSink(config, SinkContext("test", name, SourceIdentity(0, 0, 0, ""), "/nonexistent"))


class Copying:
    """Takes batches from a source to a sink; a table that stops is left out from then on, as the pipeline does."""

    def __init__(self, source: PostgresSource, origin: Database, target: Database, **settings: Any) -> None:
        self.source = source
        self.origin = origin
        self.target = target
        self.settings = settings
        self.sink = sink_of(target, **settings)
        self.checkpoint: Checkpoint | None = None
        self.stopped: dict[TableId, TableStopped] = {}
        self.prepared: dict[int, Relation] = {}
        self.batches = 0

    async def open(self) -> None:
        self.sink = sink_of(self.target, **self.settings)
        await self.sink.__aenter__()
        self.checkpoint = await self.sink.checkpoint()
        self.prepared.clear()

    async def reopen(self) -> None:
        await self.sink.__aexit__(None, None, None)
        await self.open()

    async def snapshot(self, *names: str) -> None:
        chosen = [_table(name) for name in names] or [item.table for item in await self.source.tables()]
        for table in chosen:
            self.stopped.pop(table, None)
        async with aclosing(cast("AsyncGenerator[Batch, None]", self.source.snapshot(chosen))) as batches:
            async for batch in batches:
                await self.put(batch)

    async def sync(self) -> None:
        """Until the copy holds what is at the source now."""
        to = await self.source.position()
        async with (
            asyncio.timeout(60),
            aclosing(cast("AsyncGenerator[Batch, None]", self.source.stream(self.checkpoint))) as batches,
        ):
            self.source.poke()
            async for batch in batches:
                kept = batch.after(self.checkpoint, self.source.starts)
                if kept is not None:
                    await self.put(kept)
                if self.checkpoint is not None and self.checkpoint.through >= to:
                    return
                self.source.poke()

    async def run(self, *statements: str) -> None:
        """Runs statements at the source, each a transaction, and brings them to the copy."""
        with self.origin.connect() as connection:
            for statement in statements:
                connection.execute(cast(Any, statement))
        await self.sync()

    async def put(self, batch: Batch) -> None:
        for relation in batch.relations:
            carried = batch.kind == "snapshot" or any(batch.counts(relation).values())
            if carried and self.prepared.get(relation.oid) != relation:
                try:
                    await self.sink.prepare(relation)
                    self.prepared[relation.oid] = relation
                except TableStopped as stop:
                    self.stopped[stop.table] = stop
        gone = {r.table: cast(Any, 1 << 62) for r in batch.relations if r.table in self.stopped}
        if gone and batch.kind == "snapshot":
            return
        kept = batch.after(None, gone) if gone else batch
        if kept is not None:
            await self.sink.write(kept)
            self.batches += 1
            if kept.checkpoint is not None:
                self.checkpoint = kept.checkpoint

    def rows(self, table: str, database: Database | None = None) -> list[str]:
        """The copy's rows as text."""
        with (database or self.target).connect() as connection:
            connection.execute(_EXACT)
            return [row[0] for row in connection.execute(cast(Any, _ROWS.format(table))).fetchall()]

    def assert_equal(self, *tables: str) -> None:
        for table in tables:
            assert self.rows(table) == self.rows(table, self.origin), table


@asynccontextmanager
async def copying(
    origin: Database,
    target: Database,
    *,
    snapshot: bool = True,
    source: dict[str, Any] | None = None,
    **sink: Any,
) -> AsyncIterator[Copying]:
    """A running copy of all tables of `origin`; `source` and `sink` are settings."""
    if not origin.execute("select 1 from pg_publication"):
        with origin.connect() as connection:
            connection.execute("create publication p for all tables")
    config: dict[str, Any] = {"name": "t", "slot": origin.name, "publication": "p", **(source or {})}
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(
            PostgresSource(SourceConfig(dsn=Secret(origin.dsn()), **config))
        )
        await opened.create_slot()
        copy = Copying(opened, origin, target, **sink)
        await copy.open()

        async def close(*exc: object) -> None:
            await copy.sink.__aexit__(*exc)  # the one that is open then

        stack.push_async_exit(close)
        if snapshot:
            await copy.snapshot()
        yield copy


def _table(name: str) -> TableId:
    schema, _, table = name.rpartition(".")
    return TableId(schema or "public", table)
