"""Reading tables: parts, progress, rights, locks."""

from __future__ import annotations

import asyncio
from typing import LiteralString

import pytest
from source_tools import PUBLISH_ALL, Mirror, opened, source_rows

from walcast.model import OperatorError, SourceUnavailable, TableId
from walcast.testing.postgres import Database

BIG = "create table big (id int primary key, note text); insert into big select i, repeat('x', 200) from generate_series(1, 20000) i;"


async def test_parts_are_numbered_by_table_and_the_last_comes_last(database: Database) -> None:
    database.execute(
        BIG + "create table small (id int primary key); insert into small values (1);" + PUBLISH_ALL
    )
    database.execute("analyze")
    settings = {"snapshot_workers": 3, "snapshot_split_bytes": 1 << 19, "snapshot_chunk_bytes": 1 << 18}
    parts: dict[str, list[tuple[int, bool]]] = {}
    async with opened(database, **settings) as source:
        async for batch in source.snapshot([item.table for item in await source.tables()]):
            assert batch.part is not None
            assert batch.checkpoint is None
            parts.setdefault(batch.relations[0].table.name, []).append((batch.part.number, batch.part.last))
            assert source.progress.eta is not None
        assert parts["small"] == [(0, True)]
        count = len(parts["big"])
        assert count > 8
        assert parts["big"] == [(n, n == count - 1) for n in range(count)]
        assert source.progress.rows == source.progress.rows_expected == 20001
        assert source.progress.tables == source.progress.tables_done == 2
        assert source.progress.bytes > 4_000_000


async def test_a_snapshot_that_is_left_early_leaves_nothing_behind(database: Database) -> None:
    database.execute(BIG + PUBLISH_ALL)
    async with opened(database, snapshot_chunk_bytes=1 << 16, budget_bytes=1 << 16) as source:
        chunks = source.snapshot([TableId("public", "big")])
        await anext(chunks)
        await chunks.aclose()
        left = database.execute(
            "select count(*) from pg_stat_activity where application_name like '%:snapshot'"
            " and datname = current_database() and state <> 'idle' and wait_event <> 'ClientRead'"
        )
        assert left == [(0,)]
        database.execute("truncate big")  # nobody holds a lock


async def test_rows_that_a_policy_would_hide_are_an_error_not_a_hole(database: Database) -> None:
    role = f"r_{database.name}"
    database.execute("create table p (id int primary key); insert into p values (1);" + PUBLISH_ALL)
    database.execute("alter table p enable row level security; create policy none on p using (false)")
    database.execute(f"create role {role} login replication; grant select on p to {role}")
    try:
        async with opened(database, dsn=database.dsn(user=role)) as source:
            with pytest.raises(OperatorError, match="row-level security") as caught:
                await Mirror(source).snapshot()
            assert "bypassrls" in str(caught.value.hint)
    finally:
        database.execute(f"drop owned by {role}; drop role {role}")


async def test_a_root_is_read_as_one_when_only_it_may_be_read(database: Database) -> None:
    role = f"r_{database.name}"
    database.execute(
        "create table root (id int primary key) partition by range (id);"
        "create table low partition of root for values from (0) to (10);"
        "create table high partition of root for values from (10) to (20);"
        "insert into root select generate_series(0, 19);"
        "create publication p for table root with (publish_via_partition_root)"
    )
    database.execute(f"create role {role} login replication; grant select on root to {role}")
    try:
        async with opened(database, dsn=database.dsn(user=role)) as source:
            mirror = Mirror(source)
            await mirror.snapshot()
            assert mirror.rows("root") == source_rows(database, "root")
    finally:
        database.execute(f"drop owned by {role}; drop role {role}")


async def test_a_table_that_somebody_alters_is_waited_for_and_then_named(database: Database) -> None:
    database.execute("create table busy (id int primary key);" + PUBLISH_ALL)
    async with opened(database, snapshot_lock_timeout=0.2) as source:
        with database.connect() as connection, connection.transaction():
            connection.execute("lock table busy in access exclusive mode")
            with pytest.raises(SourceUnavailable, match="lock"):
                await Mirror(source).snapshot([TableId("public", "busy")])
        await Mirror(source).snapshot([TableId("public", "busy")])


async def test_a_table_outside_the_publication_is_named(database: Database) -> None:
    database.execute(
        "create table t (id int primary key); create table other (id int); create publication p for table t"
    )
    async with opened(database) as source:
        with pytest.raises(OperatorError, match=r"public\.other"):
            await Mirror(source).snapshot([TableId("public", "other")])


async def test_a_snapshot_gives_way_to_somebody_who_waits_for_its_locks(database: Database) -> None:
    """He has a transaction, which the slot waits for, and wants the table for himself, which the snapshot has locked."""
    database.execute("create table t (id int primary key); insert into t values (1);" + PUBLISH_ALL)
    with database.connect() as holder, database.connect() as other:
        async with opened(database) as source:
            holder.execute("begin; select pg_current_xact_id()")
            reading = asyncio.ensure_future(Mirror(source).snapshot())
            await _seen(database, "mode = 'AccessShareLock' and granted")
            truncating = asyncio.ensure_future(asyncio.to_thread(other.execute, "truncate t"))
            await _seen(database, "not granted")
            holder.execute("commit")
            await asyncio.wait_for(truncating, 20)
            await asyncio.wait_for(reading, 20)


async def test_workers_do_not_wait_behind_somebody_who_waits_for_the_leaders_locks(
    database: Database,
) -> None:
    database.execute("create table t (id int primary key); insert into t values (1);")
    database.execute(BIG + PUBLISH_ALL)
    with database.connect() as other:
        async with opened(database, slot=False, snapshot_workers=3) as source:
            tables = [item.table for item in await source.tables()]
            await source.create_slot()
            truncating = asyncio.ensure_future(asyncio.to_thread(other.execute, "truncate t"))
            await _seen(database, "not granted")
            mirror = Mirror(source)
            await asyncio.wait_for(mirror.snapshot(tables), 20)
        await asyncio.wait_for(truncating, 20)
    assert sorted(len(rows) for rows in mirror.tables.values()) == [1, 20000]


async def _seen(database: Database, lock: LiteralString) -> None:
    async with asyncio.timeout(10):
        while not database.execute("select 1 from pg_locks where relation = 't'::regclass and " + lock):  # noqa: ASYNC110  # a server's state
            await asyncio.sleep(0.02)
