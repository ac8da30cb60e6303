"""The suite that every sink passes."""

from __future__ import annotations

from walcast.testing.conformance.delivery import DeliveryCases
from walcast.testing.conformance.refusals import RefusalCases
from walcast.testing.conformance.rows import RowCases
from walcast.testing.conformance.schema import SchemaCases
from walcast.testing.conformance.snapshots import SnapshotCases


class SinkConformance(DeliveryCases, RowCases, SnapshotCases, SchemaCases, RefusalCases):
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
