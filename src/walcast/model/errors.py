"""The error tree. The class says what the engine does about it; `hint` says what a person can do."""

from __future__ import annotations

from walcast.model.lsn import Position
from walcast.model.relation import TableId


class WalcastError(Exception):
    """Base of every error raised on purpose. `message` says what happened and where, `hint` what to do about it.

    Neither ever holds a secret or a cell's value.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def code(self) -> str:
        """The constant name by which logs, metrics and the reference call it."""
        return type(self).__name__


class RetryableError(WalcastError):
    """It may pass by itself: tried again with backoff, bounded in time."""


class OperatorError(WalcastError):
    """A person has to act; trying again unchanged cannot help."""


class FatalError(WalcastError):
    """A defect or an impossible state; Walcast stops."""


class ConfigError(OperatorError):
    """The configuration is wrong. The message names file, line and key."""


class SourceUnavailable(RetryableError):
    """The source cannot be reached, is starting, or is shutting down."""


class SinkUnavailable(RetryableError):
    """The target cannot be reached or asks to be left alone."""


class TokenInvalid(ConfigError):
    """The text is not a token, or its signature is not ours."""


class WriteLost(OperatorError):
    """The write that a token stands for is in no copy, and never will be: it was lost when a standby was promoted."""


class SplitBrain(OperatorError):
    """Two servers of one cluster take writes on one timeline, or a write went to a primary that had been replaced."""


class NodeUnavailable(RetryableError):
    """No server of the cluster can serve this read or write now."""


class SlotLost(OperatorError):
    """The slot is gone, invalidated, or is not the one that the checkpoint belongs to: data would be skipped."""


class SlotInUse(RetryableError):
    """Another process holds the slot."""


class Fenced(OperatorError):
    """Somebody else wrote the target's checkpoint: a second pipeline is at work on it."""


class SpoolFull(OperatorError):
    """A streamed transaction outgrew the spool's disk budget, or the disk is full."""


class DecodeError(FatalError):
    """Bytes that are not the protocol's. `offset` is the byte within the message."""

    def __init__(self, message: str, *, offset: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class ValueRangeError(OperatorError):
    """A value does not fit the type that a setting narrowed it to."""


class TableStopped(OperatorError):
    """One table cannot go on; the others do. Recorded durably; the table returns by re-snapshot."""

    def __init__(
        self, table: TableId, message: str, *, position: Position | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.table = table
        self.position = position


class ValuesMissing(TableStopped):
    """What the copy's older rows hold in some column was not sent. The table goes on if all its rows come again."""
