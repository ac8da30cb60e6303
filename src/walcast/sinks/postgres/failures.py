"""What a failed statement means: SQLSTATE -> the error tree, with a remedy.

Primary messages of class 22 (data exceptions) and all DETAIL fields can quote a cell's value: they are left out.
"""

from __future__ import annotations

from typing import Final

from psycopg.pq import DiagnosticField
from psycopg.pq.abc import PGresult

from walcast.model import OperatorError, RetryableError, SinkUnavailable, WalcastError

UNIQUE_VIOLATION: Final = "23505"
EXCLUSION_VIOLATION: Final = "23P01"
FOREIGN_KEY_VIOLATION: Final = "23503"
DIVISION_BY_ZERO: Final = "22012"
INSUFFICIENT_PRIVILEGE: Final = "42501"
INVALID_TEXT: Final = "22P02"
NOT_SUPPORTED: Final = "0A000"
OBJECT_IN_USE: Final = "55006"
CHANGED_TABLE: Final = ("42P01", "42703", "42804", "42P10", "428C9", "3F000", "42P16")
"""Somebody altered the copy's table after it was looked at."""

_CONSTRAINT = "drop the constraint at the copy, or make the copy's other rows agree with the source"
_KINDS: Final[dict[str, tuple[type[WalcastError], str]]] = {
    "53100": (OperatorError, "free disk space at the target; nothing is lost, it goes on where it stopped"),
    "25006": (OperatorError, "the target is read-only or a standby: give the DSN of its primary"),
    INSUFFICIENT_PRIVILEGE: (OperatorError, "grant the sink's role what the message names, at the target"),
    "23502": (OperatorError, "drop the not-null constraint at the copy, or give the column a default"),
    "23514": (OperatorError, "drop the check constraint at the copy"),
    UNIQUE_VIOLATION: (OperatorError, _CONSTRAINT),
    EXCLUSION_VIOLATION: (OperatorError, _CONSTRAINT),
    FOREIGN_KEY_VIOLATION: (
        OperatorError,
        "drop the foreign key at the copy, or let the sink's role set session_replication_role",
    ),
    "08": (SinkUnavailable, "check that the target runs and can be reached"),
    "40": (RetryableError, "another session was in the way; the batch is sent again"),
    "53": (SinkUnavailable, "the target is short of connections or memory"),
    "55006": (RetryableError, "another session holds what the copy needs"),
    "55P03": (RetryableError, "another session holds a lock that the copy needs"),
    "57": (SinkUnavailable, "the target is starting, stopping, or was told to end the session"),
    "58": (OperatorError, "an input/output error at the target: see its log and its disk"),
}


class StatementFailed(Exception):
    """A statement's error as the server sent it. `step` is its number within the script or pipeline."""

    def __init__(self, result: PGresult | None, step: int = 0) -> None:
        self.step = step
        self.sqlstate = _field(result, DiagnosticField.SQLSTATE)
        self.primary = _field(result, DiagnosticField.MESSAGE_PRIMARY)
        self.schema = _field(result, DiagnosticField.SCHEMA_NAME)
        self.table = _field(result, DiagnosticField.TABLE_NAME)
        self.constraint = _field(result, DiagnosticField.CONSTRAINT_NAME)
        super().__init__(self.safe_message)

    @property
    def violation(self) -> bool:
        """A constraint stood in the way that another order of the changes may respect."""
        return self.sqlstate in (UNIQUE_VIOLATION, EXCLUSION_VIOLATION, FOREIGN_KEY_VIOLATION)

    @property
    def safe_message(self) -> str:
        """What the server said, without what may quote a cell's value."""
        where = f"{self.schema}.{self.table}" if self.table else "the table"
        if self.constraint:
            return f"{where} refused a row: constraint {self.constraint} (SQLSTATE {self.sqlstate})"
        if self.sqlstate[:2] in ("22", "23"):
            return f"{where} refused a value (SQLSTATE {self.sqlstate})"
        return f"{self.primary} (SQLSTATE {self.sqlstate})"

    def error(self, doing: str) -> WalcastError:
        """The error of the tree. What is not known stops the sink: trying again unchanged cannot help."""
        state = self.sqlstate
        kind, hint = (
            _KINDS.get(state)
            or _KINDS.get(state[:2])
            or (OperatorError, "see the message, and the target's log")
        )
        return kind(f"the copy in PostgreSQL, {doing}: {self.safe_message}", hint=hint)


def _field(result: PGresult | None, which: DiagnosticField) -> str:
    value = result.error_field(which) if result is not None else None
    return value.decode("utf-8", "replace") if value else ""
