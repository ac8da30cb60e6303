"""The pipeline's settings: frozen, with defaults that suit a server. `walcast.app` fills them from TOML and environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def _seconds(default: float, text: str) -> Any:
    return field(default=default, metadata={"unit": "seconds", "help": text})


def _says(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """How a pipeline behaves. Times are seconds, sizes bytes."""

    budget_bytes: int = field(default=64 << 20, metadata={"internal": True})
    """Memory for batches in all queues; each sink may hold an equal share."""
    stall_limit: float = _seconds(
        30.0, "a sink that makes no progress for so long is detached, so that the others go on"
    )
    retry_limit: float = _seconds(
        600.0, "how long a failing source or sink is tried again before it counts as stopped"
    )
    backoff_first: float = _seconds(0.1, "the wait before the first retry; it doubles")
    backoff_most: float = _seconds(10.0, "the longest wait between two retries")
    on_stall: Literal["hold", "release"] = _says(
        "hold",
        "a detached or stopped sink holds the slot (up to wal_budget), or is let go and copied anew later",
    )
    wal_budget: int | None = field(
        default=None,
        metadata={
            "unit": "bytes",
            "help": "retained WAL beyond which on_budget decides",
        },
    )
    on_budget: Literal["hold", "release", "drop"] = _says(
        "release",
        "at wal_budget: only warn; let the sinks go that hold the slot back, and copy them anew later; or, when that leaves "
        "nobody, drop the slot as well, so that the source is rid of its WAL at once",
    )
    wal_warning: float = _says(0.8, "part of wal_budget from which a warning is logged")
    snapshot: Literal["initial", "never"] = _says(
        "initial", "whether tables are copied before their changes are followed"
    )
    adopt_slot: bool = _says(
        False, "follow a slot that this state directory knows nothing of; every table is copied anew"
    )
    new_history: Literal["stop", "resnapshot"] = _says(
        "stop",
        "when the source is another system, or on a timeline that a copy has outrun: stop, or copy anew",
    )
    flush_idle: float = _seconds(
        0.005, "a sink that has only accepted its batches is flushed once nothing came for so long"
    )
    flush_interval: float = _seconds(0.1, "and at least so often while batches keep coming")
    save_interval: float = _seconds(
        0.05, "the least time between two checkpoints saved in the state directory"
    )
    stop_timeout: float = _seconds(10.0, "how long a clean stop waits for what is in a sink's hands")
    observe_interval: float = _seconds(
        5.0, "how often slot and source position are read for status and metrics"
    )
    hot_spare: bool = field(default=False, metadata={"internal": True})
    """Wait while another process has the state directory or the slot, instead of giving up."""
    serve: bool = field(default=True, metadata={"internal": True})
    """Serve the control socket in the state directory."""

    def __post_init__(self) -> None:
        if self.budget_bytes < 1 << 20:
            raise ValueError("budget_bytes is below 1 MB")
        if not 0 < self.wal_warning <= 1:
            raise ValueError("wal_warning is not between 0 and 1")
