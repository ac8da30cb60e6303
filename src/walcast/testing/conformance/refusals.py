"""Rows that the target can never take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from walcast.engine.aside import Aside, LostWithIt
from walcast.engine.deadfile import FileDeadLetters
from walcast.engine.metrics import Metrics
from walcast.model import Batch, Checkpoint, KeepsDeadLetters, Refusal, SetsAside, TableId
from walcast.testing.batches import INT4
from walcast.testing.conformance.base import Conformance
from walcast.testing.conformance.driver import Crash
from walcast.testing.conformance.world import Col, Tab, World

_JSON = 114
DOCS = Tab("docs", (Col("id", INT4, key=True), Col("doc", _JSON), Col("note")), oid=16440)
_BAD = "{not json"


class RefusalCases(Conformance):
    """Rows that the target can never take. They ask for a sink that sets aside what it cannot hold: see `sets_aside`."""

    async def test_a_refused_row_is_set_aside_and_its_key_waits(self, place: Any, tmp_path: Path) -> None:
        self._asked_for()
        world = _docs()
        letters = await self._deliver(place, world.batches(batch_bytes=1), tmp_path)
        assert letters == [("I", '["2"]'), ("U", '["2"]')]
        _without(world, "2")
        await self.expect(place, world)

    async def test_several_in_one_batch(self, place: Any, tmp_path: Path) -> None:
        self._asked_for()
        world = World()
        world.table(DOCS)
        with world.transaction():
            for number in range(40):
                world.insert(DOCS, id=str(number), doc=_BAD if number % 10 == 3 else "[1]")
        letters = await self._deliver(place, world.batches(), tmp_path)
        assert [key for _, key in letters] == ['["3"]', '["13"]', '["23"]', '["33"]']
        _without(world, "3", "13", "23", "33")
        await self.expect(place, world)

    async def test_in_a_transaction_in_parts(self, place: Any, tmp_path: Path) -> None:
        self._asked_for()
        world = World()
        world.table(DOCS)
        with world.transaction():
            for number in range(60):
                world.insert(DOCS, id=str(number), doc=_BAD if number in (1, 50) else "[1]", note="x" * 200)
        letters = await self._deliver(place, world.batches(part_bytes=4000), tmp_path)
        assert [key for _, key in letters] == ['["1"]', '["50"]']
        _without(world, "1", "50")
        await self.expect(place, world)

    async def test_in_a_snapshot(self, place: Any, tmp_path: Path) -> None:
        self._asked_for()
        world = World()
        world.table(DOCS)
        with world.transaction():
            for number in range(20):
                world.insert(DOCS, id=str(number), doc=_BAD if number == 12 else "[1]")
        world.batches()
        _, chunks = world.snapshot(DOCS, 4)
        for crash in range(2 * len(chunks)):  # after each the copy begins anew
            with suppress(Crash):
                await self._deliver(place, chunks, tmp_path, crash=crash)
        letters = await self._deliver(place, chunks, tmp_path)
        assert letters == [("R", '["12"]')]
        _without(world, "12")
        await self.expect(place, world)

    async def test_a_crash_at_any_time_leaves_the_row_in_one_of_two_places(
        self, place: Any, tmp_path: Path
    ) -> None:
        self._asked_for()
        world = _docs()
        batches = world.batches(batch_bytes=1)
        for crash in range(2 * len(batches)):
            with suppress(Crash):
                await self._deliver(place, batches, tmp_path, crash=crash)
        letters = await self._deliver(place, batches, tmp_path)
        assert letters == [("I", '["2"]'), ("U", '["2"]')]
        _without(world, "2")
        await self.expect(place, world)

    def _asked_for(self) -> None:
        if not self.sets_aside:
            pytest.skip("the sink sets no rows aside")

    async def _deliver(
        self, place: Any, batches: Sequence[Batch], folder: Path, crash: int | None = None
    ) -> list[tuple[str, str]]:
        """As the pipeline does it, until the sink has lost nothing more; the letters' operations and first keys.

        `crash`: after which step; a write is one, and so is a flush."""
        suspects: dict[tuple[TableId, Any], Refusal] = {}
        while True:
            try:
                return await self._session(place, batches, folder, crash, suspects)
            except LostWithIt:
                continue

    async def _session(
        self,
        place: Any,
        batches: Sequence[Batch],
        folder: Path,
        crash: int | None,
        suspects: dict[tuple[TableId, Any], Refusal],
    ) -> list[tuple[str, str]]:
        async with self.make_sink(place) as sink:
            assert isinstance(sink, SetsAside)
            store = (
                sink.dead_letters()
                if isinstance(sink, KeepsDeadLetters)
                else FileDeadLetters(folder / "dead.jsonl")
            )
            aside = Aside("copy", sink, sink.policies, store, suspects, Metrics())
            await aside.load()
            held: Checkpoint | None = await sink.checkpoint()
            step = 0
            for batch in batches:
                rest = batch.after(held, {})
                if rest is None:
                    continue
                for relation in rest.relations:
                    await sink.prepare(relation)
                await aside.write(rest)
                if crash == step:
                    raise Crash
                if batch.part is None or batch.part.last:
                    await sink.flush()
                if crash == step + 1:
                    raise Crash
                step += 2
            return [(letter.raw.op.decode(), letter.keys[0]) for letter in await store.load()]


def _docs() -> World:
    world = World()
    world.table(DOCS)
    with world.transaction():
        world.insert(DOCS, id="1", doc="{}", note="fine")
    with world.transaction():
        world.insert(DOCS, id="2", doc=_BAD, note="bad")
        world.insert(DOCS, id="3", doc="[3]", note="fine")
    with world.transaction():
        world.update(DOCS, {"id": "2"}, doc="[2]")
        world.update(DOCS, {"id": "3"}, note="changed")
    return world


def _without(world: World, *ids: str) -> None:
    """What the copy should be: without the rows that wait."""
    world.rows[DOCS.id] = [row for row in world.rows[DOCS.id] if row["id"] not in ids]
