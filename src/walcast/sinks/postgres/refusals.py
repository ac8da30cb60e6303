"""Which rows of a batch the target refuses: they are written one by one, and taken back, up to each that fails.

    savepoint - rows - one fails - back - rows before it again - on with the row after it

Only errors about the row count: data exceptions (class 22) and integrity violations (class 23).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from walcast.model import Batch, Refusal, RefusalKind
from walcast.sinks.postgres.execution import Failed
from walcast.sinks.postgres.failures import StatementFailed
from walcast.sinks.postgres.plan import Plan
from walcast.sinks.postgres.rows import RowCommand, RowMaker
from walcast.sinks.postgres.session import Session

_KINDS: Final[dict[str, RefusalKind]] = {"22": "data", "23": "integrity"}
_WINDOW: Final = 256
"""Rows that are sent at a time: what follows a failed one was sent in vain."""

_MARK: Final = b"savepoint walcast_row"
_BACK: Final = b"rollback to savepoint walcast_row"
_ON: Final = b"release savepoint walcast_row"


def refusal_kind(failure: StatementFailed) -> RefusalKind | None:
    """What is wrong with the row; None: the failure is not about a row."""
    return _KINDS.get(failure.sqlstate[:2])


def find(session: Session, batch: Batch, plans: Sequence[Plan | None], most: int) -> list[Refusal]:
    """The rows that are refused when the batch is replayed in commit order, at most so many; in the open transaction, which
    holds the others then. Raises Failed for any other error."""
    rows = _commands(batch, plans)
    found: list[Refusal] = []
    start = 0
    while start < len(rows) and len(found) < most:
        window = rows[start : start + _WINDOW]
        failed = _run(session, window)
        if failed is None:
            start += len(window)
            continue
        at, failure = failed
        kind = refusal_kind(failure)
        if kind is None:
            raise Failed(failure, window[at][1].plan)
        again = _run(session, window[:at])
        if again is not None:
            raise Failed(again[1], window[again[0]][1].plan)
        found.append(Refusal(window[at][0], kind, failure.sqlstate, failure.safe_message))
        start += at + 1
    return found


def _commands(batch: Batch, plans: Sequence[Plan | None]) -> list[tuple[int, RowCommand]]:
    """The commands with their changes' places in the batch."""
    makers = [RowMaker(plan) if plan is not None else None for plan in plans]
    rows = []
    for place, raw in enumerate(batch.raw()):
        maker = makers[raw.relation] if raw.op != b"M" else None
        command = maker.change(raw) if maker is not None else None
        if command is not None:
            rows.append((place, command))
    return rows


def _run(session: Session, rows: Sequence[tuple[int, RowCommand]]) -> tuple[int, StatementFailed] | None:
    """All of them or none; which one failed."""
    session.query(_MARK)
    try:
        session.pipeline(row.command for _, row in rows)
    except StatementFailed as failure:
        session.query(_BACK, _ON)
        return failure.step, failure
    session.query(_ON)
    return None
