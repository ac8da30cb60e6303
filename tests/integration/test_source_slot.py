"""The slot: whoever takes it away, moves it or holds it, nothing is skipped in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from source_tools import PUBLISH_ALL, Mirror, changes, opened, source_config, stream

from walcast.model import (
    Checkpoint,
    Lsn,
    OperatorError,
    Position,
    SlotInUse,
    SlotLost,
    SourceUnavailable,
    WalcastError,
)
from walcast.postgres.checks import names_standby
from walcast.postgres.source import PostgresSource
from walcast.testing import PostgresServer
from walcast.testing.postgres import Database

TABLE = "create table t (id int primary key);"


async def failure(source: PostgresSource, after: Checkpoint | None = None) -> WalcastError:
    """How the stream ends."""
    try:
        async with asyncio.timeout(20), stream(source, after) as batches:
            async for _ in batches:
                pass
    except WalcastError as error:
        return error
    pytest.fail("the stream ended without an error")


async def checkpoint(source: PostgresSource, database: Database) -> Checkpoint:
    """A checkpoint behind one insert."""
    database.execute("insert into t select coalesce(max(id), 0) + 1 from t")
    mirror = Mirror(source)
    await mirror.follow()
    assert mirror.checkpoint is not None
    return mirror.checkpoint


async def test_a_slot_dropped_or_made_anew_while_stopped_is_lost(any_database: Database) -> None:
    any_database.execute(TABLE + PUBLISH_ALL)
    async with opened(any_database) as source:
        after = await checkpoint(source, any_database)
        await _let_go(any_database)
        any_database.execute("select pg_drop_replication_slot(%s)", [any_database.name])
        gone = await failure(source, after)
        assert isinstance(gone, SlotLost)
        assert str(after.through) in gone.message
        any_database.execute("insert into t values (100)")
        any_database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [any_database.name])
        assert isinstance(await failure(source, after), SlotLost)


async def test_a_slot_advanced_by_somebody_else_is_lost(database: Database) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as source:
        after = await checkpoint(source, database)
        database.execute("insert into t values (100)")
        await _let_go(database)
        database.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", [database.name])
        assert "advanced" in (await failure(source, after)).message


async def test_a_slot_dropped_while_it_is_read_ends_as_lost(database: Database) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as source:
        after = await checkpoint(source, database)
        running = asyncio.ensure_future(failure(source, after))
        await _reading(source)
        await asyncio.to_thread(
            database.execute,
            "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s",
            [database.name],
        )
        assert isinstance(await running, SourceUnavailable)
        await _let_go(database)
        database.execute("select pg_drop_replication_slot(%s)", [database.name])
        assert isinstance(await failure(source, after), SlotLost)


@pytest.mark.parametrize("version", [13, 18])
async def test_an_invalidated_slot_is_lost_stopped_or_running(
    version: int,
    postgres_factory: Callable[..., PostgresServer],
    make_database: Callable[[PostgresServer], Database],
) -> None:
    settings = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    server = postgres_factory(version, settings=settings)
    database = make_database(server)
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database, status_interval=60.0) as source:
        after = await checkpoint(source, database)
        running = asyncio.ensure_future(failure(source, after))
        await _reading(source)
        for _ in range(50):
            if running.done():
                break
            # A switch needs something to have been written before.
            await asyncio.to_thread(
                server.execute, "select pg_current_xact_id(), pg_logical_emit_message(false, '', 'x')"
            )
            await asyncio.to_thread(server.execute, "select pg_switch_wal(); checkpoint")
        assert isinstance(await running, SourceUnavailable)
        lost = await failure(source, after)
        assert isinstance(lost, SlotLost)
        assert "invalidated" in lost.message


async def test_slots_of_others_are_refused(
    shared_postgres: Callable[[int], PostgresServer], make_database: Callable[[PostgresServer], Database]
) -> None:
    server = shared_postgres(18)
    database, other = make_database(server), make_database(server)
    database.execute(TABLE + PUBLISH_ALL)
    other.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [other.name])
    database.execute(
        "select pg_create_logical_replication_slot(%s, 'pgoutput', false, true)", [f"{database.name}_two"]
    )
    for slot, says in ((other.name, "belongs to database"), (f"{database.name}_two", "two_phase")):
        async with opened(database, slot=False) as source:
            pass
        async with PostgresSource(source_config(database, slot=slot)) as source:
            error = await failure(source)
            assert type(error) is OperatorError
            assert says in error.message


async def test_a_slot_in_use_names_its_reader(database: Database) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as first, stream(first) as batches:
        await anext(batches)
        async with opened(database, name="second") as source:
            error = await failure(source)
            assert isinstance(error, SlotInUse)
            assert "walcast:t" in error.message


async def test_a_missing_publication_is_the_operators(database: Database) -> None:
    database.execute(TABLE)
    async with PostgresSource(source_config(database)) as source:
        with pytest.raises(OperatorError, match="no publication"):
            await source.tables()
        with pytest.raises(OperatorError, match="no publication"):
            await source.create_slot()
        assert await source.slot() is None


async def test_a_role_with_replication_and_select_is_enough(database: Database) -> None:
    role = f"r_{database.name}"
    database.execute(
        TABLE + "insert into t values (1); create table secret (id int primary key);" + PUBLISH_ALL
    )
    database.execute(f"create role {role} login replication; grant select on t to {role}")
    try:
        dsn = database.dsn(user=role)
        async with opened(database, dsn=dsn, include=("public.t",)) as source:
            mirror = Mirror(source)
            await mirror.snapshot()
            database.execute("insert into t values (2); insert into secret values (1)")
            await mirror.follow()
            assert [row["id"] for row in mirror.rows("t")] == [1, 2]
            assert len(mirror.tables) == 1
        async with opened(database, dsn=dsn) as source:
            with pytest.raises(OperatorError, match="permission denied") as caught:
                await Mirror(source).snapshot()
            assert "grant select" in str(caught.value.hint)
    finally:
        database.execute(f"drop owned by {role}; drop role {role}")


async def test_the_reader_does_not_become_a_synchronous_standby(
    postgres_factory: Callable[..., PostgresServer],
    make_database: Callable[[PostgresServer], Database],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("walcast.postgres.stream._GUARD_INTERVAL", 0.1)
    server = postgres_factory(18)
    database = make_database(server)
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as source:
        running = asyncio.ensure_future(failure(source))
        await _reading(source)
        server.reload({"synchronous_standby_names": "*"})
        assert "synchronous" in (await running).message
        assert "synchronous" in (await failure(source)).message
        await asyncio.to_thread(server.reload, {"synchronous_standby_names": ""})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", False),
        ("*", True),
        ("first 1 (a, b)", False),
        ('ANY 2 (a, "walcast:t")', True),
        ("2 (a, WALCAST, *)", True),
        ('a, "Walcast:T"', True),
        ("first", False),
    ],
)
def test_synchronous_standby_names_are_read_as_the_server_reads_them(setting: str, expected: bool) -> None:
    assert names_standby(setting, "walcast:t") is expected


async def test_another_history_is_not_read_with_the_old_checkpoint(database: Database) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(database) as source:
        begun = source.identity
        source._identity = type(begun)(begun.system_id + 1, 1, begun.version, begun.database)
        with pytest.raises(SourceUnavailable, match="another history"):
            await changes(source, 1, Checkpoint(1, Position(Lsn(0), 0), Lsn(0)))
        assert source.identity == begun
        assert await source.timeline_end(begun.timeline) is None


async def _let_go(database: Database) -> None:
    """The server notices a little later that a reader has left its slot."""
    held = "select 1 from pg_replication_slots where slot_name = %s and active_pid is not null"
    async with asyncio.timeout(30):
        while database.execute(held, [database.name]):  # noqa: ASYNC110  # nobody announces it
            await asyncio.sleep(0.01)


async def _reading(source: PostgresSource) -> None:
    async with asyncio.timeout(10):
        while not source.stats().get("messages"):  # noqa: ASYNC110  # another thread counts
            await asyncio.sleep(0.01)
