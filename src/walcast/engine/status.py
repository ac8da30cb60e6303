"""What a pipeline looks like from outside: one immutable picture, for status, health, the console and exit codes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from walcast.model import Checkpoint, Lsn, SourceIdentity


class SinkState(enum.Enum):
    """Where a sink stands."""

    OPENING = "opening"
    COPYING = "copying"
    STREAMING = "streaming"
    RETRYING = "retrying"
    DETACHED = "detached"
    PAUSED = "paused"
    STOPPED = "stopped"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and what to do about it."""

    code: str
    message: str
    remedy: str
    action: str = "operator"


@dataclass(frozen=True, slots=True)
class StoppedTable:
    """A table that could not go on in one sink, until it is copied anew."""

    table: str
    position: str | None
    reason: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class TableProgress:
    """A table's snapshot in one sink. `total` is an estimate."""

    table: str
    rows: int
    total: int
    state: str


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink. `lag_seconds` is the age of the oldest commit that it has been sent and is not yet durable, 0 when
    there is none; `latency` are quantiles (0.5, 0.99) of commit to durable over the latest batches, seconds."""

    name: str
    state: SinkState
    checkpoint: Checkpoint | None
    lag_bytes: int | None
    lag_seconds: float
    latency: tuple[float | None, float | None]
    rows: int
    batches: int
    transactions: int
    retries: int
    queue_bytes: int
    stopped_tables: tuple[StoppedTable, ...]
    snapshot: tuple[TableProgress, ...]
    error: Problem | None
    dead_letters: int = 0
    oldest_dead_letter: float = 0.0
    """Its age, seconds."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The source. `position` is its WAL insert position when last asked, `wal_rate` the bytes of WAL a second that it wrote
    in the last `wal_watched` seconds (at most a day); None: it was not watched yet."""

    identity: SourceIdentity | None
    epoch: int
    slot: str | None
    confirmed: Lsn | None
    retained: int | None
    wal_status: str | None
    position: Lsn | None
    streaming: bool
    error: Problem | None
    wal_rate: float | None = None
    wal_watched: float = 0.0


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """The whole pipeline at one moment. `state`: starting, waiting (hot spare), running, stopping, stopped."""

    name: str
    state: str
    source: SourceStatus
    sinks: tuple[SinkStatus, ...]
    taken: float

    def sink(self, name: str) -> SinkStatus:
        """Raises KeyError when there is none of that name."""
        for sink in self.sinks:
            if sink.name == name:
                return sink
        raise KeyError(name)

    @property
    def ready(self) -> bool:
        """Every sink has its copy and follows the stream."""
        return self.state == "running" and all(sink.state is SinkState.STREAMING for sink in self.sinks)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that a person has to act on: errors that stopped something, and stopped tables."""
        found = [self.source.error] if self.source.error is not None else []
        for sink in self.sinks:
            if sink.error is not None and sink.state in (SinkState.STOPPED, SinkState.RELEASED):
                found.append(sink.error)
            found.extend(
                Problem(
                    "TableStopped", f"sink {sink.name}, table {table.table}: {table.reason}", table.hint or ""
                )
                for table in sink.stopped_tables
            )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values: LSNs and checkpoints in their text form, states by name."""
        value = plain(self)
        assert isinstance(value, dict)
        return value


def plain(value: Any) -> Any:
    """Dataclasses, enums, LSNs and checkpoints as JSON values."""
    if isinstance(value, Checkpoint):
        return {
            "epoch": value.epoch,
            "commit_lsn": str(value.position.commit_lsn),
            "ordinal": value.position.ordinal,
            "through": str(value.through),
        }
    if isinstance(value, Lsn):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, int) and value >= 1 << 53:
        return str(value)  # a system identifier: most readers of JSON would round it
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
