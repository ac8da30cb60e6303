"""The suite finds sinks that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from walcast.model import UNCHANGED, Batch, Change, Checkpoint, Durability, FatalError, TableId
from walcast.testing.conformance import Row, SinkConformance
from walcast.testing.conformance.driver import Driver
from walcast.testing.memory import MemorySink, MemoryStore


class Forgetful(MemorySink):
    """Loses its checkpoint with every restart, and takes changes twice."""

    async def checkpoint(self) -> Checkpoint | None:
        return self._reached if self._reached is not self.store.checkpoint else None

    def _apply(self, change: Change) -> None:
        self.store.last = None
        super()._apply(change)


class Hasty(MemorySink):
    """Makes every part of a transaction durable as it comes."""

    async def write(self, batch: Batch) -> Durability:
        durability = await super().write(batch)
        self._commit()
        return durability


class Nulling(MemorySink):
    """Takes a value that was not sent for null."""

    def _apply(self, change: Change) -> None:
        for name, value in (change.new or {}).items():
            if value is UNCHANGED and change.new is not None:
                change.new[name] = None
        super()._apply(change)


class Hoarding(MemorySink):
    """Ignores truncates."""

    def _apply(self, change: Change) -> None:
        if change.op != "truncate":
            super()._apply(change)


class Adding(MemorySink):
    """Does not empty the table for a new snapshot."""

    async def write(self, batch: Batch) -> Durability:
        held = {table: dict(rows) for table, rows in self.store.tables.items()}
        durability = await super().write(batch)
        if batch.kind == "snapshot":
            for table, rows in held.items():
                self.store.tables[table] = {**rows, **self.store.tables.get(table, {})}
        return durability


class Suite(SinkConformance):
    __test__ = False
    guarantee = "exactly once"

    async def read(self, place: MemoryStore, table: TableId) -> list[Row]:
        return [
            {name: None if value is None else str(value) for name, value in row.items()}
            for row in place.rows(table)
        ]

    def make_sink(self, place: Any) -> Any:
        raise AssertionError("the driver has its own")


@pytest.mark.parametrize(
    ("sink", "case"),
    [
        (Forgetful, "test_delivered_again_and_cut_differently"),
        (Forgetful, "test_a_crash_between_any_two_steps"),
        (Hasty, "test_a_crash_between_parts"),
        (Nulling, "test_unchanged_toast_stays"),
        (Hoarding, "test_truncate"),
        (Adding, "test_a_snapshot_replaces_what_was_there"),
    ],
)
async def test_a_wrong_sink_fails(sink: type[MemorySink], case: str) -> None:
    store = MemoryStore()
    driver = Driver(lambda: sink(store))
    with pytest.raises((AssertionError, FatalError)):  # FatalError: the store itself refuses
        await getattr(Suite(), case)(driver, store)
