"""What arrives, and in which form: operations, keys, TOAST, messages, truncates, origins, big and prepared transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from source_tools import PUBLISH_ALL, Mirror, changes, opened, source_rows, stream

from walcast.model import UNCHANGED, Lsn, TableId
from walcast.testing import PostgresServer
from walcast.testing.postgres import Database

TABLE = "create table t (id int primary key, n int, note text);"


async def test_operations_arrive_in_order_with_keys_and_positions(any_database: Database) -> None:
    any_database.execute(TABLE + PUBLISH_ALL)
    async with opened(any_database) as source:
        with any_database.connect() as connection, connection.transaction():
            connection.execute("insert into t values (1, 10, 'a'), (2, 20, null)")
            connection.execute("update t set n = 11 where id = 1")
        any_database.execute("update t set id = 3 where id = 2")
        any_database.execute("delete from t where id = 1")
        found = await changes(source, 5)
    assert [c.op for c in found] == ["insert", "insert", "update", "update", "delete"]
    assert [c.position.ordinal for c in found] == [1, 2, 3, 1, 1]
    assert found[0].position.commit_lsn == found[2].position.commit_lsn < found[3].position.commit_lsn
    assert found[1].new == {"id": 2, "n": 20, "note": None}
    assert found[2].new == {"id": 1, "n": 11, "note": "a"}
    assert found[3].old == {"id": 2}
    assert found[3].key == (2,)
    assert found[4].new is None
    assert found[4].old == {"id": 1}
    relation = found[0].relation
    assert relation is not None
    assert relation.table == TableId("public", "t")
    assert [c.attnum for c in relation.columns] == [1, 2, 3]
    assert [c.sql_type for c in relation.columns] == ["integer", "integer", "text"]
    assert relation.key == (0,)


async def test_unchanged_toast_is_unchanged_also_when_the_key_changes(any_database: Database) -> None:
    any_database.execute(TABLE + "alter table t alter note set storage external;" + PUBLISH_ALL)
    any_database.execute("insert into t values (1, 1, repeat('x', 5000))")
    async with opened(any_database) as source:
        any_database.execute("update t set n = 2")
        any_database.execute("update t set id = 9")
        first, second = await changes(source, 2)
    assert first.new == {"id": 1, "n": 2, "note": UNCHANGED}
    assert second.new == {"id": 9, "n": 2, "note": UNCHANGED}
    assert second.old == {"id": 1}


async def test_logical_messages_arrive_in_order(database: Database) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as source:
        with database.connect() as connection, connection.transaction():
            connection.execute("insert into t values (1)")
            connection.execute("select pg_logical_emit_message(true, 'app', 'inside')")
            connection.execute("insert into t values (2)")
        database.execute("select pg_logical_emit_message(false, 'app', 'outside')")
        database.execute("insert into t values (3)")
        found = await changes(source, 5)
    assert [c.op for c in found] == ["insert", "message", "insert", "message", "insert"]
    assert found[1].message is not None
    assert found[3].message is not None
    assert (found[1].message.content, found[1].message.transactional) == (b"inside", True)
    assert (found[3].message.content, found[3].message.transactional) == (b"outside", False)
    assert found[1].position.ordinal == 2


async def test_truncate_names_every_table_and_its_options(any_database: Database) -> None:
    any_database.execute(TABLE + "create table u (id int primary key, t int references t);" + PUBLISH_ALL)
    async with opened(any_database) as source:
        any_database.execute("truncate t restart identity cascade")
        found = await changes(source, 2)
    assert {str(c.relation) for c in found} == {"public.t", "public.u"}
    assert all(c.op == "truncate" and c.restart_identity for c in found)
    assert {c.position.ordinal for c in found} == {1}


async def test_origins_are_told_and_can_be_left_out(
    postgres_factory: Callable[..., PostgresServer], make_database: Callable[[PostgresServer], Database]
) -> None:
    database = make_database(postgres_factory(18))  # origins are the whole server's, and few
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as source:
        name = f"o_{database.name}"
        with database.connect() as connection:
            connection.execute("select pg_replication_origin_create(%s)", [name])
            connection.execute("select pg_replication_origin_session_setup(%s)", [name])
            connection.execute("insert into t values (1)")
            connection.execute("select pg_replication_origin_session_reset()")
            connection.execute("insert into t values (2)")
        found = await changes(source, 2)
        assert [c.origin for c in found] == [name, None]
    async with opened(database, origin="none") as source:
        assert [c.key for c in await changes(source, 1)] == [(2,)]


@pytest.mark.parametrize("version", [13, 14, 18])
async def test_a_big_transaction_comes_without_its_aborted_subtransactions(
    version: int,
    shared_postgres: Callable[[int], PostgresServer],
    make_database: Callable[[PostgresServer], Database],
) -> None:
    database = make_database(shared_postgres(version))
    database.execute(TABLE + PUBLISH_ALL)
    settings: dict[str, Any] = {
        "logical_decoding_work_mem": 1 << 16,
        "part_bytes": 1 << 17,
        "spool_memory": 1 << 16,
    }
    async with opened(database, **settings) as source:
        mirror = Mirror(source)
        await mirror.snapshot()
        with database.connect() as connection, connection.transaction():
            for part in range(4):
                with connection.transaction(force_rollback=part % 2 == 1):
                    connection.execute(
                        "insert into t select i, 0, repeat('z', 60) from generate_series(%s::int, %s::int) i",
                        [part * 3000, part * 3000 + 2999],
                    )
                database.execute("insert into t values (-%s, 1, 'between')", [part + 1])
        await mirror.follow()
        assert mirror.parts > 3
        assert len(mirror.rows("t")) == 6004
        assert mirror.rows("t") == source_rows(database, "t")


async def test_a_prepared_transaction_arrives_whole_when_it_is_committed(
    postgres_factory: Callable[..., PostgresServer],
    make_database: Callable[[PostgresServer], Database],
) -> None:
    database = make_database(postgres_factory(18, settings={"max_prepared_transactions": 5}))
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as source:
        with database.connect() as connection:
            connection.execute("begin")
            connection.execute("insert into t values (1), (2)")
            connection.execute("prepare transaction 'later'")
            connection.execute("begin")
            connection.execute("insert into t values (8)")
            connection.execute("prepare transaction 'never'")
            connection.execute("insert into t values (3)")
            connection.execute("rollback prepared 'never'")
            connection.execute("commit prepared 'later'")
        found = await changes(source, 3)
    assert [c.key for c in found] == [(3,), (1,), (2,)]
    assert found[1].position.commit_lsn == found[2].position.commit_lsn > found[0].position.commit_lsn


async def test_a_confirmed_commit_is_not_sent_again(any_database: Database) -> None:
    any_database.execute(TABLE + PUBLISH_ALL)
    async with opened(any_database) as source:
        any_database.execute("insert into t values (1)")
        async with asyncio.timeout(10), stream(source) as batches:
            batch = await anext(batches)
            while batch.kind == "idle":
                batch = await anext(batches)
            assert batch.checkpoint is not None
            assert batch.checkpoint.position.commit_lsn < batch.checkpoint.through
            await source.confirm(batch.checkpoint.through)
        any_database.execute("insert into t values (2)")
        assert [c.key for c in await changes(source, 1)] == [(2,)]  # from the slot's own position
        slot = await source.slot()
        assert slot is not None
        assert slot.confirmed == batch.checkpoint.through


async def test_a_stream_that_begins_later_does_not_confirm_what_lies_between(database: Database) -> None:
    """A sink that this stream does not feed may still need it."""
    database.execute("create table t (id int primary key);" + PUBLISH_ALL)
    async with opened(database, status_interval=0.1) as source:
        before = await source.slot()
        mirror = Mirror(source)
        database.execute("insert into t values (1)")
        await mirror.follow()
        database.execute("insert into t values (2)")
        await mirror.follow()  # begins after the first
        database.execute("insert into t values (3)")
        await mirror.follow()
        after = await source.slot()
    assert before is not None
    assert after is not None
    assert after.confirmed == before.confirmed
    assert mirror.rows("t") == [{"id": 1}, {"id": 2}, {"id": 3}]


async def test_an_idle_slot_moves_on(any_database: Database) -> None:
    any_database.execute(TABLE + "create table other (n int); create publication p for table t;")
    async with opened(any_database, idle_interval=0.1, status_interval=0.2) as source:
        begun = await source.slot()
        assert begun is not None
        any_database.execute("insert into other select generate_series(1, 1000)")
        position = await source.position()
        through = Lsn(0)
        async with asyncio.timeout(10), stream(source) as batches:
            async for batch in batches:
                assert batch.kind == "idle"
                assert batch.checkpoint is not None
                through = batch.checkpoint.through
                await source.confirm(through)
                if through >= position:
                    break
        for _ in range(100):
            slot = await source.slot()
            if slot is not None and slot.confirmed == through:
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("the slot did not move on")


async def test_poke_gives_an_idle_batch_at_once(database: Database) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database, idle_interval=60.0) as source, asyncio.timeout(5), stream(source) as batches:
        assert (await anext(batches)).kind == "idle"  # the first tells where the stream begins
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        source.poke()
        assert (await waiting).kind == "idle"
