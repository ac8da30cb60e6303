"""What a comparison found: plain values, for text, JSON and HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

KINDS = ("missing", "extra", "different", "duplicate")


@dataclass(slots=True)
class Row:
    """A row that differs. `key` and `columns` map names to values as text; of columns: source's and copy's, empty texts
    unless values were asked for."""

    kind: str
    key: dict[str, str]
    columns: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    repaired: bool = False


@dataclass(slots=True)
class TableReport:
    """One table.

    `state`: equal, different, repaired (every difference was), unsettled (some of it changed too often to be compared),
    skipped (`reason` says why). `first` and `last` are the positions of its first and last fence, `ranges` the spans
    compared, `differences` counts by kind; `listed` are the first of them. `not_compared`: columns that the copy does
    not hold.
    """

    table: str
    state: str = "equal"
    reason: str | None = None
    rows: int = 0
    copy_rows: int = 0
    ranges: int = 0
    fences: int = 0
    first: str | None = None
    last: str | None = None
    seconds: float = 0.0
    differences: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    listed: list[Row] = field(default_factory=list)
    repaired: int = 0
    unsettled_rows: int = 0
    unsettled_ranges: int = 0
    not_compared: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All differences found."""
        return sum(self.differences.values())

    def settle(self) -> None:
        """Sets the state from the counts."""
        if self.state == "skipped":
            return
        if self.total > self.repaired:
            self.state = "different"
        elif self.unsettled_rows or self.unsettled_ranges:
            self.state = "unsettled"
        else:
            self.state = "repaired" if self.total else "equal"

    @classmethod
    def of(cls, value: dict[str, Any]) -> Self:
        """From its JSON."""
        rows = [
            Row(
                row["kind"],
                row["key"],
                {name: tuple(pair) for name, pair in row["columns"].items()},
                row["repaired"],
            )
            for row in value["listed"]
        ]
        return cls(**{**value, "listed": rows})


@dataclass(slots=True)
class Report:
    """A whole comparison of one sink with its source. Times are Unix times, seconds."""

    sink: str
    kind: str
    source: str
    system_id: str
    timeline: int
    started: float
    ended: float = 0.0
    tables: list[TableReport] = field(default_factory=list)
    repair: bool = False

    @property
    def state(self) -> str:
        """equal, or the worst of the tables: different, unsettled, skipped, repaired."""
        states = {table.state for table in self.tables}
        return next((s for s in ("different", "unsettled", "skipped", "repaired") if s in states), "equal")

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def differences(self) -> int:
        return sum(table.total for table in self.tables)

    @classmethod
    def of(cls, value: dict[str, Any]) -> Self:
        """From its JSON (`plain`)."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name != "tables"}
        return cls(**known, tables=[TableReport.of(table) for table in value["tables"]])


def plain(report: Report) -> dict[str, Any]:
    """As JSON values, with the sums."""
    from dataclasses import asdict

    return {**asdict(report), "state": report.state, "rows": report.rows, "differences": report.differences}
