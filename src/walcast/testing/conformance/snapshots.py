"""Tables copied in chunks."""

from __future__ import annotations

from typing import Any

import pytest

from walcast.testing.conformance.base import Conformance
from walcast.testing.conformance.driver import Crash, Driver
from walcast.testing.conformance.scenarios import USERS, twenty_users
from walcast.testing.conformance.world import World


class SnapshotCases(Conformance):
    """Tables copied in chunks."""

    async def test_a_snapshot_in_chunks_and_the_stream_after_it(self, driver: Driver, place: Any) -> None:
        world, early = twenty_users()
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
        world, _ = twenty_users()
        start, chunks = world.snapshot(USERS, 3)
        for number in range(2):
            with pytest.raises(Crash):
                await driver.snapshot(USERS.id, start, chunks, crash=number)
        await driver.snapshot(USERS.id, start, chunks)
        await self.expect(place, world)

    async def test_a_snapshot_replaces_what_was_there(self, driver: Driver, place: Any) -> None:
        world, early = twenty_users()
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
