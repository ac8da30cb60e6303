"""What the suite asks of a sink's author, and how a copy is compared with the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from walcast.model import Sink, SinkContext, SourceIdentity, TableId
from walcast.testing.conformance.driver import Driver
from walcast.testing.conformance.logs import told
from walcast.testing.conformance.world import Event, Row, World


@pytest.mark.asyncio
class Conformance:
    """The flags and hooks; see `SinkConformance`."""

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

    sets_aside: ClassVar[bool] = False
    """Whether a sink as `make_sink` makes it refuses text that is no JSON in a json column, and sets such rows aside."""

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
            assert in_any_order(await self.read(place, table)) == in_any_order(rows), f"{table} differs"


def in_any_order(rows: Sequence[Row]) -> list[list[tuple[str, bool, str]]]:
    return sorted(sorted((name, value is None, value or "") for name, value in row.items()) for row in rows)
