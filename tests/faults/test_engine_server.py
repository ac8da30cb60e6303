"""The pipeline on real servers that stop, are cut off, or are replaced by their standby."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

import walcast
from walcast.engine import Pipeline, PipelineSettings
from walcast.engine.mapped import MappedSink
from walcast.mapping import DataMapping, Document, Nested
from walcast.model import Batch, Durability, Lsn, OperatorError, Sink, SinkContext, SinkUnavailable, TableId
from walcast.model.secret import Secret
from walcast.postgres.local import find
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.documents import DocumentsConfig
from walcast.sinks.search import SearchConfig, SearchIndex
from walcast.testing.faulty import Faults, FaultySink
from walcast.testing.memory import MemorySink, MemoryStore
from walcast.testing.postgres import Database, PostgresServer
from walcast.testing.proxy import TcpProxy

T = TableId("public", "t")
SETTINGS = PipelineSettings(
    serve=False, stall_limit=0.3, backoff_first=0.05, backoff_most=0.5, retry_limit=20
)
SCHEMA = """
create table t (id bigint primary key, name text);
insert into t select n, 'row ' || n from generate_series(1, 1000) n;
create publication p for all tables;
"""


def pipeline(dsn: str, slot: str, state_dir: Path, *, failover: bool = False, **sinks: Sink) -> Pipeline:
    config = SourceConfig(dsn=Secret(dsn), name="engine", slot=slot, publication="p", failover=failover)
    return Pipeline(PostgresSource(config), sinks, state_dir, SETTINGS)


@asynccontextmanager
async def running(flow: Pipeline) -> AsyncIterator[None]:
    task = asyncio.create_task(flow.run())
    try:
        async with asyncio.timeout(20):
            while not flow.status().ready and not task.done():  # noqa: ASYNC110  # a status has no event
                await asyncio.sleep(0.01)
        yield
    finally:
        flow.stop()
        async with asyncio.timeout(15):
            await task


def token(server: PostgresServer) -> Lsn:
    return Lsn.parse(server.execute("select pg_current_wal_insert_lsn()::text")[0][0])


def rows(database: Database | PostgresServer) -> list[dict[str, Any]]:
    found = database.execute("select id, name from t")
    return sorted(({"id": key, "name": name} for key, name in found), key=lambda row: repr((row["id"],)))


async def test_a_server_restarted_beside_a_stalled_sink_stops_fast_and_is_followed_again(
    postgres_factory: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    server = await asyncio.to_thread(postgres_factory, 18)
    database = Database.create(server)
    database.execute(SCHEMA)
    faults = Faults(script={"write.before": {3: "stall"}})
    stalled, store = MemoryStore(record=True), MemoryStore(record=True)
    sinks = {"stalled": FaultySink(MemorySink(stalled), faults), "b": MemorySink(store, durable=False)}
    async with running(flow := pipeline(database.dsn(), database.name, tmp_path, **sinks)):
        database.execute("insert into t select n, repeat('x', 200) from generate_series(2001, 6000) n")
        await flow.wait_for(token(server), "b", timeout=10)
        await asyncio.wait_for(asyncio.to_thread(server.restart), 10)
        database.execute("update t set name = 'new' where id < 10")
        await flow.wait_for(token(server), "b", timeout=15)
        faults.resume()
        await flow.wait_for(token(server), timeout=15)
    assert stalled.rows(T) == store.rows(T) == rows(database)
    assert len(stalled.changes) == len(store.changes) == 4009


async def test_a_line_cut_during_the_copy_of_a_late_sink_costs_nothing_but_time(
    database: Database, tcp_proxy: TcpProxy, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    dsn = database.dsn(via="tcp", port=tcp_proxy.port)
    store, late = MemoryStore(record=True), MemoryStore(record=True)
    async with running(flow := pipeline(dsn, database.name, tmp_path, a=MemorySink(store))):
        database.execute("delete from t where id < 10")
        await flow.wait_for(token(database.server), timeout=10)
    cuts = iter([True, True])

    def cut(batch: object) -> None:
        if next(cuts, False):
            tcp_proxy.cut()

    sinks = {"a": MemorySink(store), "late": MemorySink(late, before_write=cut)}
    flow = pipeline(dsn, database.name, tmp_path, **sinks)
    async with running(flow):
        database.execute("insert into t select n, 'more' from generate_series(2001, 2100) n")
        await flow.wait_for(token(database.server), timeout=15)
    assert store.rows(T) == late.rows(T) == rows(database)
    assert len(store.changes) == 109
    assert next(cuts, None) is None


async def test_a_promoted_standby_is_followed_unless_the_copy_has_what_it_lost(
    database: Database, tmp_path: Path
) -> None:
    """A copy that was derived is made anew as well: its versions hold the epoch, so lower LSNs win."""
    mapping = DataMapping(documents={"t": Document("t")})
    docs, search = DocumentsConfig(Secret(database.dsn())), SearchConfig(tmp_path / "find", memory=16 << 20)
    index = SearchIndex(search.path, "t")

    def derived_at(server: PostgresServer, settings: PipelineSettings = SETTINGS) -> walcast.Pipeline:
        config = SourceConfig(Secret(server.dsn()), slot="s", publication="p", failover=True)
        sinks = {"a": MemorySink(store), "docs": docs, "find": search}
        return walcast.Pipeline(config, sinks, state, settings, mapping=mapping)

    def derived() -> list[list[str | None]]:
        """Of each store the names of some rows."""
        known = dict(database.execute("select id, body ->> 'name' from derived.t"))
        found = {id_: body["name"] for id_, body in index.documents()}
        return [[names.get(id_) for id_ in ("2001", "2002", "2003", "9")] for names in (known, found)]

    binaries = find(18, tools=("pg_basebackup",))
    store, state = MemoryStore(record=True), tmp_path / "state"
    with PostgresServer(binaries=binaries) as primary:
        primary.execute(SCHEMA)
        async with running(flow := pipeline(primary.dsn(), "s", state, failover=True, a=MemorySink(store))):
            await flow.wait_for(token(primary), timeout=10)
        standby = await asyncio.to_thread(primary.standby, settings={"hot_standby_feedback": "on"})
        with standby:
            async with running(
                flow := pipeline(primary.dsn(), "s", state, failover=True, a=MemorySink(store))
            ):
                await _synchronize(flow, primary, standby)
                primary.execute("insert into t values (2001, 'both have it')")
                await flow.wait_for(token(primary), timeout=10)
            await asyncio.to_thread(_caught_up, primary, standby)
            before, state_before = copy.deepcopy(store), tmp_path / "before"
            shutil.copytree(state, state_before)
            await asyncio.to_thread(standby.stop)
            async with running(flow := derived_at(primary)):
                primary.execute(
                    "insert into t select 5000 + n, repeat('x', 500) from generate_series(1, 500) n"
                )
                primary.execute("insert into t values (2002, 'only the old primary and the copy have it')")
                primary.execute("update t set name = 'lost' where id = 9")
                end = token(primary)
                await flow.wait_for(end, timeout=10)
            assert (
                derived() == [["both have it", "only the old primary and the copy have it", None, "lost"]] * 2
            )
            primary.kill()
            await asyncio.to_thread(standby.start)
            standby.execute("select pg_promote()")
            standby.execute("insert into t values (2003, 'of the new history')")

            with pytest.raises(OperatorError, match="another history"):
                await pipeline(standby.dsn(), "s", state, a=MemorySink(store)).run()
            async with running(flow := pipeline(standby.dsn(), "s", state_before, a=MemorySink(before))):
                await flow.wait_for(token(standby), timeout=10)
                assert flow.status().source.epoch == 2
            assert before.rows(T) == rows(standby)
            assert [change.row["id"] for change in before.changes] == [2001, 2003]
            settings = replace(SETTINGS, new_history="resnapshot")
            async with running(flow := derived_at(standby, settings)):
                standby.execute("update t set name = 'new' where id in (9, 2003)")
                assert token(standby) < end
                await flow.wait_for(token(standby), timeout=10)
            assert derived() == [["both have it", None, "new", "new"]] * 2
            assert len(index.ids()) == 1002
            versions = database.execute("select version >> 48 from derived.t where id in ('9', '2003')")
            assert versions == [(2,), (2,)]
            assert store.rows(T) == rows(standby)


async def test_what_was_read_ahead_of_a_lost_tail_is_made_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream waits for the standby; who reads the source again sees what only the primary has."""
    arrived, go, write = asyncio.Semaphore(0), asyncio.Event(), MappedSink.write

    async def late(sink: MappedSink, batch: Batch) -> Durability:
        if batch.xids:
            arrived.release()
            await go.wait()
        return await write(sink, batch)

    monkeypatch.setattr(MappedSink, "write", late)
    mapping = DataMapping(
        documents={"t": Document("t", nested={"notes": Nested("note", on={"t_id": "id"}, order=("id",))})}
    )
    sinks = {
        "docs": DocumentsConfig(Secret(database.dsn())),
        "find": SearchConfig(tmp_path / "find", memory=16 << 20),
    }

    def flow_at(server: PostgresServer) -> walcast.Pipeline:
        config = SourceConfig(Secret(server.dsn()), slot="s", publication="p", failover=True)
        return walcast.Pipeline(config, sinks, tmp_path / "state", SETTINGS, mapping=mapping)

    def notes(body: dict[str, Any]) -> list[str]:
        return [note["text"] for note in body["notes"]]

    def held() -> list[list[str]]:
        ((in_docs,),) = database.execute("select body from derived.t where id = '1'")
        in_search = SearchIndex(tmp_path / "find", "t").get("1") or {}
        return [notes(in_docs), notes(in_search)]

    with PostgresServer(binaries=find(18, tools=("pg_basebackup",))) as primary:
        primary.execute(SCHEMA + "create table note (id int primary key, t_id bigint, text text)")
        async with running(flow := flow_at(primary)):
            await flow.wait_for(token(primary), timeout=10)
        standby = await asyncio.to_thread(primary.standby, settings={"hot_standby_feedback": "on"})
        with standby:
            async with running(flow := flow_at(primary)):
                await _synchronize(flow, primary, standby)
            primary.execute("alter system set synchronized_standby_slots = 'standby_slot'")
            primary.execute("select pg_reload_conf()")
            async with running(flow := flow_at(primary)):
                primary.execute("insert into note values (1, 1, 'kept')")
                kept = token(primary)
                async with asyncio.timeout(10):
                    await arrived.acquire()
                    await arrived.acquire()
                await asyncio.to_thread(standby.stop)
                primary.execute("insert into note values (2, 1, 'lost')")
                go.set()
                await flow.wait_for(kept, timeout=10)
                assert held() == [["kept", "lost"]] * 2
                assert {sink.checkpoint.through for sink in flow.status().sinks if sink.checkpoint} == {kept}
            primary.kill()
            await asyncio.to_thread(standby.start)
            standby.execute("select pg_promote()")
            async with running(flow := flow_at(standby)):
                standby.execute("insert into note values (3, 2, 'new')")
                await flow.wait_for(token(standby), timeout=10)
                async with asyncio.timeout(20):
                    while held() != [["kept"]] * 2:  # noqa: ASYNC110  # no event
                        await asyncio.sleep(0.05)
                ((count,),) = database.execute("select count(*) from derived.t")
                assert count == 1000
            # It is done with: nothing is made anew once more.
            database.execute("update derived.t set body = '{}' where id = '2'")
            async with running(flow := flow_at(standby)):
                await flow.wait_for(token(standby), timeout=10)
            assert database.execute("select body from derived.t where id = '2'") == [({},)]


