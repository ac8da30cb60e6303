"""Every change once and in order, whatever is cut, repeated or broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from walcast.model import Batch, OperatorError, RetryableError, Sink
from walcast.testing.conformance.base import Conformance
from walcast.testing.conformance.driver import STEPS, Crash, Driver
from walcast.testing.conformance.scenarios import NOTES, USERS, everyday, in_parts
from walcast.testing.conformance.world import World


class DeliveryCases(Conformance):
    """Every change once and in order, whatever is cut, repeated or broken off."""

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


async def _whole(sink: Sink, batches: Sequence[Batch]) -> None:
    for batch in batches:
        for relation in batch.relations:
            await sink.prepare(relation)
        await sink.write(batch)
        await sink.flush()
