"""Snapshot and stream together are the source's state: nothing twice, nothing missing, on every major version."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

from source_tools import PUBLISH_ALL, Mirror, opened, source_rows

from walcast.model import Lsn, TableId
from walcast.testing.postgres import Database

SCHEMA = """
create table a (id int primary key, n int not null, note text);
create table b (id bigint generated always as identity primary key, a int, note text);
create table quiet (id int primary key);
insert into a select i, 0, repeat('x', i % 300) from generate_series(1, 4000) i;
insert into b (a, note) select i, 'b' || i from generate_series(1, 1000) i;
alter table a alter note set storage external;
"""


class Writer(threading.Thread):
    """Random one- and many-row transactions, some of them undone, until stopped."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__(daemon=True)
        self.database = database
        self.chance = random.Random(seed)
        self.stopping = threading.Event()
        self.written = 0

    def run(self) -> None:
        with self.database.connect() as connection:
            while not self.stopping.is_set():
                with connection.transaction(force_rollback=self.chance.random() < 0.1):
                    for _ in range(self.chance.choice([1, 1, 2, 30])):
                        self._step(connection)
                self.written += 1

    def _step(self, connection: Any) -> None:
        key = self.chance.randrange(5000)
        match self.chance.randrange(5):
            case 0:
                connection.execute("insert into a values (%s, 1, 'new') on conflict (id) do nothing", [key])
            case 1:
                connection.execute("update a set n = n + 1 where id = %s", [key])
            case 2:
                connection.execute("delete from a where id = %s", [key])
            case 3:
                connection.execute(
                    "update a set id = id + 10000 where id = %(id)s"
                    " and not exists (select from a where id = %(id)s + 10000)",
                    {"id": key},
                )
            case _:
                connection.execute("insert into b (a, note) values (%s, repeat('y', %s))", [key, key])


async def test_snapshot_and_stream_are_the_sources_state_under_concurrent_writes(
    any_database: Database,
) -> None:
    any_database.execute(SCHEMA)
    any_database.execute(PUBLISH_ALL)
    writer = Writer(any_database, any_database.server.version)
    writer.start()
    small = {"snapshot_chunk_bytes": 40_000, "snapshot_split_bytes": 1 << 16, "batch_bytes": 1 << 16}
    async with opened(any_database, slot=False, **small) as source:
        await asyncio.sleep(0.05)
        await source.create_slot()
        mirror = Mirror(source)
        await mirror.snapshot()
        assert mirror.parts > 3
        assert source.progress.tables_done == 3
        await asyncio.sleep(0.2)
        writer.stopping.set()
        await asyncio.to_thread(writer.join)
        await mirror.follow()
        for table in ("a", "b", "quiet"):
            assert mirror.rows(table) == source_rows(any_database, table)


async def test_an_interrupted_snapshot_goes_on_under_a_temporary_slot(database: Database) -> None:
    database.execute(SCHEMA)
    database.execute(PUBLISH_ALL)
    a, b = TableId("public", "a"), TableId("public", "b")
    async with opened(database, slot=False) as source:
        await source.create_slot()
        first = Mirror(source)
        await first.snapshot([a])
        begun = source.starts[a]
    database.execute(
        "insert into b (a) values (-1); delete from a where id = 1; insert into b (a) values (-2)"
    )
    async with opened(database) as source:  # the exported snapshot died with its connection
        mirror = Mirror(source)
        mirror.tables = first.tables
        await mirror.snapshot([b, TableId("public", "quiet")])
        assert source.starts[b] > begun
        source._starts[a] = begun  # the journal's
        database.execute("insert into b (a) values (-3); update a set n = 7 where id = 2")
        await mirror.follow()
        assert mirror.rows("a") == source_rows(database, "a")
        assert mirror.rows("b") == source_rows(database, "b")
        slots = database.execute("select slot_name from pg_replication_slots where temporary")
        assert slots == []


async def test_empty_tables_give_one_empty_last_part(database: Database) -> None:
    database.execute("create table e (id int primary key); create table z ();")
    database.execute(PUBLISH_ALL)
    async with opened(database) as source:
        found = [batch async for batch in source.snapshot([TableId("public", "e"), TableId("public", "z")])]
        assert [(batch.part.number, batch.part.last, len(batch)) for batch in found if batch.part] == [
            (0, True, 0),
            (0, True, 0),
        ]
        assert all(lsn > Lsn(0) for lsn in source.starts.values())
        assert set(source.starts) == {TableId("public", "e"), TableId("public", "z")}
