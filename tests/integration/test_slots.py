"""Slots on every major version: made, seen, moved, dropped, and refused with a remedy."""

from __future__ import annotations

import asyncio

import pytest

from walcast.model import ConfigError, Lsn, OperatorError, SlotInUse, SlotLost
from walcast.postgres.connect import connect
from walcast.postgres.slots import (
    OpenTransaction,
    advance_slot,
    check_slot,
    create_slot,
    drop_slot,
    list_slots,
    open_transactions,
    slot_holder,
    slot_state,
)
from walcast.testing import PostgresServer
from walcast.testing.postgres import Database


async def test_a_slot_is_created_seen_moved_and_dropped(any_database: Database) -> None:
    name = f"s_{any_database.name}"
    async with (
        await connect(any_database.dsn(), application="walcast:t") as control,
        await connect(any_database.dsn(), application="walcast:t", replication=True) as replication,
    ):
        made = await create_slot(replication, name)
        assert made.snapshot is None
        state = await slot_state(control, name)
        assert state is not None
        assert state.confirmed == made.consistent_point
        assert state.restart is not None
        assert (state.plugin, state.database, state.two_phase) == ("pgoutput", any_database.name, False)
        assert (state.active_pid, state.wal_status, state.invalidation) == (None, "reserved", None)
        assert state.retained >= 0
        assert name in [slot.name for slot in await list_slots(control)]
        check_slot(state, any_database.name)
        any_database.execute("create table t (n int)")
        now = Lsn.parse(any_database.execute("select pg_current_wal_lsn()::text")[0][0])
        assert await advance_slot(control, name, now) == now
        moved = await slot_state(control, name)
        assert moved is not None
        assert moved.confirmed == now
        with pytest.raises(OperatorError, match="cannot advance"):
            await advance_slot(control, name, Lsn(1))
        with pytest.raises(OperatorError, match="already exists") as caught:
            await create_slot(replication, name)
        assert "adopt" in str(caught.value.hint)
        assert await drop_slot(control, name)
        assert not await drop_slot(control, name)
        assert await slot_state(control, name) is None


async def test_the_exported_snapshot_shows_the_data_as_of_the_consistent_point(
    any_database: Database,
) -> None:
    any_database.execute("create table t (n int); insert into t values (1)")
    async with await connect(any_database.dsn(), application="walcast:t", replication=True) as replication:
        made = await create_slot(replication, f"s_{any_database.name}", temporary=True, export=True)
        any_database.execute("insert into t values (2)")
        with any_database.connect() as reader:
            reader.execute("begin isolation level repeatable read")
            reader.execute(f"set transaction snapshot '{made.snapshot}'")
            assert reader.execute("select n from t").fetchall() == [(1,)]
            reader.execute("rollback")
    await asyncio.sleep(0)
    deadline = asyncio.get_running_loop().time() + 5
    while any_database.execute("select 1 from pg_replication_slots where slot_name = %s", [made.name]):
        assert asyncio.get_running_loop().time() < deadline  # temporary: gone with its connection


async def test_failover_slots_are_of_17_and_later(any_database: Database) -> None:
    async with await connect(any_database.dsn(), application="walcast:t", replication=True) as replication:
        name = f"s_{any_database.name}"
        if any_database.server.version < 17:
            with pytest.raises(OperatorError, match="need PostgreSQL 17"):
                await create_slot(replication, name, failover=True)
        else:
            await create_slot(replication, name, failover=True)
            found = any_database.execute(
                "select failover from pg_replication_slots where slot_name = %s", [name]
            )
            assert found == [(True,)]


@pytest.mark.parametrize("kind", ["session", "prepared"])
async def test_creating_waits_for_open_transactions_and_says_whose(
    postgres_factory: type[PostgresServer], kind: str
) -> None:
    server = postgres_factory(18, settings={"max_prepared_transactions": 2})
    server.execute("create table t (n int)")
    with server.connect(application_name="forgotten") as session:
        session.execute("begin")
        session.execute("insert into t values (1)")
        if kind == "prepared":
            session.execute("prepare transaction 'limbo'")
        async with (
            await connect(server.dsn(), application="walcast:t") as control,
            await connect(server.dsn(), application="walcast:t", replication=True) as replication,
        ):
            seen: list[OpenTransaction] = []
            with pytest.raises(OperatorError, match=r"forgotten|limbo") as caught:
                await create_slot(replication, "waits", control=control, waiting=seen.extend, timeout=0.3)
            assert "within 0.3 s" in str(caught.value)
            assert seen[0].gid == ("limbo" if kind == "prepared" else None)
            assert await slot_state(control, "waits") is None
            assert len(await open_transactions(control)) == 1
            session.execute("rollback prepared 'limbo'" if kind == "prepared" else "rollback")
            await create_slot(replication, "waits", control=control, timeout=10)  # the connection still works


