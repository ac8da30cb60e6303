"""What an error means for the pipeline: the one table. What it does not know is fatal."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from walcast.model import (
    ConfigError,
    DecodeError,
    FatalError,
    Fenced,
    NodeUnavailable,
    OperatorError,
    RetryableError,
    SinkUnavailable,
    SlotInUse,
    SlotLost,
    SourceUnavailable,
    SplitBrain,
    SpoolFull,
    TableStopped,
    TokenInvalid,
    ValueRangeError,
    ValuesMissing,
    WalcastError,
    WriteLost,
)


class Action(enum.Enum):
    """RETRY: again with backoff, bounded in time. OPERATOR: a person has to act. FATAL: a defect; stop."""

    RETRY = "retry"
    OPERATOR = "operator"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an error and what to tell the operator. Holds no secret and no cell's value."""

    action: Action
    code: str
    message: str
    remedy: str


# The most special class wins. The remedy is used when the error brings no hint of its own.
POLICY: dict[type[BaseException], tuple[Action, str]] = {
    RetryableError: (Action.RETRY, "nothing; it is tried again"),
    SourceUnavailable: (Action.RETRY, "check that the source is running and can be reached"),
    SinkUnavailable: (Action.RETRY, "check that the target is running and can be reached"),
    SlotInUse: (Action.RETRY, "stop the other reader of the slot, or give this pipeline a slot of its own"),
    NodeUnavailable: (Action.RETRY, "check that the servers of the cluster are running and can be reached"),
    OperatorError: (Action.OPERATOR, "see the message; start again once it is put right"),
    ConfigError: (Action.OPERATOR, "correct the configuration and start again"),
    TokenInvalid: (Action.OPERATOR, "take a token with `walcast token`"),
    WriteLost: (Action.OPERATOR, "write it again, or look for it on the old primary"),
    SplitBrain: (Action.OPERATOR, "stop the server that was replaced, and rejoin it as a replica"),
    SlotLost: (Action.OPERATOR, "changes were lost: copy the tables anew with `walcast resync --all`"),
    Fenced: (Action.OPERATOR, "stop the other pipeline that writes to this target"),
    SpoolFull: (Action.OPERATOR, "free disk space or raise the spool's limit, then start again"),
    ValueRangeError: (Action.OPERATOR, "let the column travel as text, or correct the value at the source"),
    TableStopped: (Action.OPERATOR, "put the table right and copy it anew with `walcast resync TABLE`"),
    ValuesMissing: (Action.OPERATOR, "copy the table anew with `walcast resync TABLE`"),
    FatalError: (Action.FATAL, "report it, with the log"),
    DecodeError: (Action.FATAL, "report it, with the server's version and the log"),
    ConnectionError: (Action.RETRY, "check that the other side is running and can be reached"),
    TimeoutError: (Action.RETRY, "check that the other side is running and not overloaded"),
    PermissionError: (Action.OPERATOR, "give the process access to the file named in the log"),
    BlockingIOError: (Action.RETRY, "nothing; it is tried again"),
}
_UNKNOWN = (Action.FATAL, "report it, with the log")
_FULL = (Action.OPERATOR, "free disk space, then start again")


def classify(error: BaseException) -> Verdict:
    """The verdict on an error. The text of errors that are not Walcast's own is left out: it may quote data."""
    action, remedy = _UNKNOWN
    for kind in type(error).__mro__:
        if kind in POLICY:
            action, remedy = POLICY[kind]
            break
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        action, remedy = _FULL
    if isinstance(error, WalcastError):
        return Verdict(action, error.code, error.message, error.hint or remedy)
    detail = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    return Verdict(action, type(error).__name__, f"unexpected {type(error).__name__}{detail}", remedy)
