"""The law of the pipeline: however it fails, dies, stalls and starts again, every sink ends equal to the source, what is
exactly once was applied once and in order, and at every moment confirmed <= saved <= durable."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
from engine_tools import SETTINGS, USERS, ScriptedServer, ScriptedSource, users
from hypothesis import given, settings
from hypothesis import strategies as st

from walcast.engine import Pipeline, SinkState, failpoints, journal
from walcast.engine.history import CHECKPOINT, checkpoint_of
from walcast.engine.tables import TableState
from walcast.model import Lsn, SourceUnavailable
from walcast.testing.faulty import Faults, FaultySink
from walcast.testing.memory import MemorySink, MemoryStore

ORDERS = users(2, "orders")
KINDS = {"exact": (True, True), "late": (False, True), "least": (False, False)}
"""By sink: (durable at once, keeps the checkpoint). `least` keeps no journal either."""


class Killed(Exception):
    """Of a process that is dead: nothing it does counts any more."""


@dataclass
class Life:
    """One process. Killed at the nth passage of a failpoint, it changes nothing durable afterwards."""

    point: str | None
    nth: int
    dead: asyncio.Event

    async def hook(self, name: str) -> None:
        if name == self.point:
            self.nth -= 1
            if self.nth == 0:
                self.dead.set()
        self.check()

    def check(self) -> None:
        if self.dead.is_set():
            raise Killed


class MortalSink(MemorySink):
    def __init__(self, store: MemoryStore, life: Life, *, durable: bool, keeps_checkpoint: bool) -> None:
        super().__init__(store, durable=durable, keeps_checkpoint=keeps_checkpoint)
        self._life = life
        if not keeps_checkpoint:
            self.journal = None  # type: ignore[method-assign, assignment]  # its journal is the state directory's

    def _commit(self) -> None:
        self._life.check()
        super()._commit()

    async def __aenter__(self) -> Self:
        self._life.check()
        return await super().__aenter__()


class MortalStore(MemoryStore):
    life: Life

    async def save(self, key: str, value: Any) -> None:
        self.life.check()
        await asyncio.sleep(0)
        self.life.check()
        await super().save(key, value)


class MortalSource(ScriptedSource):
    def __init__(self, server: ScriptedServer, life: Life) -> None:
        super().__init__(server)
        self._life = life

    async def create_slot(self) -> Lsn:
        self._life.check()
        return await super().create_slot()

    async def confirm(self, through: Lsn) -> None:
        self._life.check()
        await super().confirm(through)


class World:
    """What outlives a process: the server, the targets, the state directory."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.server = ScriptedServer(relations=[USERS, ORDERS], check=self.hold)
        self.stores = {name: MortalStore() for name in names}
        self.broken: list[str] = []

    def hold(self, confirming: Lsn) -> None:
        """Called when the slot is about to be confirmed."""
        for name, store in self.stores.items():
            content = store.journal
            checkpoint = store.checkpoint
            if not KINDS[name][1]:
                file = self.folder / "sinks" / f"{name}.json"
                content = json.loads(file.read_text()) if file.exists() else {}
                checkpoint = checkpoint_of(content.get(CHECKPOINT))
            if "history" not in content:
                self.broken.append(f"{name}: confirmed {confirming} before the sink had begun")
                continue
            saved = checkpoint.through if checkpoint is not None else Lsn.parse(content["history"]["floor"])
            if confirming > saved:
                self.broken.append(f"{name}: confirmed {confirming}, saved {saved}")
            starts = {
                key: TableState.of(value).start for key, value in content.items() if key.startswith("table ")
            }
            due = [
                transaction.lsn
                for transaction in self.server.wal
                if checkpoint is not None
                and transaction.end <= saved
                and any(
                    transaction.lsn >= starts.get("table " + json.dumps(list(relation.table)), 1 << 62)
                    for _, relation, _ in transaction.changes
                )
            ]
            last = store.last[1].commit_lsn if store.last is not None else 0
            if due and last < due[-1]:
                self.broken.append(f"{name}: saved {saved}, durable {last}, but {due[-1]} was due")


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["commit", "big", "big", "source", "rest", "table"]), st.integers(0, 5)),
    max_size=8,
)
LIVES = st.lists(
    st.tuples(
        STEPS,
        st.none() | st.tuples(st.sampled_from(failpoints.FAILPOINTS), st.integers(1, 6)),
        st.sampled_from([0.0, 0.0, 0.05, 0.2]),
        st.integers(0, 1000),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(lives=LIVES, names=st.sampled_from([["exact"], ["late"], ["least"], ["exact", "late", "least"]]))
def test_every_sink_ends_equal_however_it_got_there(lives: list[Any], names: list[str]) -> None:
    patch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        try:
            runner.run(_live(World(Path(folder), names), lives, patch))
        finally:
            patch.undo()
            failpoints.active = None


async def _live(world: World, lives: list[Any], patch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        world.server.put(number)
        world.server.put(number, relation=ORDERS)
    replace_file = journal._replace
    for steps, crash, rate, seed, wait in [*lives, ([("commit", 1)], None, 0.0, 0, False)]:
        life = Life(*(crash or (None, 0)), dead=asyncio.Event())
        patch.setattr(failpoints, "active", life.hook)
        patch.setattr(journal, "_replace", _mortal(replace_file, life))
        for store in world.stores.values():
            store.life = life
        await _one_life(world, life, steps, rate, seed, wait)
        assert world.broken == []
    for name, store in world.stores.items():
        for relation in (USERS, ORDERS):
            assert store.rows(relation.table) == world.server.expected(relation), name


async def _one_life(world: World, life: Life, steps: list[Step], rate: float, seed: int, wait: bool) -> None:
    source = MortalSource(world.server, life)
    points = ("open", "write.before", "write.after", "flush.before", "flush.after", "prepare")
    faults = Faults(rate=rate, seed=seed, points=points)
    sinks = {
        name: FaultySink(
            MortalSink(store, life, durable=KINDS[name][0], keeps_checkpoint=KINDS[name][1]), faults
        )
        for name, store in world.stores.items()
    }
    flow = Pipeline(source, sinks, world.folder, replace(SETTINGS, retry_limit=60.0))
    running = asyncio.create_task(flow.run())
    chance = random.Random(seed)
    try:
        for _ in range(200 if wait else 0):  # until it streams, if it gets that far
            if flow.status().ready or running.done():
                break
            await asyncio.sleep(0.001)
        for step, amount in steps:
            _take(world.server, source, chance, step, amount)
            for _ in range(amount):
                await asyncio.sleep(0)
            if life.dead.is_set():
                return
        faults.heal()
        reaching = asyncio.create_task(flow.wait_for(world.server.at, timeout=20))
        dying = asyncio.create_task(life.dead.wait())
        await asyncio.wait([reaching, dying, running], return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if not life.dead.is_set():
            assert not running.done(), running.exception()
            await reaching
            assert all(sink.state is SinkState.STREAMING for sink in flow.status().sinks)
            flow.stop()
            await running
            if not life.dead.is_set() and source.opened == 1:  # a stream was there to carry it
                assert world.server.confirmed == world.server.at
    finally:
        await _bury(life)


def _take(
    server: ScriptedServer, source: ScriptedSource, chance: random.Random, step: str, amount: int
) -> None:
    if step == "commit":
        server.put(chance.randrange(12), amount)
        server.commit(("delete", ORDERS, {"id": chance.randrange(6)}))
    elif step == "big":
        rows = [("insert", USERS, {"id": 50 + number, "n": amount}) for number in range(6)]
        server.commit(*rows, ("update", ORDERS, {"id": 1, "n": amount}), parts=amount + 1)
    elif step == "table":
        server.commit(("truncate", ORDERS, {}), ("insert", ORDERS, {"id": 1, "n": amount}))
    elif step == "source":
        source.fail(SourceUnavailable("cut"), after=amount)


async def _bury(life: Life) -> None:
    """What is left of the process ends without another durable word."""
    life.dead.set()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest)
    for task in rest:
        if not task.cancelled():
            task.exception()


def _mortal(write: Callable[..., None], life: Life) -> Callable[..., None]:
    def replace_unless_dead(*args: Any) -> None:
        life.check()
        write(*args)

    return replace_unless_dead