async def _synchronize(flow: Pipeline, primary: PostgresServer, standby: PostgresServer) -> None:
    """Carries the slot over: the standby refuses until the slot has moved on to what the standby still has."""
    for _ in range(100):
        primary.execute("select pg_log_standby_snapshot()")
        await flow.wait_for(token(primary), timeout=10)
        with contextlib.suppress(psycopg.Error):
            standby.execute("select pg_sync_replication_slots()")
        if standby.execute("select 1 from pg_replication_slots where slot_name = 's' and not temporary"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(standby.log())


def _caught_up(primary: PostgresServer, standby: PostgresServer) -> None:
    lsn = str(token(primary))
    for _ in range(100):
        if standby.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [lsn]) == [(True,)]:
            return
        time.sleep(0.05)
    raise AssertionError(standby.log())


async def test_at_the_wal_budget_a_slot_that_nobody_follows_is_dropped_and_made_anew(
    database: Database, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    store, away = MemoryStore(record=True), False

    def there(_: object) -> None:
        if away:
            raise SinkUnavailable("the target is away")

    def make(context: SinkContext) -> MemorySink:
        there(context)
        return MemorySink(store, before_write=there)

    config = SourceConfig(dsn=Secret(database.dsn()), name="engine", slot=database.name, publication="p")
    settings = replace(SETTINGS, wal_budget=2 << 20, on_budget="drop", observe_interval=0.05, retry_limit=60)
    flow = Pipeline(PostgresSource(config), {"a": make}, tmp_path, settings)
    slots = "select slot_name from pg_replication_slots where slot_name = %s and not temporary"
    async with running(flow):
        away = True
        database.execute("insert into t select n, repeat('x', 500) from generate_series(2001, 12000) n")
        async with asyncio.timeout(20):
            while database.execute(slots, [database.name]):  # noqa: ASYNC110  # the server has no event for it
                await asyncio.sleep(0.05)
        database.execute("delete from t where id < 500")
        away = False
        async with asyncio.timeout(20):
            while not flow.status().ready:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.05)
        database.execute("insert into t values (20000, 'of the new slot')")
        await flow.wait_for(token(database.server), timeout=10)
        assert database.execute(slots, [database.name])
    assert store.rows(T) == rows(database)
