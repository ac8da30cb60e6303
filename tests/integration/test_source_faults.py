"""Bad networks and stopping servers: noticed, named, and nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from source_tools import PUBLISH_ALL, Mirror, opened, source_config, stream
from test_source_slot import failure

from walcast.model import Batch, OperatorError, SourceUnavailable, SpoolFull, TableId
from walcast.postgres.source import PostgresSource
from walcast.testing import PostgresServer, TcpProxy
from walcast.testing.postgres import Database

TABLE = "create table t (id int primary key, note text);"


@pytest.fixture
def impatient(
    postgres_factory: Callable[..., PostgresServer], make_database: Callable[[PostgresServer], Database]
) -> Database:
    """On a server that cuts a reader off after a second without an answer."""
    database = make_database(postgres_factory(18, settings={"wal_sender_timeout": "1s"}))
    database.execute(TABLE + PUBLISH_ALL)
    return database


async def test_keepalives_are_answered_while_nobody_takes_batches(impatient: Database) -> None:
    async with opened(impatient, budget_bytes=1 << 17) as source:
        impatient.execute("insert into t select i, repeat('x', 500) from generate_series(1, 10000) i")
        found = 0
        async with asyncio.timeout(30), stream(source) as batches:
            async for batch in batches:
                found += len(batch)
                if found == len(batch) > 0:
                    await asyncio.sleep(2.5)
                if found == 10000:
                    break


async def test_a_source_stops_fast_while_the_consumer_stalls(impatient: Database) -> None:
    server = impatient.server
    server.reload({"wal_sender_timeout": "60s"})
    async with opened(impatient, budget_bytes=1 << 17) as source:
        impatient.execute("insert into t select i, repeat('x', 500) from generate_series(1, 20000) i")
        async with stream(source) as batches:
            held = await anext(batches)  # and no more: the reader is out of memory
            await asyncio.to_thread(server.stop, "fast", 20.0)  # else it would wait for its timeout
            del held
            with pytest.raises(SourceUnavailable):
                await _drain(batches)
        server.start()
        mirror = Mirror(source)
        await mirror.follow()
        assert len(mirror.rows("t")) == 20000


@pytest.mark.parametrize("fault", ["cut", "half_open", "stall"])
async def test_a_bad_network_ends_the_stream_and_nothing_is_lost(
    fault: str, database: Database, tcp_proxy: TcpProxy
) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    dsn = database.dsn(via="tcp", port=tcp_proxy.port)
    async with opened(database, dsn=dsn, receive_timeout=1.0, idle_interval=0.2) as source:
        mirror = Mirror(source)
        database.execute("insert into t values (1)")
        await mirror.follow()
        running = asyncio.ensure_future(failure(source, mirror.checkpoint))
        await asyncio.sleep(0.3)
        database.execute("insert into t values (2)")
        getattr(tcp_proxy, fault)()
        assert isinstance(await running, SourceUnavailable)
        tcp_proxy.restore()
        tcp_proxy.cut()
        database.execute("insert into t values (3)")
        await _again(source, mirror)
        assert [row["id"] for row in mirror.rows("t")] == [1, 2, 3]


async def test_a_network_cut_in_a_snapshot_is_raised_and_what_is_done_stays(
    database: Database, tcp_proxy: TcpProxy
) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    database.execute("insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i")
    dsn = database.dsn(via="tcp", port=tcp_proxy.port)
    async with opened(database, dsn=dsn, snapshot_chunk_bytes=1 << 16, budget_bytes=1 << 17) as source:
        chunks = source.snapshot([TableId("public", "t")])
        await anext(chunks)
        tcp_proxy.cut()
        with pytest.raises(SourceUnavailable):
            await _drain(chunks)
        mirror = Mirror(source)
        await mirror.snapshot()
        assert len(mirror.rows("t")) == 20000


async def test_a_full_spool_leaves_big_transactions_to_the_server(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(
        database,
        logical_decoding_work_mem=1 << 16,
        spool_memory=1 << 16,
        spool_limit=1 << 17,
        spool_dir=str(tmp_path),
    ) as source:
        mirror = Mirror(source)
        database.execute("insert into t values (-1)")
        await mirror.follow()
        database.execute("insert into t select i, repeat('x', 100) from generate_series(1, 10000) i")
        await mirror.follow()
        assert len(mirror.rows("t")) == 10001
    assert "spool_limit_reached" in [record.message for record in caplog.records]
    assert list(tmp_path.iterdir()) == []


async def test_a_spool_that_cannot_be_written_is_the_operators(database: Database, tmp_path: Path) -> None:
    database.execute(TABLE + PUBLISH_ALL)
    async with opened(
        database, logical_decoding_work_mem=1 << 16, spool_memory=1 << 16, spool_dir=str(tmp_path / "missing")
    ) as source:
        database.execute("insert into t select i, repeat('x', 100) from generate_series(1, 10000) i")
        assert isinstance(await failure(source), SpoolFull)


async def test_a_standby_can_be_the_source(
    postgres_factory: Callable[..., PostgresServer], make_database: Callable[[PostgresServer], Database]
) -> None:
    primary = postgres_factory(16, settings={"hot_standby_feedback": "on"})
    database = make_database(primary)
    database.execute(TABLE + PUBLISH_ALL + "; insert into t values (1)")
    with await asyncio.to_thread(primary.standby) as standby:
        on_standby = Database(standby, database.name)
        async with PostgresSource(source_config(on_standby)) as source:
            creating = asyncio.ensure_future(source.create_slot())
            while not creating.done():
                primary.execute("select pg_log_standby_snapshot()")
                await asyncio.sleep(0.2)
            await creating
            mirror = Mirror(source)
            await mirror.snapshot()
            database.execute("insert into t values (2)")
            await mirror.follow(lambda: len(mirror.tables[TableId("public", "t")]) == 2)
            assert source.identity.timeline == 1
            await asyncio.to_thread(standby.execute, "select pg_promote()")
            async with asyncio.timeout(20):
                while standby.execute("select pg_is_in_recovery()") != [(False,)]:  # noqa: ASYNC110  # a server's state
                    await asyncio.sleep(0.05)
            with pytest.raises(SourceUnavailable, match="timeline 2"):
                await mirror.follow()
            left = await source.timeline_end(1)
            assert left is not None
            assert mirror.checkpoint is not None
            assert mirror.checkpoint.through <= left
            on_standby.execute("insert into t values (3)")
            await mirror.follow()
            assert [row["id"] for row in mirror.rows("t")] == [1, 2, 3]


async def test_a_standby_before_16_is_refused_with_the_reason(
    postgres_factory: Callable[..., PostgresServer],
) -> None:
    """Debian's 15 has pg_basebackup; the others of that age have not."""
    primary = postgres_factory(15)
    database = Database(primary, "postgres")
    with await asyncio.to_thread(primary.standby) as standby, pytest.raises(OperatorError, match="standby"):
        await PostgresSource(source_config(Database(standby, database.name))).__aenter__()


async def _drain(batches: AsyncIterator[Batch]) -> None:
    async for _ in batches:
        pass


async def _again(source: PostgresSource, mirror: Mirror) -> None:
    """As a pipeline would: until the source is back."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await mirror.follow()
            except SourceUnavailable:
                await asyncio.sleep(0.1)
