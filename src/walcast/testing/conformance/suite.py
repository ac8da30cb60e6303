"""The suite that every sink passes. See `SinkConformance`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from walcast.model import (
    Batch,
    OperatorError,
    RetryableError,
    Sink,
    SinkContext,
    SourceIdentity,
    TableId,
)
from walcast.testing.batches import INT4, INT8
from walcast.testing.conformance.driver import STEPS, Crash, Driver
from walcast.testing.conformance.logs import told
from walcast.testing.conformance.world import Col, Event, Row, Tab, World, changed

USERS = Tab("users", (Col("id", INT4, key=True), Col("name"), Col("body", toast=True), Col("score", INT8)))
NOTES = Tab("notes", (Col("id", INT4, key=True), Col("user_id", INT4), Col("text")), oid=16410)
MARKS = Tab("marks", (Col("at", INT8), Col("what")), identity="n", oid=16420)
PAIRS = Tab("pairs", (Col("a", INT4), Col("b"), Col("c", toast=True)), identity="f", oid=16430)


class SinkConformance:
    """Subclass it in a test module, say what the sink promises, and pytest runs the suite.

        class TestMySink(SinkConformance):
            guarantee = "exactly once"

            def make_sink(self, place):
                return MySink(MySinkConfig(place / "file"), self.context())

            async def read(self, place, table):
                return [{"id": "1", "name": "ann"}]      # every row, values as PostgreSQL's text, None for null

    `make_sink` is called again after each crash and must give a new object on the same target. `place` is a fixture:
    a fresh folder, or override it with whatever tells `make_sink` and `read` where the target is.
    """

    guarantee: ClassVar[Literal["exactly once", "versioned", "at least once"]] = "at least once"
    """What repeated delivery does: nothing; nothing, since rows have versions; repeat changes in a log."""

    keeps: ClassVar[Literal["state", "log"]] = "state"
    """The last state of each row (then write `read`), or every change (then write `read_log`)."""

    order: ClassVar[Literal["commit", "key"]] = "commit"
    """Whether a log has all changes in commit order, or only those of each row."""

    follows_schema: ClassVar[bool] = True
    """Whether tables are altered as the source's are: columns added, dropped, renamed, widened."""

    keyless: ClassVar[bool] = True
    """Whether tables without a key can be copied, with updates and deletes under REPLICA IDENTITY FULL."""

    def make_sink(self, place: Any) -> AbstractAsyncContextManager[Sink]:
        """A new sink on the target at `place`."""
        raise NotImplementedError

    async def read(self, place: Any, table: TableId) -> list[Row]:
        """All rows of the copy of a table; none when there is no copy. The sink is closed."""
        raise NotImplementedError

    async def read_log(self, place: Any) -> list[Event]:
        """All changes that the target was told. The sink is closed."""
        raise NotImplementedError

    def context(self) -> SinkContext:
        return SinkContext("conformance", "copy", SourceIdentity(7_000_000_000, 1, 180000, "app"), ".")

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        return tmp_path

    @pytest.fixture
    def driver(self, place: Any) -> Driver:
        return Driver(lambda: self.make_sink(place))

    async def expect(self, place: Any, world: World) -> None:
        """The copy is what the world is; a log has told all that happened."""
        if self.keeps == "log":
            told(
                await self.read_log(place),
                world.events,
                self.order,
                repeats=self.guarantee == "at least once",
            )
            return
        for table, rows in world.rows.items():
            assert _sorted(await self.read(place, table)) == _sorted(rows), f"{table} differs"

    async def test_changes_arrive_in_order(self, driver: Driver, place: Any) -> None:
        world = everyday()
        await driver.deliver(world.batches(batch_bytes=1))
        await self.expect(place, world)

    async def test_many_transactions_in_one_batch(self, driver: Driver, place: Any) -> None:
        world = everyday()
        await driver.deliver(world.batches())
        await self.expect(place, world)

    async def test_values_that_are_sent_as_text(self, driver: Driver, place: Any) -> None:
        world = everyday(binary=False)
        await driver.deliver(world.batches(batch_bytes=1))
        await self.expect(place, world)

    async def test_delivered_again_and_cut_differently(self, driver: Driver, place: Any) -> None:
        world = everyday()
        frames = world.recorded()
        await driver.deliver(world.decoded(frames, batch_bytes=1))
        await driver.deliver(world.decoded(frames, batch_bytes=1))
        await driver.deliver(world.decoded(frames))
        await self.expect(place, world)

    async def test_a_crash_between_any_two_steps(self, driver: Driver, place: Any) -> None:
        world = everyday()
        batches = world.batches(batch_bytes=1)
        for number in range(len(batches)):
            for step in STEPS:
                with pytest.raises(Crash):
                    await driver.deliver(batches, crash=(number, step))
        await driver.deliver(batches)
        await self.expect(place, world)

    async def test_after_a_crash_batches_are_cut_differently(self, driver: Driver, place: Any) -> None:
        world = everyday()
        frames = world.recorded()
        batches = world.decoded(frames, batch_bytes=1)
        for step in STEPS:
            with pytest.raises(Crash):
                await driver.deliver(batches, crash=(2, step))
            with pytest.raises(Crash):
                await driver.deliver(world.decoded(frames, batch_bytes=300), crash=(1, step))
        await driver.deliver(world.decoded(frames))
        await self.expect(place, world)

    async def test_a_transaction_in_parts(self, driver: Driver, place: Any) -> None:
        world, batches = in_parts()
        await driver.deliver(batches)
        await self.expect(place, world)

    async def test_a_crash_between_parts(self, driver: Driver, place: Any) -> None:
        world, batches = in_parts()
        for number in range(len(batches)):
            with pytest.raises(Crash):
                await driver.deliver(batches, crash=(number, "write"))
        await driver.deliver(batches)
        await self.expect(place, world)

    async def test_parts_that_begin_again(self, driver: Driver, place: Any) -> None:
        """The stream broke off between parts and was opened again, while the sink stayed open."""
        world, batches = in_parts()
        await driver.deliver([*batches[:3], *batches[1:]])
        await self.expect(place, world)

    async def test_a_snapshot_in_chunks_and_the_stream_after_it(self, driver: Driver, place: Any) -> None:
        world, early = snapshotted()
        start, chunks = world.snapshot(USERS, 4)
        first, second, third, last = chunks
        middle = [second, third] if self.keeps == "log" else [third, second]  # they come in any order
        await driver.snapshot(USERS.id, start, [first, *middle, last])
        world.events = [event for event in world.events if event.op == "snapshot"]
        with world.transaction():
            world.update(USERS, {"id": "3"}, name="later")
            world.delete(USERS, {"id": "4"})
        await driver.deliver([*early, *world.batches()])
        await self.expect(place, world)

    async def test_a_snapshot_that_was_broken_off_begins_anew(self, driver: Driver, place: Any) -> None:
        if self.keeps == "log":
            pytest.skip("a log cannot take back what it told")
        world, _ = snapshotted()
        start, chunks = world.snapshot(USERS, 3)
        for number in range(2):
            with pytest.raises(Crash):
                await driver.snapshot(USERS.id, start, chunks, crash=number)
        await driver.snapshot(USERS.id, start, chunks)
        await self.expect(place, world)

    async def test_a_snapshot_replaces_what_was_there(self, driver: Driver, place: Any) -> None:
        world, early = snapshotted()
        await driver.deliver(early)
        world.rows[USERS.id] = world.rows[USERS.id][:3]
        start, chunks = world.snapshot(USERS, 1)
        await driver.snapshot(USERS.id, start, chunks)
        await self.expect(place, world)

    async def test_an_empty_table(self, driver: Driver, place: Any) -> None:
        world = World()
        world.table(USERS)
        start, chunks = world.snapshot(USERS, 1)
        await driver.snapshot(USERS.id, start, chunks)
        await self.expect(place, world)

    async def test_truncate(self, driver: Driver, place: Any) -> None:
        world = World()
        world.table(USERS)
        with world.transaction():
            for number in range(3):
                world.insert(USERS, id=str(number), name="before")
        with world.transaction():
            world.truncate(USERS)
        first = world.batches(batch_bytes=1)
        with world.transaction():
            world.insert(USERS, id="1", name="between")
            world.truncate(USERS)
            world.insert(USERS, id="1", name="after")
            world.update(USERS, {"id": "1"}, score="1")
        await driver.deliver([*first, *world.batches()])
        await self.expect(place, world)

    async def test_truncate_cascades(self, driver: Driver, place: Any) -> None:
        world = everyday()
        with world.transaction():
            world.truncate(USERS, NOTES, cascade=True)
            world.insert(NOTES, id="9", text="new")
        await driver.deliver(world.batches(batch_bytes=1))
        await self.expect(place, world)

    async def test_unchanged_toast_stays(self, driver: Driver, place: Any) -> None:
        world = World()
        world.table(USERS)
        with world.transaction():
            world.insert(USERS, id="1", name="a", body="long " * 100)
            world.insert(USERS, id="2", name="b", body=None)
        first = world.batches()
        with world.transaction():
            world.update(USERS, {"id": "1"}, name="a2")
            world.update(USERS, {"id": "2"}, name="b2")
            world.insert(USERS, id="3", name="c", body="in the same batch")
            world.update(USERS, {"id": "3"}, name="c2")
            world.update(USERS, {"id": "1"}, score="5")
        with world.transaction():
            world.update(USERS, {"id": "2"}, body="now long " * 100)
            world.update(USERS, {"id": "2"}, name="b3")
        await driver.deliver([*first, *world.batches()])
        await self.expect(place, world)

    async def test_a_key_changes(self, driver: Driver, place: Any) -> None:
        world = World()
        world.table(USERS)
        with world.transaction():
            for number in range(1, 7):
                world.insert(USERS, id=str(number), name=f"n{number}", body=f"body {number} " * 50)
        first = world.batches()
        with world.transaction():
            world.update(USERS, {"id": "1"}, id="101")
            world.update(USERS, {"id": "2"}, id="102", name="moved", body="sent")
            world.update(USERS, {"id": "101"}, id="201", score="7")
            world.update(USERS, {"id": "201"}, name="moved twice")
            world.insert(USERS, id="1", name="takes the old key", body="new body")
            world.update(USERS, {"id": "3"}, id="-3")  # two rows swap their keys
            world.update(USERS, {"id": "4"}, id="3")
            world.update(USERS, {"id": "-3"}, id="4")
            world.update(USERS, {"id": "5"}, id="105")
            world.delete(USERS, {"id": "105"})
            world.insert(USERS, id="8", name="made and moved", body="kept")
            world.update(USERS, {"id": "8"}, id="108")
            world.update(USERS, {"id": "6"}, name="stays")
        await driver.deliver([*first, *world.batches()])
        await self.expect(place, world)

    async def test_a_key_changes_under_full_identity(self, driver: Driver, place: Any) -> None:
        world, full = World(), replace(USERS, identity="f")
        world.table(full)
        with world.transaction():
            for number in range(1, 4):
                world.insert(full, id=str(number), body=f"body {number} " * 50)
        first = world.batches()
        with world.transaction():
            world.update(full, {"id": "1"}, id="11")
            world.update(full, {"id": "2"}, name="same key")
            world.delete(full, {"id": "3"})
        with world.transaction():
            world.update(full, {"id": "11"}, score="3")
        await driver.deliver([*first, *world.batches()])
        await self.expect(place, world)

    async def test_one_key_many_times_in_one_batch(self, driver: Driver, place: Any) -> None:
        world = World()
        world.table(USERS)
        with world.transaction():
            world.insert(USERS, id="1", name="held", body="old")
            world.insert(USERS, id="2", name="held", body="old")
        first = world.batches()
        with world.transaction():
            world.delete(USERS, {"id": "1"})
            world.insert(USERS, id="1", name="again")
            world.update(USERS, {"id": "1"}, name="and again")
            world.update(USERS, {"id": "2"}, name="last words")
            world.delete(USERS, {"id": "2"})
            world.insert(USERS, id="3", name="brief")
            world.delete(USERS, {"id": "3"})
            world.insert(USERS, id="4", name="one")
            world.delete(USERS, {"id": "4"})
            world.insert(USERS, id="4", name="two", body="b")
            world.update(USERS, {"id": "4"}, score="4")
        await driver.deliver([*first, *world.batches()])
        await self.expect(place, world)

    async def test_a_table_without_a_key(self, driver: Driver, place: Any) -> None:
        if not self.keyless:
            pytest.skip("this sink needs keys")
        world = World()
        world.table(MARKS)
        world.table(PAIRS)
        with world.transaction():
            for number in range(5):
                world.insert(MARKS, at=str(number // 2), what="tick")
                world.insert(PAIRS, a="1", b=None, c="same " * 50)
                world.insert(PAIRS, a=None, b="x")
        first = world.batches()
        with world.transaction():
            world.insert(MARKS, at="0", what=None)
            world.update(PAIRS, {"a": "1"}, b="one of five")
            world.delete(PAIRS, {"a": None, "b": "x"})
            world.update(PAIRS, {"a": None, "b": "x"}, a="2")
            world.delete(PAIRS, {"a": "1", "b": None})
            world.insert(PAIRS, a="3", b="brief")
            world.delete(PAIRS, {"a": "3"})
        with world.transaction():
            world.update(PAIRS, {"a": "2"}, b="y", c="z")
        await driver.deliver([*first, *world.batches()])
        await self.expect(place, world)

    async def test_an_idle_batch_moves_the_checkpoint(self, driver: Driver, place: Any) -> None:
        world = everyday()
        idle = world.idle()
        await driver.deliver([*world.batches(), idle, world.idle()])
        async with self.make_sink(place) as sink:
            held = await driver.held(sink)
        assert held is not None
        assert idle.checkpoint is not None
        assert held.through > idle.checkpoint.through
        await self.expect(place, world)

    async def test_a_batch_of_messages_only(self, driver: Driver, place: Any) -> None:
        world = everyday()
        with world.transaction():
            world.message("prefix", b"content")
        with world.transaction():
            world.insert(NOTES, id="77", text="after it")
        await driver.deliver(world.batches(batch_bytes=1))
        await self.expect(place, world)

    async def test_odd_names_and_values(self, driver: Driver, place: Any) -> None:
        table = Tab(
            'a "quoted" täble',
            (Col("Id", INT4, key=True), Col("_op"), Col('it"s'), Col("select"), Col("end\n")),
            schema="My Schema",
        )
        world = World()
        world.table(table)
        values = ["", " ", "a\nb\tc\\n\r", 'say "hi", it\'s', "é 漢字 🐘", "\\N", "{}", "x" * 70_000]
        with world.transaction():
            for number, value in enumerate(values):
                world.insert(table, Id=str(number), **{"_op": value, 'it"s': value, "end\n": value})
        with world.transaction():
            world.update(table, {"Id": "1"}, select="changed")
            world.delete(table, {"Id": "2"})
        await driver.deliver(world.batches(batch_bytes=1))
        await self.expect(place, world)

    async def test_columns_are_added_dropped_renamed_and_widened(self, driver: Driver, place: Any) -> None:
        if not self.follows_schema or self.keeps == "log":
            pytest.skip("the target has no schema to follow")
        world = World()
        world.table(USERS)
        with world.transaction():
            world.insert(USERS, id="1", name="a", body="b", score="1")
        batches = list(world.batches())
        for columns in (
            (*changed(USERS).columns, Col("city", attnum=5), Col("tag", attnum=6, missing="none")),
            (*changed(USERS).columns[:2], Col("text", toast=True, attnum=3), Col("score", INT8, attnum=4)),
            (Col("id", INT8, key=True, attnum=1), Col("body", attnum=2), Col("name", attnum=3)),
        ):
            table = world.table(changed(USERS, columns=columns))
            row = str(len(batches) + 1)
            with world.transaction():
                world.insert(table, id=row, **{columns[1].name: f"row {row}"})
                world.update(table, {"id": "1"}, **{columns[1].name: f"version {row}"})
            batches += world.batches()
        for number in range(len(batches)):
            with pytest.raises(Crash):
                await driver.deliver(batches, crash=(number, "prepare"))
        await driver.deliver(batches)
        names = {column.name for column in table.columns}
        found = [{k: v for k, v in row.items() if k in names} for row in await self.read(place, table.id)]
        assert _sorted(found) == _sorted(world.rows[table.id]), "the copy did not follow"

    async def test_a_schema_changes_within_a_transaction(self, driver: Driver, place: Any) -> None:
        if not self.follows_schema:
            pytest.skip("the target has no schema to follow")
        world = World()
        world.table(NOTES)
        with world.transaction():
            world.insert(NOTES, id="1", text="before")
            table = world.table(changed(NOTES, columns=(*changed(NOTES).columns, Col("more", attnum=4))))
            world.insert(table, id="2", text="after", more="more")
            world.update(table, {"id": "1"}, more="too")
        batches = world.batches()
        with pytest.raises(Crash):
            await driver.deliver(batches, crash=(len(batches) - 1, "prepare"))
        await driver.deliver(batches)
        await self.expect(place, world)

    async def test_a_new_history_begins_below_the_old_one(self, driver: Driver, place: Any) -> None:
        world = everyday()
        await driver.deliver(world.batches())
        world.new_history()
        with world.transaction():
            world.insert(NOTES, id="500", text="after a failover")
            world.update(USERS, {"id": "0"}, name="after a failover")
        batches = world.batches()
        await driver.deliver(batches)
        await driver.deliver(batches)
        await self.expect(place, world)

    async def test_closed_in_the_middle_of_a_write(self, driver: Driver, place: Any) -> None:
        world = World()
        world.table(USERS)
        for start in range(0, 6000, 1500):
            with world.transaction():
                for number in range(start, start + 1500):
                    world.insert(USERS, id=str(number), name="x" * 20, body="y" * 40)
        batches = world.batches(batch_bytes=1)
        for wait in (0.0, 0.001, 0.005, 0.02):
            session = asyncio.create_task(driver.deliver(batches))
            await asyncio.sleep(wait)
            session.cancel()
            await asyncio.wait([session], timeout=30)
            assert session.done(), "a sink must close within seconds"
        await driver.deliver(batches)
        await self.expect(place, world)

    async def _second(self, place: Any, first: Sink, batches: Sequence[Batch]) -> None:
        """Opens another sink, lets the first one write, then writes the same with the other."""
        async with self.make_sink(place) as second:
            await _whole(first, batches)
            await _whole(second, batches)

    async def test_a_second_writer_is_fenced(self, driver: Driver, place: Any) -> None:
        if self.guarantee != "exactly once":
            pytest.skip("only exactly once needs a single writer")
        world = everyday()
        batches = world.batches(batch_bytes=1)
        await driver.deliver(batches[:1])
        async with self.make_sink(place) as first:
            with pytest.raises((OperatorError, RetryableError)):
                await self._second(place, first, batches[1:2])
        await driver.deliver(batches)
        await self.expect(place, world)


def everyday(binary: bool = True) -> World:
    """Several tables, several transactions, each operation."""
    world = World(binary=binary)
    world.table(USERS)
    world.table(NOTES)
    with world.transaction():
        for number in range(4):
            world.insert(USERS, id=str(number), name=f"user {number}", body="body " * 30, score=str(number))
    with world.transaction():
        world.insert(NOTES, id="1", user_id="1", text="note")
        world.update(USERS, {"id": "1"}, score=None)
        world.insert(NOTES, id="2", user_id="2", text="it's")
    with world.transaction():
        world.update(USERS, {"id": "2"}, name="", score="-9223372036854775808")
        world.delete(USERS, {"id": "3"})
        world.update(NOTES, {"id": "1"}, text=None)
    with world.transaction():
        world.insert(USERS, id="3", name="again")
        world.delete(NOTES, {"id": "2"})
    return world


def in_parts() -> tuple[World, list[Batch]]:
    """A small transaction, one that comes in several parts, and a small one."""
    world = World()
    world.table(USERS)
    world.table(NOTES)
    with world.transaction():
        for number in range(5):
            world.insert(USERS, id=str(number), name="small", body="b" * 100)
    with world.transaction():
        for number in range(100, 180):
            world.insert(USERS, id=str(number), name=f"big {number}", body="x" * 50)
            world.update(USERS, {"id": str(number % 5)}, name=f"from {number}")
        for number in range(100, 140):
            world.update(USERS, {"id": str(number)}, score=str(number))
            world.delete(USERS, {"id": str(number + 40)})
            world.insert(NOTES, id=str(number), text="note")
    with world.transaction():
        world.delete(USERS, {"id": "100"})
    batches: list[Batch] = list(world.batches(part_bytes=4000, batch_bytes=1))
    assert sum(batch.part is not None for batch in batches) > 3
    return world, batches


def snapshotted() -> tuple[World, list[Batch]]:
    """A table of twenty rows, and the transaction that made them."""
    world = World()
    world.table(USERS)
    with world.transaction():
        for number in range(20):
            world.insert(USERS, id=str(number), name=f"user {number}", body="b" * 60, score=str(number))
    return world, list(world.batches())


async def _whole(sink: Sink, batches: Sequence[Batch]) -> None:
    for batch in batches:
        for relation in batch.relations:
            await sink.prepare(relation)
        await sink.write(batch)
        await sink.flush()


def _sorted(rows: Sequence[Row]) -> list[list[tuple[str, bool, str]]]:
    return sorted(sorted((name, value is None, value or "") for name, value in row.items()) for row in rows)
