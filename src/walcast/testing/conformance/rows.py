"""What may happen to a row, and to all rows at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from walcast.testing.batches import INT4
from walcast.testing.conformance.base import Conformance
from walcast.testing.conformance.driver import Driver
from walcast.testing.conformance.scenarios import MARKS, NOTES, PAIRS, USERS, everyday
from walcast.testing.conformance.world import Col, Tab, World


class RowCases(Conformance):
    """What may happen to a row, and to all rows at once."""

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
