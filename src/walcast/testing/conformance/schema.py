"""Tables that change."""

from __future__ import annotations

from typing import Any

import pytest

from walcast.testing.batches import INT8
from walcast.testing.conformance.base import Conformance, in_any_order
from walcast.testing.conformance.driver import Crash, Driver
from walcast.testing.conformance.scenarios import NOTES, USERS
from walcast.testing.conformance.world import Col, World, changed


class SchemaCases(Conformance):
    """Tables that change."""

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
        assert in_any_order(found) == in_any_order(world.rows[table.id]), "the copy did not follow"

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
