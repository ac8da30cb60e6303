"""The suite that every store of documents, vertices or edges passes: after any history, with any crashes, it holds what a
rebuild from scratch would."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from walcast.engine.mapped import MappedSink, mapped_sink
from walcast.mapping import DataMapping
from walcast.model.derived import DerivedStore
from walcast.testing.conformance.driver import STEPS, Crash, Driver
from walcast.testing.conformance.histories import MAPPING, Content, History, HistoryReader, Identity


@pytest.mark.asyncio
class DerivedConformance:
    """Subclass it in a test module: `make_store` gives a store that is not open, on the target at `place`, and `content` reads
    the target while nobody has it open."""

    mapping: ClassVar[DataMapping] = MAPPING
    seeds: ClassVar[int] = 5

    def make_store(self, place: Any) -> DerivedStore:
        raise NotImplementedError

    async def content(self, place: Any) -> Content:
        raise NotImplementedError

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        return tmp_path

    def sinks(self, place: Any, history: History) -> Driver:
        """Sessions of a sink over that store."""
        reader = HistoryReader(history)
        return Driver(lambda: self.make_sink(place, reader))

    def make_sink(self, place: Any, reader: HistoryReader, mapping: DataMapping | None = None) -> MappedSink:
        return mapped_sink(self.make_store(place), mapping or self.mapping, reader)

    async def expect(self, place: Any, history: History, mapping: DataMapping | None = None) -> None:
        """The store holds what a rebuild would."""
        kinds = type(self.make_store(place)).kinds
        assert await self.content(place) == await history.expected(mapping or self.mapping, kinds)

    @pytest.mark.parametrize("identity", ["d", "f"])
    async def test_after_any_history_it_equals_a_rebuild(self, make_place: Any, identity: Identity) -> None:
        for seed in range(self.seeds):
            place, history = make_place(), History(seed, identity=identity)
            driver = self.sinks(place, history)
            await driver.deliver(history.batches())
            history.go_on(6)
            await driver.deliver(history.batches(part_bytes=500))
            await self.expect(place, history)

    async def test_after_any_crash_it_equals_a_rebuild(self, make_place: Any) -> None:
        for seed in range(100, 100 + self.seeds):
            place, history = make_place(), History(seed, identity="d" if seed % 2 else "f")
            driver, frames = self.sinks(place, history), history.world.recorded()
            history.told = len(history.states) - 1
            for _ in range(4):
                size = history.random.choice((1, 2000, 1 << 20))
                batches = history.world.decoded(
                    frames, part_bytes=history.random.choice((600, 1 << 20)), batch_bytes=size
                )
                at = history.random.randrange(len(batches)), history.random.choice(STEPS)
                with pytest.raises(Crash):
                    await driver.deliver(batches, crash=at)
            await driver.deliver(history.world.decoded(frames))
            await self.expect(place, history)

    async def test_a_first_copy_and_the_stream_after_it(self, make_place: Any) -> None:
        for seed in range(200, 200 + self.seeds):
            place, history = make_place(), History(seed)
            driver = self.sinks(place, history)
            early = history.batches()
            chunks = {t.id: history.snapshot(t) for t in history.tables.values()}
            history.go_on(5)
            for table in history.random.sample(list(chunks), len(chunks)):
                start, batches = chunks[table]
                for crash in history.random.sample(range(len(batches)), history.random.randint(0, 1)):
                    with pytest.raises(Crash):
                        await driver.snapshot(table, start, batches, crash=crash)
                await driver.snapshot(table, start, batches)
            await driver.deliver([*early, *history.batches()])
            await self.expect(place, history)

    async def test_what_was_below_a_document_is_truncated_or_copied_anew(self, make_place: Any) -> None:
        for anew in (False, True):
            place, history = make_place(), History(0, transactions=0)
            world, tables = history.world, history.tables
            driver = self.sinks(place, history)
            with world.transaction():
                for table in tables.values():
                    world.truncate(table)
                for number in ("1", "2"):
                    world.insert(tables["posts"], id=number, title="post")
                    world.insert(tables["comments"], id=number, post_id=number, text="comment")
                    world.insert(tables["tags"], id=number, label="tag")
                    world.insert(tables["post_tags"], post_id=number, tag_id=number)
            history.noted()
            await driver.deliver(history.batches())
            await self.expect(place, history)
            with world.transaction():
                for name in ("comments", "post_tags"):
                    if anew:
                        world.delete(tables[name], dict(world.rows[tables[name].id][0]))
                    else:
                        world.truncate(tables[name])
            history.noted()
            if anew:
                for name in ("comments", "post_tags"):
                    start, chunks = history.snapshot(tables[name])
                    await driver.snapshot(tables[name].id, start, chunks)
            await driver.deliver(history.batches())
            await self.expect(place, history)

    async def test_another_mapping_is_filled_while_the_old_one_serves(self, make_place: Any) -> None:
        place, history = make_place(), History(7)
        history.plenty()
        driver = self.sinks(place, history)
        await driver.deliver(history.batches())
        before = await self.content(place)
        changed = self.changed_mapping()
        reader = HistoryReader(history)
        async with self.make_sink(place, reader, changed) as sink:
            await sink.filled()
        assert await self.content(place) != before
        await self.expect(place, history, changed)
        history.go_on(5)
        driver.make = lambda: self.make_sink(place, reader, changed)
        await driver.deliver(history.batches())
        await self.expect(place, history, changed)

    def changed_mapping(self) -> DataMapping:
        """The mapping with a target changed, one dropped and one added."""
        from dataclasses import replace

        from walcast.mapping import Document, Vertex

        posts, people = self.mapping.documents["posts"], self.mapping.documents["people"]
        return replace(
            self.mapping,
            documents={
                "posts": replace(posts, fields={"heading": "title"}),
                "people": people,
                "tags": Document("app.tags"),
            },
            vertices={**self.mapping.vertices, "User": Vertex("app.users", fields={"bio": "bio"})},
        )

    @pytest.fixture
    def make_place(self, place: Any, tmp_path: Path) -> Any:
        """Gives one fresh target after the other."""
        made: list[Path] = []

        def make() -> Any:
            made.append(tmp_path / str(len(made)))
            made[-1].mkdir()
            return made[-1]

        return make
