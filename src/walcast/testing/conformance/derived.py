"""The suite that every store of documents, vertices or edges passes: after any history, with any crashes, it holds what a
rebuild from scratch would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from walcast.decode import NATIVE, TWIN
from walcast.decode.letters import letter_batch
from walcast.engine.ahead import ReadAhead
from walcast.engine.aside import Aside
from walcast.engine.compared import Compared, Item
from walcast.engine.deadfile import FileDeadLetters
from walcast.engine.mapped import MappedSink, mapped_sink
from walcast.engine.metrics import Metrics
from walcast.mapping import DataMapping, Document, Vertex
from walcast.model import SourceIdentity, TableId
from walcast.model.derived import DerivedStore, Key, Put, Row, version_of
from walcast.testing.conformance.driver import STEPS, Crash, Driver
from walcast.testing.conformance.histories import MAPPING, Content, History, HistoryReader, Identity


@pytest.mark.asyncio
class DerivedConformance:
    """Subclass it in a test module: `make_store` gives a store that is not open, on the target at `place`, and `content` reads
    the target while nobody has it open."""

    mapping: ClassVar[DataMapping] = MAPPING
    seeds: ClassVar[int] = 5
    in_place: ClassVar[bool] = False
    """A collection that is made anew is filled where the old one is, not beside it."""
    too_long: ClassVar[int] = 0
    """Bytes of an id that the store refuses; 0: it takes any."""

    def make_store(self, place: Any) -> DerivedStore:
        raise NotImplementedError

    async def content(self, place: Any) -> Content:
        raise NotImplementedError

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        return tmp_path

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        """Where it is kept what was read ahead of the stream: for each reader a file."""
        self._folder = tmp_path

    def sinks(self, place: Any, history: History) -> Driver:
        """Sessions of a sink over that store."""
        reader = HistoryReader(history)
        return Driver(lambda: self.make_sink(place, reader))

    def make_sink(self, place: Any, reader: HistoryReader, mapping: DataMapping | None = None) -> MappedSink:
        file = self._folder / f"{reader.number}.shown.json"
        identity = SourceIdentity(7_000_000_000, 1, 180000, "app")
        return mapped_sink(
            self.make_store(place), mapping or self.mapping, reader, ahead=ReadAhead(file, identity)
        )

    async def expect(self, place: Any, history: History, mapping: DataMapping | None = None) -> None:
        """The store holds what a rebuild would."""
        kinds = type(self.make_store(place)).kinds
        assert await self.content(place) == await history.expected(mapping or self.mapping, kinds)

    @pytest.mark.parametrize("identity", ["d", "f"])
    async def test_after_any_history_it_equals_a_rebuild(self, make_place: Any, identity: Identity) -> None:
        for seed in range(self.seeds):
            place, history = make_place(), History(seed, identity=identity)
            driver = self.sinks(place, history)
            driver.lazy = Random(seed)
            await driver.deliver(history.batches())
            history.go_on(6)
            await driver.deliver(history.batches(part_bytes=500))
            await self.expect(place, history)

    async def test_after_any_crash_it_equals_a_rebuild(self, make_place: Any) -> None:
        for seed in range(100, 100 + self.seeds):
            place, history = make_place(), History(seed, identity="d" if seed % 2 else "f")
            driver, frames = self.sinks(place, history), history.world.recorded()
            driver.lazy = Random(seed) if seed % 3 else None
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

    async def test_what_differs_from_the_source_is_found_and_mended(self, make_place: Any) -> None:
        place, history = make_place(), History(11)
        history.plenty()
        batches = history.batches()
        await self.sinks(place, history).deliver(batches)
        assert batches[-1].checkpoint is not None
        version = version_of(1, batches[-1].checkpoint.through)
        async with self.make_sink(place, HistoryReader(history)) as sink:
            compared = Compared(sink, version)
            assert await _differing(sink, compared) == set()
            harmed = set()
            for target in sink.plan.targets:
                for name, made in target.collections.items():
                    ids = await compared.ids(target, name, None)
                    ends = None if made.ends is None else ("1", "2")
                    put = Put(name, "900:900", {}, (), made.told.ends("900:900") if made.told else ends)
                    await sink.put_right([put], [(name, ids[0])], version)
                    harmed |= {(name, "900:900"), (name, ids[0])}
            assert await _differing(sink, compared) == harmed
            for target in sink.plan.targets:
                mine = [Item(*item) for item in harmed if item[0] in target.collections]
                pairs = await compared.items(target, mine)
                assert not any(pair.equal for pair in pairs.values())
                await compared.mend(target, mine)
            assert await _differing(sink, compared) == set()
        await self.expect(place, history)

    async def test_what_it_can_never_hold_is_set_aside_until_it_can(
        self, make_place: Any, tmp_path: Path
    ) -> None:
        if not self.too_long:
            pytest.skip("the store takes any id")
        place, history = make_place(), History(0, transactions=0)
        mapping = DataMapping(
            documents={"things": Document("app.tags", id=("label",))},
            vertices={"Thing": Vertex("app.tags", id=("label",))},
        )
        world, tags = history.world, history.tables["tags"]
        with world.transaction():
            for number, label in enumerate(("a", "x" * self.too_long, "c")):
                world.insert(tags, id=str(number), label=label)
        history.noted()
        with world.transaction():
            world.update(tags, {"id": "1"}, label="b")
        history.noted()
        batches = history.world.batches(batch_bytes=1)
        history.told = len(history.states) - 1
        async with self.make_sink(place, HistoryReader(history), mapping) as sink:
            aside = Aside("copy", sink, sink.policies, FileDeadLetters(tmp_path / "dead"), {}, Metrics())
            await aside.load()
            for batch in batches:
                await aside.write(batch)
                await sink.flush()
            assert [letter.raw.op for letter in aside.letters.values()] == [b"I", b"U"]
            assert {letter.code for letter in aside.letters.values()} == {"KeyTooLong", ""}
        held = await self.content(place)
        assert held
        assert all(set(items) == {"a", "c"} for items in held.values())
        async with self.make_sink(place, HistoryReader(history), mapping) as sink:
            aside = Aside("copy", sink, sink.policies, FileDeadLetters(tmp_path / "dead"), {}, Metrics())
            await aside.load()
            for number, letter in list(aside.letters.items()):
                again = letter_batch(letter, tags.relation(), NATIVE or TWIN)
                assert await aside.again(number, again) is None
            assert aside.letters == {}
        await self.expect(place, history, mapping)

    async def test_another_mapping_is_filled_while_the_old_one_serves(
        self, make_place: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed while it is filled, too, after one page, after two, and so on, with what was written so far durable."""
        place, history = make_place(), History(7)
        history.plenty()
        driver = self.sinks(place, history)
        await driver.deliver(history.batches())
        before = await self.content(place)
        changed = self.changed_mapping()
        after = await history.expected(changed, type(self.make_store(place)).kinds)
        monkeypatch.setattr("walcast.engine.derive.SLICE", 1)
        crashes, killed = 0, True
        while killed:
            async with self.make_sink(place, BreakingReader(history, crashes + 1), changed) as sink:
                try:
                    await sink.filled()
                    killed = False
                except Crash:
                    crashes += 1
                await sink.store.flush()
            during = await self.content(place)
            kept = before.keys() & sink.plan.collections.keys()
            assert {name: before[name].keys() - during[name].keys() for name in kept} == {
                name: set() for name in kept
            }, "what is there before and after is there meanwhile"
            if not self.in_place:
                assert all(during[name] in (before[name], after[name]) for name in kept)
        assert crashes >= 2
        reader = HistoryReader(history)
        assert await self.content(place) != before
        await self.expect(place, history, changed)
        history.go_on(5)
        driver.make = lambda: self.make_sink(place, reader, changed)
        await driver.deliver(history.batches())
        await self.expect(place, history, changed)

    async def test_what_was_read_ahead_of_the_stream_is_not_made_twice(self, make_place: Any) -> None:
        place, history = make_place(), History(3)
        history.plenty()
        driver = self.sinks(place, history)
        await driver.deliver(history.batches())
        world, tables = history.world, history.tables
        for number in ("901", "902"):
            with world.transaction():
                world.insert(tables["users"], id=number, name=number)
                world.insert(tables["follows"], a_id=number, b_id="901", since=number)
                world.insert(
                    tables["comments"], id=number, author_id=number, friend_id="901", lang="en", text="new"
                )
            history.noted()
        later = history.batches()
        edges = {name: replace(edge, fields={}) for name, edge in self.mapping.edges.items()}
        changed = replace(self.mapping, edges=edges)
        reader = HistoryReader(history)
        async with self.make_sink(place, reader, changed) as sink:
            await sink.filled()
        driver.make = lambda: self.make_sink(place, reader, changed)
        await driver.deliver(later)
        await self.expect(place, history, changed)

    def changed_mapping(self) -> DataMapping:
        """The mapping with a target changed, one dropped and one added."""
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


class BreakingReader(HistoryReader):
    """Ends with a crash when so many pages were read."""

    def __init__(self, history: History, pages: int) -> None:
        super().__init__(history)
        self._left = pages

    async def page(
        self, table: TableId, columns: Sequence[str], key: Sequence[str], after: Key | None, limit: int
    ) -> Sequence[Row]:
        if not self._left:
            raise Crash
        self._left -= 1
        return await super().page(table, columns, key, after, limit)


async def _differing(sink: MappedSink, compared: Compared) -> set[tuple[str, str]]:
    """The items in which the store differs from the source, page by page."""
    found: set[tuple[str, str]] = set()
    for target in sink.plan.targets:
        after: Key | None = None
        pairs, after = await compared.page(target, after)
        assert after is None, "small tables"
        seen = set(pairs)
        for name in target.collections:
            ids = await compared.ids(target, name, None)
            assert len(set(ids)) == len(ids)
            others = {Item(name, id_) for id_ in ids} - seen
            pairs |= await compared.items(target, others)
        found |= {(item.collection, item.id) for item, pair in pairs.items() if not pair.equal}
    return found
