"""A sink held at a position: it has all from before and nothing from after, and what the snapshot misses is known."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from engine_tools import SETTINGS, USERS, ScriptedServer, ScriptedSource, running, until

from walcast.engine import Pipeline, worker
from walcast.engine.fence import FenceLost
from walcast.model import Cut, Held, Sink, SinkUnavailable, Visibility
from walcast.testing.memory import MemorySink, MemoryStore

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_SETTLING", 0.0)


@pytest.fixture
def server() -> ScriptedServer:
    made = ScriptedServer()
    for number in range(5):
        made.put(number)
    return made


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(record=True)


def pipeline(server: ScriptedServer, state_dir: Path, **sinks: Sink) -> Pipeline:
    return Pipeline(ScriptedSource(server), sinks, state_dir, SETTINGS)


class Comparing:
    """Takes the server's rows with the cut, and the sink's at the fence."""

    def __init__(self, server: ScriptedServer, store: MemoryStore) -> None:
        self.server = server
        self.store = store
        self.source: Rows = []
        self.cut: Cut | None = None
        self.takes = 0

    async def take(self) -> Cut:
        self.takes += 1
        await asyncio.sleep(0)
        self.source = list(self.server.expected())
        self.cut = self.server.cut()
        return self.cut

    async def rows(self, held: Held) -> Rows:
        assert held.cut is self.cut
        await asyncio.sleep(0.001)  # whatever would come in meanwhile may try
        return self.store.rows(USERS.table)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
async def test_the_sink_is_where_the_snapshot_is_however_busy_the_stream_is(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path, durable: bool, parts: int
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store, durable=durable))
    comparing = Comparing(server, store)
    chance = random.Random(7)

    async def write() -> None:
        while True:
            rows = [{"id": chance.randrange(20), "n": chance.randrange(100)} for _ in range(4)]
            server.commit(
                *(("insert", USERS, row) for row in {row["id"]: row for row in rows}.values()), parts=parts
            )
            await asyncio.sleep(0.001)

    async with running(flow):
        writing = asyncio.create_task(write())
        for _ in range(30):
            held = await flow.hold("a", comparing.take, comparing.rows, patience=10)
            assert held == comparing.source
            await asyncio.sleep(0)
        writing.cancel()
        await flow.wait_for(server.put(1), timeout=5)
    assert store.rows(USERS.table) == server.expected()


async def test_a_batch_that_reaches_beyond_the_fence_is_cut_there(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))
    async with running(flow):
        comparing = Comparing(server, store)
        for _ in range(20):
            server.put(6, n=1)
            holding = asyncio.create_task(flow.hold("a", comparing.take, comparing.rows, patience=10))
            server.put(7, n=random.randrange(1000))
            server.put(6, n=2)
            assert await holding == comparing.source


async def test_an_idle_sink_is_reached_at_once(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))
    comparing = Comparing(server, store)
    async with running(flow):
        for _ in range(3):
            assert await flow.hold("a", comparing.take, comparing.rows, patience=5) == server.expected()


async def test_a_transaction_streamed_before_it_is_visible_is_waited_for(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))
    comparing = Comparing(server, store)
    told: list[list[int]] = []
    async with running(flow):
        token = server.put(8)
        server.hidden.add(server.xid)
        await flow.wait_for(token, timeout=5)
        holding = asyncio.create_task(
            flow.hold("a", comparing.take, comparing.rows, waiting=lambda xids: told.append(list(xids)))
        )
        await until(lambda: len(told) > 1)
        assert not holding.done()
        assert told[0] == [server.xid & 0xFFFFFFFF]
        server.hidden.clear()
        assert await holding == server.expected()


async def test_it_gives_up_when_nothing_settles(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))
    comparing = Comparing(server, store)
    async with running(flow):
        token = server.put(8)
        server.hidden.add(server.xid)
        await flow.wait_for(token, timeout=5)
        with pytest.raises(FenceLost, match="not show"):
            await flow.hold("a", comparing.take, comparing.rows, patience=0.1)
        await flow.wait_for(server.put(9), timeout=5)


async def test_what_an_earlier_process_streamed_unseen_is_waited_for_too(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store))):
        token = server.put(8)
        server.hidden.add(server.xid)
        await flow.wait_for(token, timeout=5)
    async with running(flow := pipeline(server, tmp_path, a=MemorySink(store))):
        comparing = Comparing(server, store)
        with pytest.raises(FenceLost, match="not show"):
            await flow.hold("a", comparing.take, comparing.rows, patience=0.1)
        server.hidden.clear()
        await flow.hold("a", comparing.take, comparing.rows, patience=5)


async def test_keys_that_the_snapshot_misses_are_told(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    """The transactions commit while the snapshot is taken: before the position, after what it sees."""
    flow = pipeline(server, tmp_path, a=MemorySink(store))

    async def take() -> Cut:
        seen = server.cut().visibility
        server.put(40)
        server.commit(("delete", USERS, {"id": 2}))
        return Cut(server.at, seen)

    async def touched(held: Held) -> set[bytes | None]:
        assert not held.touched[USERS.table].whole
        assert store.rows(USERS.table) == server.expected()
        return {key[0][1] for _, key in held.touched[USERS.table].keys}

    async with running(flow):
        assert await flow.hold("a", take, touched, patience=5) == {b"40", b"2"}
        comparing = Comparing(server, store)
        assert await flow.hold("a", comparing.take, comparing.rows, patience=5) == server.expected()


async def test_a_truncate_that_the_snapshot_misses_touches_the_whole_table(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))

    async def take() -> Cut:
        seen = server.cut().visibility
        server.commit(("truncate", USERS, {}))
        return Cut(server.at, seen)

    async def whole(held: Held) -> bool:
        return held.touched[USERS.table].whole

    async with running(flow):
        assert await flow.hold("a", take, whole, patience=5)


async def test_a_sink_that_fails_meanwhile_loses_the_fence_and_nothing_else(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    failing: list[bool] = []

    def fail(batch: object) -> None:
        if failing:
            failing.clear()
            raise SinkUnavailable("by the test")

    flow = pipeline(server, tmp_path, a=MemorySink(store, before_write=fail))

    async def take() -> Cut:
        server.put(50)
        failing.append(True)
        return server.cut()

    async def never(held: Held) -> None:
        raise AssertionError("the sink was closed before it was there")

    async with running(flow):
        with pytest.raises(FenceLost):
            await flow.hold("a", take, never, patience=5)
        await flow.wait_for(server.put(51), timeout=5)
        comparing = Comparing(server, store)
        assert await flow.hold("a", comparing.take, comparing.rows, patience=5) == server.expected()


async def test_an_error_of_the_action_is_its_callers_alone(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = pipeline(server, tmp_path, a=MemorySink(store))

    async def action(held: Held) -> None:
        raise KeyError("mine")

    async def take() -> Cut:
        return server.cut()

    async with running(flow):
        with pytest.raises(KeyError):
            await flow.hold("a", take, action, patience=5)
        await flow.wait_for(server.put(9), timeout=5)
        assert flow.metrics.get("walcast_retries_total", "a") == 0


def test_transaction_ids_of_32_bits_are_the_nearest_to_the_snapshot() -> None:
    epoch = 5 << 32
    young = Visibility(epoch - 3, epoch + 2, frozenset({epoch - 3, epoch}))
    assert [young.sees(xid & 0xFFFFFFFF) for xid in range(epoch - 5, epoch + 4)] == [
        True, True, False, True, True, False, True, False, False,
    ]  # fmt: skip
    assert Visibility.parse("10:20:10,15") == Visibility(10, 20, frozenset({10, 15}))
    assert Visibility.parse("7:7:") == Visibility(7, 7)
    assert Visibility(3, 5).sees(4)
    assert not Visibility(3, 5).sees(0x7FFFFFFF)
