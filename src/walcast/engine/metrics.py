"""What the pipeline counts, without any metrics library: `walcast.app` exposes the samples."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_RECENT = 4096

METRICS: dict[str, tuple[Kind, str, tuple[str, ...]]] = {
    "walcast_rows_total": ("counter", "Changes written", ("sink", "table", "op")),
    "walcast_batches_total": ("counter", "Batches written", ("sink",)),
    "walcast_transactions_total": ("counter", "Transactions written", ("sink",)),
    "walcast_bytes_total": ("counter", "Bytes of batches written", ("sink",)),
    "walcast_retries_total": ("counter", "Failures that were tried again", ("sink",)),
    "walcast_source_retries_total": ("counter", "Times the source was opened again after a failure", ()),
    "walcast_stream_opened_total": ("counter", "Times the replication stream was opened", ()),
    "walcast_latency_seconds": ("histogram", "From commit at the source to durable in the copy", ("sink",)),
    "walcast_lag_bytes": ("gauge", "WAL between the source's position and the checkpoint", ("sink",)),
    "walcast_lag_seconds": ("gauge", "Age of the oldest commit not yet durable", ("sink",)),
    "walcast_queue_bytes": ("gauge", "Batches in the sink's queue or not yet durable", ("sink",)),
    "walcast_up": ("gauge", "1 while the sink takes part, else 0", ("sink",)),
    "walcast_tables_stopped": ("gauge", "Tables that had to stop", ("sink",)),
    "walcast_dead_letters": ("gauge", "Rows set aside, and those that wait behind them", ("sink",)),
    "walcast_dead_letters_oldest_seconds": ("gauge", "Age of the oldest dead letter, 0 without", ("sink",)),
    "walcast_rows_set_aside_total": ("counter", "Rows that became dead letters", ("sink", "table", "kind")),
    "walcast_rows_skipped_total": ("counter", "Rows left out for good", ("sink", "table", "kind")),
    "walcast_slot_retained_bytes": ("gauge", "WAL that the slot keeps at the source", ()),
    "walcast_source_wal_bytes_per_second": (
        "gauge",
        "WAL that the source writes, since the start or of the last day",
        (),
    ),
    "walcast_verify_rounds_total": ("counter", "Comparisons with the source finished", ("sink",)),
    "walcast_verify_rows_total": ("counter", "Rows compared with the source", ("sink",)),
    "walcast_verify_differences": ("gauge", "Rows that differed when last compared", ("sink", "table")),
    "walcast_verify_unsettled": (
        "gauge",
        "Rows and ranges that changed too often to be compared",
        ("sink", "table"),
    ),
    "walcast_verify_repaired_total": ("counter", "Rows repaired", ("sink",)),
    "walcast_verify_last_seconds": ("gauge", "Unix time at which the last comparison ended", ("sink",)),
    "walcast_snapshot_rows": ("gauge", "Rows of the snapshot written", ("sink", "table")),
    "walcast_snapshot_tables_pending": ("gauge", "Tables yet to be copied", ("sink",)),
}


class Sample(NamedTuple):
    """One value to expose. Of a histogram `value` is the sum, `buckets` are (upper bound, cumulative count)."""

    name: str
    kind: Kind
    help: str
    labels: dict[str, str]
    value: float
    observations: int = 0
    buckets: tuple[tuple[float, int], ...] = ()


@dataclass(slots=True)
class Histogram:
    """Counts by bucket for ever, and the latest few thousand values for quantiles."""

    sum: float = 0.0
    count: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def observe(self, value: float) -> None:
        self.sum += value
        self.count += 1
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.recent.append(value)

    def quantile(self, q: float) -> float | None:
        """Of the latest values; None when there are none."""
        if not self.recent:
            return None
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class Metrics:
    """All values of one pipeline. Labels are given in the order that `METRICS` names them."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[str, ...]], float] = {}
        self._histograms: dict[tuple[str, tuple[str, ...]], Histogram] = {}

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        key = (name, labels)
        self._values[key] = self._values.get(key, 0.0) + by

    def set(self, name: str, *labels: str, to: float) -> None:
        self._values[(name, labels)] = to

    def get(self, name: str, *labels: str) -> float:
        return self._values.get((name, labels), 0.0)

    def total(self, name: str, first: str) -> float:
        """The sum over all values whose first label is this."""
        return sum(
            value for (known, labels), value in self._values.items() if known == name and labels[0] == first
        )

    def histogram(self, name: str, *labels: str) -> Histogram:
        return self._histograms.setdefault((name, labels), Histogram())

    def samples(self) -> Iterator[Sample]:
        """Every value, grouped by metric in the order of `METRICS`."""
        for name, (kind, text, labels) in METRICS.items():
            for (known, values), value in self._values.items():
                if known == name:
                    yield Sample(name, kind, text, _named(labels, values), value)
            for (known, values), histogram in self._histograms.items():
                if known == name:
                    yield Sample(
                        name,
                        kind,
                        text,
                        _named(labels, values),
                        histogram.sum,
                        histogram.count,
                        _cumulative(histogram),
                    )


def _named(labels: tuple[str, ...], values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(labels, values, strict=True))


def _cumulative(histogram: Histogram) -> tuple[tuple[float, int], ...]:
    total, buckets = 0, []
    for bound, count in zip((*BUCKETS, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return tuple(buckets)
