"""The handler sink's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from walcast.model.deadletter import LIMIT, RowPolicy
from walcast.sinks.handlers.registry import Handlers


@dataclass(frozen=True, slots=True)
class HandlerSinkConfig:
    """Python functions that are called for every change."""

    handlers: str | Handlers = field(
        metadata={"help": "where the handlers are: module:attribute, such as app.changes:handlers"}
    )
    concurrency: int = field(
        default=16, metadata={"help": "how many handlers run at the same time; changes of one row never do"}
    )
    timeout: float = field(
        default=0.0, metadata={"help": "how long a handler may take; 0 for no limit", "unit": "seconds"}
    )
    retries: int = field(
        default=3, metadata={"help": "how often a failed handler is tried again before `on_error` decides"}
    )
    backoff: float = field(
        default=0.1,
        metadata={"help": "the wait before the first retry; it doubles with each", "unit": "seconds"},
    )
    backoff_limit: float = field(
        default=10.0, metadata={"help": "the longest wait between retries", "unit": "seconds"}
    )
    on_error: RowPolicy = field(
        default="stop",
        metadata={
            "help": "what becomes of a change whose handler keeps failing: this sink stops, or the change is set aside as a dead "
            "letter and later ones of its row wait, or its position is logged and it is skipped"
        },
    )
    dead_letter_limit: int = field(
        default=LIMIT,
        metadata={"help": "the table stops when more changes than this would be set aside"},
    )

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if self.dead_letter_limit < 0:
            raise ValueError("dead_letter_limit must not be negative")
        if self.retries < 0 or min(self.timeout, self.backoff, self.backoff_limit) < 0:
            raise ValueError("retries, timeout and waits must not be negative")
