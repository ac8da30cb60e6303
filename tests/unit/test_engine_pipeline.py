"""The pipeline on a scripted source: what sinks end up with, through stops, restarts, failures and stalls."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from engine_tools import SETTINGS, USERS, ScriptedServer, ScriptedSource, running, until, users

from walcast.engine import Pipeline, PipelineSettings, SinkState
from walcast.model import (
    Batch,
    ConfigError,
    DecodeError,
    FatalError,
    Lsn,
    OperatorError,
    Relation,
    Sink,
    SinkContext,
    SinkUnavailable,
    TableId,
    TableStopped,
)
from walcast.testing.faulty import Faults, FaultySink
from walcast.testing.memory import MemorySink, MemoryStore

ORDERS = users(2, "orders")


def pipeline(
    server: ScriptedServer, state_dir: Path, settings: PipelineSettings = SETTINGS, **sinks: Sink
) -> Pipeline:
    return Pipeline(ScriptedSource(server), sinks, state_dir, settings)


@pytest.fixture
def server() -> ScriptedServer:
    made = ScriptedServer()
    for number in range(5):
        made.put(number)
    return made


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(record=True)


async def test_rows_from_before_and_after_the_start_arrive_once(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))
    async with running(flow):
        await flow.wait_for(server.put(7), timeout=5)
        assert store.rows(USERS.table) == server.expected()
        await flow.wait_for(server.commit(("delete", USERS, {"id": 7})), timeout=5)
    assert store.rows(USERS.table) == server.expected()
    assert [change.op for change in store.changes] == ["insert", "delete"]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("durable", [True, False])
async def test_a_clean_stop_leaves_nothing_to_redo(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path, durable: bool, keeps: bool
) -> None:
    def sink() -> MemorySink:
        return MemorySink(store, durable=durable, keeps_checkpoint=keeps)

    async with running(flow := pipeline(server, tmp_path, a=sink())):
        await flow.wait_for(server.put(7), timeout=5)
    assert server.confirmed == server.at
    async with running(flow := pipeline(server, tmp_path, a=sink())):
        await flow.wait_for(server.put(8), timeout=5)
    assert store.rows(USERS.table) == server.expected()
    assert len(store.changes) == 2
    assert store.again == 0


async def test_a_sink_with_nothing_new_is_confirmed_by_idle_batches(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store, durable=False))):
        server.at = Lsn(server.at + 1_000_000)
        await flow.wait_for(server.at, timeout=5)
        await until(lambda: server.confirmed == server.at)


async def test_a_split_transaction_is_sent_again_from_its_first_part(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    faults = Faults(script={"write.before": {6: "fail"}})
    source = ScriptedSource(server)
    flow = Pipeline(source, {"a": FaultySink(MemorySink(store), faults)}, tmp_path, SETTINGS)
    async with running(flow):
        await flow.wait_for(server.put(7), timeout=5)
        rows = [("insert", USERS, {"id": 100 + number, "n": number}) for number in range(9)]
        await flow.wait_for(server.commit(*rows, parts=4), timeout=5)
    assert faults.passed["write.before"] > 6
    assert server.streams == 2
    assert store.rows(USERS.table) == server.expected()


async def test_a_stream_cut_between_parts_begins_the_transaction_again(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    source = ScriptedSource(server)
    written = 0

    def cut(batch: Batch) -> None:
        nonlocal written
        written += 1
        if written == 5:
            source.fail()

    flow = Pipeline(source, {"a": MemorySink(store, before_write=cut)}, tmp_path, SETTINGS)
    async with running(flow):
        rows = [("insert", USERS, {"id": 100 + number, "n": number}) for number in range(9)]
        await flow.wait_for(server.commit(*rows, parts=6), timeout=5)
    assert source.opened == 2
    assert store.rows(USERS.table) == server.expected()


async def test_a_failing_sink_is_fed_again_without_opening_the_stream_again(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    faults = Faults(script={"write.after": {4: "fail"}, "write.before": {6: "fail"}, "open": {2: "fail"}})
    other = MemoryStore()
    sinks = {"a": FaultySink(MemorySink(store), faults), "b": MemorySink(other)}
    async with running(flow := pipeline(server, tmp_path, **sinks)):
        for ten in (10, 20):
            for number in range(ten, ten + 5):
                server.put(number)
            await flow.wait_for(server.at, timeout=5)
        assert flow.status().sink("a").retries == 3
        assert flow.status().sink("a").error is None
    assert server.streams == 1
    assert store.rows(USERS.table) == other.rows(USERS.table) == server.expected()


async def test_an_operator_error_stops_that_sink_only(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    faults = Faults(script={"write.before": {4: "stop"}})
    sinks = {"a": FaultySink(MemorySink(MemoryStore()), faults), "b": MemorySink(store)}
    async with running(flow := pipeline(server, tmp_path, **sinks)):
        token = server.put(10)
        await flow.wait_for(token, "b", timeout=5)
        with pytest.raises(OperatorError, match="sink a has stopped"):
            await flow.wait_for(token, "a", timeout=5)
        status = flow.status()
        assert status.sink("a").state is SinkState.STOPPED
        assert [problem.remedy for problem in status.problems] == ["heal the faults"]
        assert server.confirmed is not None
        assert server.confirmed < token  # the WAL is its spool
        await flow.reload()
        await flow.wait_for(token, "a", timeout=5)


async def test_when_every_sink_has_stopped_run_raises_the_first_error(
    server: ScriptedServer, tmp_path: Path
) -> None:
    faults = Faults(script={"open": {1: "stop"}})
    flow = pipeline(server, tmp_path, a=FaultySink(MemorySink(), faults))
    with pytest.raises(OperatorError, match="injected at open"):
        async with asyncio.timeout(5):
            await flow.run()


async def test_retries_are_bounded_in_time(server: ScriptedServer, tmp_path: Path) -> None:
    faults = Faults(rate=1.0, points=("open",))
    flow = pipeline(server, tmp_path, replace(SETTINGS, retry_limit=0.05), a=FaultySink(MemorySink(), faults))
    with pytest.raises(Exception, match="injected at open"):
        async with asyncio.timeout(5):
            await flow.run()
    assert faults.passed["open"] > 2


async def test_a_stalled_sink_is_detached_and_catches_up(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    faults = Faults(script={"write.before": {4: "stall"}})
    stalled = MemoryStore()
    settings = replace(SETTINGS, budget_bytes=1 << 20)
    sinks = {"slow": FaultySink(MemorySink(stalled), faults), "b": MemorySink(store)}
    flow = pipeline(server, tmp_path, settings, **sinks)
    flow._workers["slow"].inbox.share = 250  # two batches
    async with running(flow):
        await until(lambda: flow.status().ready)
        for number in range(10, 20):
            server.put(number)
        await flow.wait_for(server.at, "b", timeout=5)
        assert flow.status().sink("slow").state is SinkState.DETACHED
        assert flow.status().sink("slow").queue_bytes == 0
        faults.resume()
        await flow.wait_for(server.at, "slow", timeout=5)
    assert stalled.rows(USERS.table) == store.rows(USERS.table) == server.expected()


async def test_a_slow_sink_paces_nobody_and_catches_up_in_few_writes(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    slow = MemoryStore(record=True)
    faults = Faults(script={"write.before": {12: "stall"}})
    sinks: dict[str, Sink] = {"slow": FaultySink(MemorySink(slow), faults), "other": MemorySink(store)}
    async with running(flow := pipeline(server, tmp_path, replace(SETTINGS, stall_limit=30.0), **sinks)):
        for number in range(20):
            await flow.wait_for(server.put(100 + number), "other", timeout=5)
        await asyncio.wait_for(faults.stalled.wait(), 5)
        for number in range(200):
            server.put(200 + number)
        await flow.wait_for(server.at, "other", timeout=5)
        before = faults.passed["write.before"]
        faults.resume()
        await flow.wait_for(server.at, timeout=5)
        assert faults.passed["write.before"] <= before + 2
    assert slow.rows(USERS.table) == store.rows(USERS.table) == server.expected()
    assert len(slow.changes) == len(store.changes) == 220
    assert server.streams == 1


async def test_a_sink_that_is_let_go_frees_the_slot_and_is_copied_anew(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    faults = Faults(script={"write.before": {4: "stop"}})
    gone = MemoryStore()
    settings = replace(SETTINGS, on_stall="release")
    sinks = {"a": FaultySink(MemorySink(gone), faults), "b": MemorySink(store)}
    async with running(flow := pipeline(server, tmp_path, settings, **sinks)):
        token = server.put(10)
        await flow.wait_for(token, "b", timeout=5)
        await until(lambda: (server.confirmed or 0) >= server.wal[-1].end)
        assert flow.status().sink("a").state is SinkState.RELEASED
    async with running(flow := pipeline(server, tmp_path, settings, **sinks)):
        await flow.wait_for(server.put(11), timeout=5)
    assert gone.rows(USERS.table) == store.rows(USERS.table) == server.expected()


async def test_beyond_the_wal_budget_a_stopped_sink_is_let_go(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(script={"write.before": {4: "stop"}})
    settings = replace(SETTINGS, wal_budget=1000, observe_interval=0.01)
    sinks = {"a": FaultySink(MemorySink(), faults), "b": MemorySink(store)}
    async with running(flow := pipeline(server, tmp_path, settings, **sinks)):
        server.put(10)
        server.retained = 900
        await until(lambda: "wal_budget_near" in caplog.text)
        assert flow.status().sink("a").state is SinkState.STOPPED
        server.retained = 1001
        await until(lambda: (server.confirmed or 0) >= server.wal[-1].end)
        assert flow.status().sink("a").state is SinkState.RELEASED


async def test_at_the_wal_budget_a_sink_is_held_on_to_when_the_settings_say_so(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(script={"write.before": {4: "stop"}})
    settings = replace(SETTINGS, wal_budget=1000, observe_interval=0.01, on_budget="hold")
    sinks = {"a": FaultySink(MemorySink(), faults), "b": MemorySink(store)}
    async with running(flow := pipeline(server, tmp_path, settings, **sinks)):
        await flow.wait_for(server.put(10), "b", timeout=5)
        server.retained = 5000
        await until(lambda: "wal_budget_near" in caplog.text)
        await asyncio.sleep(0.05)
        assert flow.status().sink("a").state is SinkState.STOPPED
        assert (server.confirmed or 0) < server.wal[-1].end


async def test_at_the_wal_budget_the_slot_stays_for_those_that_follow_and_goes_when_nobody_does(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    faults = Faults(script={"write.before": {4: "stop"}})
    settings = replace(SETTINGS, wal_budget=1000, observe_interval=0.01, on_budget="drop")
    sinks = {"a": FaultySink(MemorySink(), faults), "b": MemorySink(store)}
    async with running(flow := pipeline(server, tmp_path, settings, **sinks)):
        server.put(10)
        server.retained = 1001
        await until(lambda: flow.status().sink("a").state is SinkState.RELEASED)
        await until(lambda: (server.confirmed or 0) >= server.wal[-1].end)
        assert server.confirmed is not None, "b needs it"
        server.retained = 0


async def test_a_slot_that_nobody_follows_is_dropped_at_the_budget_and_all_is_copied_anew(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, wal_budget=1000, observe_interval=0.01, on_budget="drop")
    away = False

    def there(_: object) -> None:
        if away:
            raise SinkUnavailable("the target is away")

    def make(context: SinkContext) -> MemorySink:
        there(context)
        return MemorySink(store, before_write=there)

    async with running(flow := Pipeline(ScriptedSource(server), {"a": make}, tmp_path, settings)):
        await flow.wait_for(server.put(10), timeout=5)
        away = True
        server.put(11)
        server.retained = 1001
        await until(lambda: server.confirmed is None)
        server.put(12)
        away = False
        await until(lambda: flow.status().ready)
        await flow.wait_for(server.put(13), timeout=5)
    assert store.rows(USERS.table) == server.expected()


async def test_a_pipeline_that_ends_at_the_budget_drops_the_slot_behind_it(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, wal_budget=1000, on_budget="drop")
    async with running(flow := pipeline(server, tmp_path, settings, a=MemorySink(store))):
        await flow.wait_for(server.put(10), timeout=5)
    server.put(11)
    server.retained = 1001
    faults = Faults(script={"open": {1: "stop"}})
    with pytest.raises(OperatorError, match="injected at open"):
        await pipeline(server, tmp_path, settings, a=FaultySink(MemorySink(store), faults)).run()
    assert server.confirmed is None
    async with running(flow := pipeline(server, tmp_path, settings, a=MemorySink(store))):
        await flow.wait_for(server.put(12), timeout=5)
    assert store.rows(USERS.table) == server.expected()


async def test_sinks_at_different_checkpoints_each_get_what_they_lack(
    server: ScriptedServer, tmp_path: Path
) -> None:
    a, b = MemoryStore(), MemoryStore()
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(a), b=MemorySink(b))):
        await flow.wait_for(server.put(10), timeout=5)
        behind = replace(b, tables={t: dict(r) for t, r in b.tables.items()}, journal=dict(b.journal))
    confirmed = server.confirmed
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(a))):
        await flow.wait_for(server.put(11), timeout=5)
    server.confirmed = confirmed
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(a), b=MemorySink(behind))):
        await flow.wait_for(server.put(12), timeout=5)
    assert a.rows(USERS.table) == behind.rows(USERS.table) == server.expected()


async def test_a_sink_added_later_is_copied_beside_the_stream(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store))):
        await flow.wait_for(server.put(10), timeout=5)
    late = MemoryStore(record=True)
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store), late=MemorySink(late))):
        await flow.wait_for(server.put(11), timeout=5)
        assert late.rows(USERS.table) == store.rows(USERS.table) == server.expected()
    assert len(store.changes) == 2


async def test_a_published_table_that_turns_up_is_copied(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store, durable=False))):
        await flow.wait_for(server.put(10), timeout=5)
        server.rows[ORDERS.table] = {1: {"id": 1, "n": 1}}
        server.relations.append(ORDERS)
        server.put(2, relation=ORDERS)
        await until(lambda: store.rows(ORDERS.table) == server.expected(ORDERS))
        await flow.wait_for(server.put(3, relation=ORDERS), timeout=5)
        assert store.rows(ORDERS.table) == server.expected(ORDERS)


async def test_changes_of_a_table_that_is_not_wanted_are_dropped(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store))):
        server.put(1, relation=ORDERS)
        await flow.wait_for(server.put(10), timeout=5)
    assert ORDERS.table not in store.tables
    assert store.rows(USERS.table) == server.expected()


class Picky(MemorySink):
    """Cannot hold one table, wherever it says so."""

    def __init__(self, store: MemoryStore, table: TableId, at: str) -> None:
        def refuse(batch: Batch) -> None:
            if at == "write" and any(batch.counts(r) for r in batch.relations if r.table == table):
                raise TableStopped(table, "it cannot be", hint="make room")

        super().__init__(store, before_write=refuse)
        self._table, self._at = table, at

    async def prepare(self, relation: Relation) -> None:
        if self._at == "prepare" and relation.table == self._table:
            raise TableStopped(relation.table, "it cannot be", hint="make room")
        await super().prepare(relation)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("snapshot", ["initial", "never"])
@pytest.mark.parametrize("at", ["prepare", "write"])
async def test_a_stopped_table_stays_stopped_until_it_is_copied_anew(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path, at: str, snapshot: str, parts: int
) -> None:
    server.relations.append(ORDERS)
    settings = replace(SETTINGS, snapshot=snapshot)
    both = [("insert", relation, {"id": 20, "n": 1}) for relation in (USERS, ORDERS, USERS)]
    async with running(flow := pipeline(server, tmp_path, settings, a=Picky(store, ORDERS.table, at))):
        await until(lambda: flow.status().ready)
        await flow.wait_for(server.commit(*both, parts=parts), timeout=5)
        (stopped,) = flow.status().sink("a").stopped_tables
        assert (stopped.table, stopped.reason, stopped.hint) == ("app.orders", "it cannot be", "make room")
        assert flow.status().problems
    assert {"id": 20, "n": 1} in store.rows(USERS.table)
    assert not store.rows(ORDERS.table)

    async with running(flow := pipeline(server, tmp_path, settings, a=MemorySink(store))):
        await flow.wait_for(server.put(21, relation=ORDERS), timeout=5)
        assert not store.rows(ORDERS.table)
        assert flow.status().sink("a").stopped_tables
        if snapshot == "initial":
            await flow.resync("a", [ORDERS.table])
            await until(lambda: store.rows(ORDERS.table) == server.expected(ORDERS))
            await flow.wait_for(server.put(22, relation=ORDERS), timeout=5)
            assert store.rows(ORDERS.table) == server.expected(ORDERS)
            assert not flow.status().problems


async def test_a_failing_source_is_opened_again(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    source = ScriptedSource(server)
    flow = Pipeline(source, {"a": MemorySink(store)}, tmp_path, SETTINGS)
    async with running(flow):
        for number in range(3):
            await flow.wait_for(server.put(10 + number), timeout=5)
            source.fail()
        await flow.wait_for(server.put(20), timeout=5)
        await until(lambda: flow.status().source.error is None)
    assert source.opened == 4
    assert len(store.changes) == 4


async def test_a_source_that_cannot_go_on_ends_the_pipeline_with_everything_saved(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    source = ScriptedSource(server)
    flow = Pipeline(source, {"a": MemorySink(store, durable=False)}, tmp_path, SETTINGS)
    task = asyncio.create_task(flow.run())
    await flow.wait_for(server.put(10), timeout=5)
    source.fail(DecodeError("bytes that are not the protocol's"))
    with pytest.raises(DecodeError, match="not the protocol"):
        await task
    problem = flow.status().source.error
    assert problem is not None
    assert problem.code == "DecodeError"
    assert store.rows(USERS.table) == server.expected()


async def test_an_interrupted_snapshot_goes_on_without_the_tables_that_are_done(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    server.relations.append(ORDERS)
    for number in range(5):
        server.put(number, relation=ORDERS)
    faults = Faults(script={"write.before": {5: "stop"}})  # the second table's second chunk
    with pytest.raises(OperatorError):
        await pipeline(server, tmp_path, a=FaultySink(MemorySink(store), faults)).run()
    server.put(0, 99)
    server.put(0, 99, relation=ORDERS)
    written: list[TableId] = []

    def note(batch: Batch) -> None:
        if batch.kind == "snapshot":
            written.append(batch.relations[0].table)

    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store, before_write=note))):
        await flow.wait_for(server.put(9), timeout=5)
    assert set(written) == {ORDERS.table}
    assert store.rows(USERS.table) == server.expected()
    assert store.rows(ORDERS.table) == server.expected(ORDERS)


async def test_a_table_that_the_snapshot_does_not_bring_stops_alone(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    source = ScriptedSource(server)
    ask = source.snapshot

    def without(tables: object) -> object:
        return ask([USERS.table])

    source.snapshot = without  # type: ignore[method-assign, assignment]  # the table goes away meanwhile
    server.relations.append(ORDERS)
    async with running(flow := Pipeline(source, {"a": MemorySink(store)}, tmp_path, SETTINGS)):
        await flow.wait_for(server.put(9), timeout=5)
        assert [table.table for table in flow.status().sink("a").stopped_tables] == ["app.orders"]


async def test_waiting_says_what_it_waits_for_in_vain(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store))):
        with pytest.raises(TimeoutError):
            await flow.wait_for(Lsn(1 << 40), timeout=0.05)
        with pytest.raises(ConfigError, match="no sink 'b'"):
            await flow.wait_for(server.at, "b")


async def test_a_sink_that_takes_too_long_does_not_hold_up_the_end(
    server: ScriptedServer, tmp_path: Path
) -> None:
    faults = Faults(script={"write.before": {4: "stall"}})
    settings = replace(SETTINGS, stop_timeout=0.1)
    flow = pipeline(server, tmp_path, settings, a=FaultySink(MemorySink(), faults))
    async with running(flow):
        server.put(10)
        await faults.stalled.wait()


async def test_a_factory_makes_a_sink_at_each_opening(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    contexts: list[SinkContext] = []
    faults = Faults(script={"write.after": {4: "fail"}})

    def make(context: SinkContext) -> Sink:
        contexts.append(context)
        return FaultySink(MemorySink(store), faults)

    flow = Pipeline(ScriptedSource(server), {"a": make}, tmp_path, SETTINGS)  # type: ignore[dict-item]  # a Sink is both
    async with running(flow):
        await flow.wait_for(server.put(10), timeout=5)
    assert len(contexts) == 2
    assert contexts[0].sink == "a"
    assert contexts[0].source.system_id == 7
    assert store.rows(USERS.table) == server.expected()


async def test_an_unknown_error_is_fatal_and_quotes_nothing(server: ScriptedServer, tmp_path: Path) -> None:
    def leak(batch: Batch) -> None:
        raise ZeroDivisionError("the secret value is 42")

    flow = pipeline(server, tmp_path, a=MemorySink(before_write=leak))
    with pytest.raises(ZeroDivisionError):
        await flow.run()
    error = flow.status().sink("a").error
    assert error is not None
    assert "42" not in error.message
    assert error.action == "fatal"


async def test_the_status_says_how_fast_the_source_writes(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))
    async with running(flow):
        first = (await flow.observe()).source
        assert first.position is not None
        server.put(100)
        second = (await flow.observe()).source
        assert second.position is not None
        assert second.wal_rate is not None
        assert second.wal_watched > first.wal_watched
        written = second.position - first.position
        assert written > 0
        assert second.wal_rate * second.wal_watched >= written - 1
        assert flow.metrics.get("walcast_source_wal_bytes_per_second") == second.wal_rate


def test_a_pipeline_without_sinks_is_refused(tmp_path: Path, server: ScriptedServer) -> None:
    with pytest.raises(ConfigError, match="no sink"):
        Pipeline(ScriptedSource(server), {}, tmp_path)


async def test_a_flush_amid_a_transaction_is_refused_by_the_memory_sink() -> None:
    sink = MemorySink(durable=False)
    sink._in_parts = True
    with pytest.raises(FatalError, match="between the parts"):
        await sink.flush()


async def test_a_paused_sink_misses_nothing_and_the_others_go_on(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    other = MemoryStore()
    flow = pipeline(server, tmp_path, a=MemorySink(store), b=MemorySink(other))
    async with running(flow):
        await flow.wait_for(server.put(7), timeout=5)
        await flow.pause("a")
        assert flow.status().sink("a").state is SinkState.PAUSED
        before = store.rows(USERS.table)
        token = server.put(8)
        await flow.wait_for(token, "b", timeout=5)
        assert store.rows(USERS.table) == before
        with pytest.raises(OperatorError, match="paused"):
            await flow.wait_for(token, "a", timeout=5)
        with pytest.raises(OperatorError, match="paused"):
            await flow.pause("a")
        await flow.reload()
        assert flow.status().sink("a").state is SinkState.PAUSED, (
            "a reload tries again what failed, not what was asked for"
        )
        await flow.resume("a")
        await flow.wait_for(token, "a", timeout=5)
        assert store.rows(USERS.table) == other.rows(USERS.table) == server.expected()
        with pytest.raises(ConfigError):
            await flow.pause("nobody")


async def test_a_pipeline_whose_sinks_are_all_paused_goes_on_later(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, replace(SETTINGS, on_stall="release"), a=MemorySink(store))
    async with running(flow):
        await flow.wait_for(server.put(7), timeout=5)
        await flow.pause("a")
        await until(lambda: not flow.status().source.streaming)
        token = server.put(8)
        await flow.resume("a")
        await flow.wait_for(token, timeout=5)
        assert flow.status().sink("a").state is SinkState.STREAMING
    assert store.rows(USERS.table) == server.expected()


async def test_a_paused_pipeline_begins_anew_with_all_its_sinks(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))
    async with running(flow):
        await flow.wait_for(server.put(7), timeout=5)
        await flow.pause("a")
        token = server.put(8)
    again = pipeline(server, tmp_path, a=MemorySink(store))
    async with running(again):
        await again.wait_for(token, timeout=5)
    assert store.rows(USERS.table) == server.expected()


async def test_a_batch_leaves_a_trail_from_its_commit_to_each_sink(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store), b=MemorySink(MemoryStore()))
    async with running(flow):
        token = server.put(7)
        await flow.wait_for(token, timeout=5)
        trail = flow.trail(10)
    assert set(trail) == {"a", "b"}
    for steps in trail.values():
        step = steps[0]
        assert step.received is not None
        assert step.durable is not None
        assert step.received <= step.taken <= step.written <= step.durable
        assert step.changes["app.users"]