async def test_a_slot_of_another_plugin_or_database_or_with_two_phase_is_refused(
    postgres_factory: type[PostgresServer],
) -> None:
    server = postgres_factory(15)  # has test_decoding
    server.execute("create database other")
    server.execute("select pg_create_logical_replication_slot('foreign_plugin', 'test_decoding')")
    server.execute("select pg_create_logical_replication_slot('elsewhere', 'pgoutput')", database="other")
    server.execute("select pg_create_logical_replication_slot('prepared', 'pgoutput', false, true)")
    async with await connect(server.dsn(), application="walcast:t") as control:
        for name, says in (
            ("foreign_plugin", "test_decoding"),
            ("elsewhere", "database other"),
            ("prepared", "two_phase"),
        ):
            state = await slot_state(control, name)
            assert state is not None
            with pytest.raises(OperatorError, match=says) as caught:
                check_slot(state, "postgres")
            assert caught.value.hint


async def test_a_slot_that_lost_its_wal_is_seen_as_lost(
    any_postgres: PostgresServer, postgres_factory: type[PostgresServer]
) -> None:
    server = postgres_factory(
        any_postgres.version,
        settings={"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"},
    )
    server.execute("select pg_create_logical_replication_slot('lost', 'pgoutput')")
    server.execute("create table t (x text)")
    for _ in range(3):
        server.execute(
            "insert into t select repeat('x', 1000) from generate_series(1, 20); select pg_switch_wal()"
        )
    server.execute("checkpoint")
    async with await connect(server.dsn(), application="walcast:t") as control:
        state = await slot_state(control, "lost")
        assert state is not None
        assert state.invalidation == "wal_removed"
        with pytest.raises(SlotLost, match="invalidated") as caught:
            check_slot(state, "postgres")
        assert "snapshot again" in str(caught.value.hint)


async def test_who_holds_a_slot_is_named(database: Database) -> None:
    name = f"s_{database.name}"
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    database.execute("create publication p for all tables")
    reader = await connect(database.dsn(), application="walcast:first", replication=True)
    try:
        async with await connect(database.dsn(), application="walcast:t") as control:
            assert await slot_holder(control, name) is None
            reader.pgconn.exec_(
                f"START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names 'p')".encode()
            )
            holder = await slot_holder(control, name)
            assert holder is not None
            assert holder.application == "walcast:first"
            with pytest.raises(SlotInUse, match="walcast:first"):
                await drop_slot(control, name)
            with pytest.raises(SlotInUse, match="walcast:first"):
                await advance_slot(control, name, Lsn(1 << 60))
    finally:
        await reader.close()


async def test_no_free_slot_names_the_setting(
    any_postgres: PostgresServer, postgres_factory: type[PostgresServer]
) -> None:
    server = postgres_factory(any_postgres.version, settings={"max_replication_slots": 1})
    server.execute("create role reader login replication; create role plain login")
    async with (
        await connect(server.dsn(user="reader"), application="walcast:t", replication=True) as replication,
        await connect(server.dsn(user="plain"), application="walcast:t") as plain,
    ):
        await create_slot(replication, "one")
        with pytest.raises(OperatorError, match="in use") as caught:
            await create_slot(replication, "two")
        assert "max_replication_slots" in str(caught.value.hint)
        with pytest.raises(OperatorError) as caught:
            await drop_slot(plain, "one")
        assert "replication" in str(caught.value.hint)


async def test_a_wal_level_that_is_not_logical_is_named(postgres_factory: type[PostgresServer]) -> None:
    for version in (13, 18):
        server = postgres_factory(version, settings={"wal_level": "replica"})
        async with await connect(server.dsn(), application="walcast:t", replication=True) as replication:
            with pytest.raises(OperatorError, match="wal_level") as caught:
                await create_slot(replication, "s")
            assert "restart" in str(caught.value.hint)


async def test_a_slot_name_that_the_server_would_refuse_is_refused_before(database: Database) -> None:
    async with await connect(database.dsn(), application="walcast:t", replication=True) as replication:
        with pytest.raises(ConfigError, match="not a slot name"):
            await create_slot(replication, "My-Slot")
