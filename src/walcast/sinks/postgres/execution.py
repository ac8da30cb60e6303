"""Runs what a transaction holds, and knows which table a failure is about."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from walcast.sinks.postgres.bulk import TableStep, Work
from walcast.sinks.postgres.failures import StatementFailed
from walcast.sinks.postgres.plan import Plan
from walcast.sinks.postgres.rows import RowCommand
from walcast.sinks.postgres.session import Command, Session, Step

log = logging.getLogger("walcast.sinks")


class Failed(Exception):
    """A statement failed; `plan` is the table's that it was about, None for the transaction's own."""

    def __init__(self, failure: StatementFailed, plan: Plan | None) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.plan = plan


class Executor:
    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, opening: list[Command], made: Work, closing: list[Command]) -> None:
        """Scripts first, in one round trip with their COPYs; then single commands, in another. Raises Failed."""
        for plan, stage in made.stages:
            if stage not in plan.staged:
                self._session.query(plan.create_stage(stage))
                plan.staged.add(stage)
        if made.steps:
            tail = [] if made.rows else closing
            steps = [
                *(TableStep(_step(command), None) for command in opening),
                *made.steps,
                *(TableStep(_step(command), None) for command in tail),
            ]
            self._steps(steps)
            opening = []
        if made.rows or not made.steps:
            self.rows(opening, made.rows, closing)

    def _steps(self, steps: list[TableStep]) -> None:
        try:
            self._session.script([step for step, _ in steps])
        except StatementFailed as failure:
            plan = steps[failure.step].plan if failure.step < len(steps) else None
            raise Failed(failure, plan) from None

    def rows(self, opening: list[Command], rows: list[Iterator[RowCommand]], closing: list[Command]) -> None:
        """A pipeline. Rows that were to be there and were not are told in the log."""
        sent: list[RowCommand | None] = []

        def commands() -> Iterator[Command]:
            for command in opening:
                sent.append(None)
                yield command
            for some in rows:
                for row in some:
                    sent.append(row)
                    yield row.command
            for command in closing:
                sent.append(None)
                yield command

        try:
            touched = self._session.pipeline(commands())
        except StatementFailed as failure:
            row = sent[failure.step] if failure.step < len(sent) else None
            raise Failed(failure, row.plan if row is not None else None) from None
        lost: dict[str, int] = {}
        for row, count in zip(sent, touched, strict=True):
            if row is not None and row.finds and count == 0:
                table = str(row.plan.relation)
                lost[table] = lost.get(table, 0) + 1
        for table, count in lost.items():
            log.warning("rows_missing_at_copy", extra={"table": table, "rows": count})


def _step(command: Command) -> Step:
    """A command without values of rows, as a statement of a script."""
    prepared = command.prepared
    if prepared.utility:
        return Step(prepared.statement)
    literals = b", ".join(_literal(value) for value in command.params)
    call = b"(" + literals + b")" if literals else b""
    return Step(b'execute "' + prepared.name.encode() + b'"' + call, None, prepared)


def _literal(value: bytes | None) -> bytes:
    return b"null" if value is None else b"'" + value.replace(b"'", b"''") + b"'"
