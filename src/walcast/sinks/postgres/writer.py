"""Applies batches in transactions of the target, each with its checkpoint.

A batch is tried the fastest way first. A violated constraint rolls it back, and the next way is tried:

    straight   fresh rows by COPY into the table; a row that is there already ends it
    staged     all rows by way of a temporary table; rows that swap unique values end it
    displaced  rows taken out and put back; not where triggers or foreign keys act
    replay     single changes in commit order

All of it blocks; the sink calls it in its thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import NoReturn

from walcast.model import (
    Batch,
    Builds,
    Checkpoint,
    DeadLetter,
    Durability,
    Fenced,
    OperatorError,
    Relation,
    RetryableError,
    RowsRefused,
    TableStopped,
)
from walcast.sinks.postgres.bulk import Mode, TableStep, Work, work
from walcast.sinks.postgres.config import PostgresSinkConfig
from walcast.sinks.postgres.ddl import Preparer
from walcast.sinks.postgres.execution import Executor, Failed
from walcast.sinks.postgres.failures import (
    CHANGED_TABLE,
    DIVISION_BY_ZERO,
    FOREIGN_KEY_VIOLATION,
    INSUFFICIENT_PRIVILEGE,
    INVALID_TEXT,
    NOT_SUPPORTED,
    StatementFailed,
)
from walcast.sinks.postgres.labels import labels
from walcast.sinks.postgres.origin import Origin
from walcast.sinks.postgres.plan import Plan
from walcast.sinks.postgres.refusals import find, refusal_kind
from walcast.sinks.postgres.rows import in_order
from walcast.sinks.postgres.session import Command, Prepared, Session, Step
from walcast.sinks.postgres.store import SCHEMA, Store

log = logging.getLogger("walcast.sinks")

_BEGIN = Command(Prepared("walcast_begin", b"begin", utility=True))
_COMMIT = Command(Prepared("walcast_commit", b"commit", utility=True))
_DEFER = Command(Prepared("walcast_defer", b"set constraints all deferred", utility=True))
_SAVE = Command(Prepared("walcast_save", b"savepoint walcast_part", utility=True))
_RELEASE = Command(Prepared("walcast_release", b"release savepoint walcast_part", utility=True))
_WAYS: tuple[Mode, ...] = ("straight", "staged", "displaced", "replay")
_FEW_WAYS: tuple[Mode, ...] = ("replay", "displaced")


class Writer:
    """One session's writes. After any error but TableStopped it is of no more use: the sink is opened again."""

    def __init__(
        self,
        session: Session,
        store: Store,
        config: PostgresSinkConfig,
        role: str,
        origin: Origin,
        builds: Builds,
    ) -> None:
        self.held: Checkpoint | None = None
        """The checkpoint that the target holds, as far as this session knows."""
        self.in_parts = False
        """A transaction is open for a source transaction that comes in parts."""
        self.unflushed = False
        self._session = session
        self._store = store
        self._config = config
        self._role = role
        self._origin = origin
        self._executor = Executor(session)
        self._preparer = Preparer(session, store, config, builds)
        self.onto_source = False
        """The target is the source's own database: a table must not be written onto itself."""
        self._plans: dict[int, Plan] = {}
        self._made = 0
        self._beside: list[Command] = []
        """What the batch at hand writes beside its rows."""

    def open(self) -> None:
        """Makes the schema when it is not there and reads the checkpoint."""
        self._store.create(self._session)
        self.held = self._store.checkpoint(self._session)

    def mark(self) -> bool:
        """Whether what is written carries a replication origin."""
        if not self._origin.settled:
            # A second writer is to hear that it is one, not that the origin is taken.
            self._run_commands([_BEGIN, self._store.hold(self.held, shared=True), _COMMIT])
            self._origin.set_up(self._session)
        return self._origin.active

    def prepare(self, relation: Relation) -> None:
        """Within a split transaction, too: then it is undone with it. Raises TableStopped."""
        if relation.table.schema == SCHEMA:
            return
        schema = relation.table.schema
        if self.onto_source and self._config.schemas.get(schema, schema) == schema:
            raise TableStopped(
                relation.table,
                f"the target is the source: {relation.table} would be copied into itself",
                hint="give the DSN of another database; or map its schema to another one (schemas)",
            )
        nested = self._session.in_transaction
        self._session.query(b"savepoint walcast_prepare" if nested else b"begin")
        try:
            binding = self._preparer.prepare(relation)
        except (TableStopped, StatementFailed) as error:
            undo = b"rollback to savepoint walcast_prepare" if nested else b"rollback"
            self._session.query(undo)
            if isinstance(error, StatementFailed):
                raise error.error(f"preparing {relation}") from None
            raise
        self._session.query(b"release savepoint walcast_prepare" if nested else b"commit")
        self._forget(relation)
        self._made += 1
        plan = Plan(binding, self._made, self._session.version, self._role)
        self._plans[relation.oid] = plan
        if plan.one_by_one:
            log.info("applied_one_by_one", extra={"table": str(relation)})

    def write(self, batch: Batch, letters: Sequence[DeadLetter] = (), gone: Sequence[int] = ()) -> Durability:
        """With the dead letters that were made of other rows, and without those that this batch settles. Raises RowsRefused;
        then nothing of the batch is there, and it may be written again without them."""
        self._beside = self._store.set_aside(letters, gone)
        if batch.kind == "snapshot":
            self._snapshot(batch)
        elif batch.part is not None:
            self._part(batch)
        else:
            if self.in_parts:
                raise RetryableError(
                    "a transaction broke off between its parts; it is sent again from the first"
                )
            self._whole(batch)
        if self._config.synchronous_commit == "on":
            return Durability.DURABLE
        self.unflushed = True
        return Durability.ACCEPTED

    def set_aside(self, letters: Sequence[DeadLetter], gone: Sequence[int]) -> None:
        """In a transaction of its own, durable when it returns."""
        on = Command(Prepared("walcast_durable", b"set local synchronous_commit = on", utility=True))
        self._run_commands([_BEGIN, on, *self._store.set_aside(letters, gone), _COMMIT])

    def flush(self) -> None:
        """A commit that is flushed to disk flushes all before it."""
        if self.unflushed:
            self._run_sql(b"begin", b"set local synchronous_commit = on", self._store.touch(), b"commit")
            self.unflushed = False

    def rollback(self) -> None:
        self.in_parts = False
        if not self._session.broken and self._session.in_transaction:
            self._session.query(b"rollback")

    # -- transactions -------------------------------------------------------------------------------------------

    def _whole(self, batch: Batch) -> None:
        opening = [_BEGIN, *self._frame(batch), *self._beside]
        self._try(batch, opening, [_COMMIT], b"rollback")
        self.held = batch.checkpoint or self.held

    def _part(self, batch: Batch) -> None:
        part = batch.part
        assert part is not None
        if (part.number == 0) == self.in_parts:
            self.rollback()
            raise RetryableError("a transaction broke off between its parts; it is sent again from the first")
        if not self.in_parts:
            self._run_commands([_BEGIN, *self._frame(batch)])
            self.in_parts = True
        self._try(batch, [_SAVE, *self._beside], [_RELEASE], b"rollback to savepoint walcast_part")
        if not part.last:
            return
        closing = [] if batch.checkpoint is None else [self._store.move(self.held, batch.checkpoint)]
        self._run_commands([*closing, *self._origin.stamp(batch), _COMMIT])
        self.in_parts = False
        self.held = batch.checkpoint or self.held

    def _snapshot(self, batch: Batch) -> None:
        relation = batch.relations[0]
        if relation.table.schema == SCHEMA:
            return
        plan = self._plan(relation)
        opening = [_BEGIN, *self._frame(batch), *self._beside]
        steps: list[TableStep] = []
        if batch.part is None or batch.part.number == 0:
            opening.append(self._store.complete(relation.oid))
            steps.append(TableStep(Step(plan.truncate(False).statement), plan))
        made = work(plan, batch.net(relation), "straight", 0)
        made.steps[:0] = steps
        try:
            self._executor.run(opening, made, [_COMMIT])
        except TableStopped:
            self.rollback()
            raise
        except Failed as failed:
            self.rollback()
            if failed.failure.sqlstate == INVALID_TEXT and self._new_labels(batch, plan):
                self._snapshot(batch)
                return
            self._refuse(batch, failed)
            self._give_up(failed)
        if plan.binding.incomplete:
            self.prepare(relation)

    def _frame(self, batch: Batch) -> list[Command]:
        """Fences other writers off, and moves the checkpoint, before anything is touched."""
        self.mark()
        moves = batch.checkpoint is not None and batch.part is None
        fence = (
            self._store.move(self.held, batch.checkpoint)
            if moves and batch.checkpoint is not None
            else self._store.hold(self.held, shared=batch.kind == "snapshot")
        )
        stamp = self._origin.stamp(batch) if moves else []
        return [fence, *stamp, *([_DEFER] if self._role != "replica" else [])]

    def _try(self, batch: Batch, opening: list[Command], closing: list[Command], undo: bytes) -> None:
        few = len(batch) <= self._config.direct_rows
        ways = [way for way in (_FEW_WAYS if few else _WAYS) if way != "displaced" or self._role == "replica"]
        looked_again = False
        while True:
            try:
                made = self._work(batch, ways[0])
                self._executor.run(opening, made, closing)
                return
            except TableStopped:
                self.rollback()
                raise
            except Failed as failed:
                failure, plan = failed.failure, failed.plan
                if self._session.in_transaction:
                    self._session.query(undo)
                if plan is None and failure.sqlstate == DIVISION_BY_ZERO:
                    self.rollback()
                    raise _fenced() from None
                if failure.violation and len(ways) > 1:
                    log.info("another_way", extra={"failed": ways[0], "sqlstate": failure.sqlstate})
                    if plan is not None and ways[0] == "straight":
                        plan.doubts += 1
                    ways = ways[-1:] if failure.sqlstate == FOREIGN_KEY_VIOLATION and not few else ways[1:]
                    continue
                if plan is not None and failure.sqlstate == INVALID_TEXT and self._new_labels(batch, plan):
                    continue
                altered = failure.sqlstate in (*CHANGED_TABLE, NOT_SUPPORTED)
                if altered and plan is not None and not looked_again and undo == b"rollback":
                    looked_again = True
                    self.prepare(plan.relation)
                    continue
                self._refuse(batch, failed)
                self.rollback()
                self._give_up(failed)

    def _new_labels(self, batch: Batch, plan: Plan) -> bool:
        """Adds enum labels that came with the data; whether there were any. They can be used after a commit only."""
        in_parts = self.in_parts
        found = labels(batch, plan.relation)
        if not found:
            return False
        self.rollback()
        added = [self._preparer.types.add_labels(info, names) for info, names in found.items()]
        if any(added):
            log.warning("enum_labels_added", extra={"table": str(plan.relation)})
        if in_parts:
            raise RetryableError(
                "an enum grew at the copy; the transaction is sent again from its first part"
            )
        return any(added)

    def _refuse(self, batch: Batch, failed: Failed) -> None:
        """Raises RowsRefused when the failure is about rows that need not stop their table."""
        kind = refusal_kind(failed.failure)
        policies = self._config.policies
        if failed.plan is None or kind is None or policies.of(kind) == "stop":
            return
        part = batch.part
        nested = self._session.in_transaction
        if not nested:
            self._session.query(b"begin")
        plans = [
            self._plan(relation)
            if relation.table.schema != SCHEMA and any(batch.counts(relation).values())
            else None
            for relation in batch.relations
        ]
        try:
            if batch.kind == "snapshot" and (part is None or part.number == 0):
                self._session.query(*(plan.truncate(False).statement for plan in plans if plan is not None))
            found = find(self._session, batch, plans, policies.limit + 1)
        except Failed as other:
            log.info("rows_not_found", extra={"sqlstate": other.failure.sqlstate})
            found = []
        if nested and part is not None and part.number:
            self._session.query(b"rollback to savepoint walcast_part")
        else:
            self.rollback()
        for refusal in found:
            if policies.of(refusal.kind) == "stop":
                return
        if found:
            raise RowsRefused(batch, found)

    def _give_up(self, failed: Failed) -> NoReturn:
        """What concerns one table only stops that table."""
        error = failed.failure.error("writing")
        if (
            failed.plan is not None
            and type(error) is OperatorError
            and failed.failure.sqlstate[:2] in ("22", "23", "42")
            and failed.failure.sqlstate != INSUFFICIENT_PRIVILEGE
        ):
            table = failed.plan.relation.table
            raise TableStopped(
                table, error.message, hint=f"{error.hint}; then `walcast resync {table.argument}`"
            ) from None
        raise error from None

    # -- what a transaction holds -------------------------------------------------------------------------------

    def _work(self, batch: Batch, mode: Mode) -> Work:
        made = Work([], [], [])
        singly: list[Plan | None] = [None] * len(batch.relations)
        for number, relation in enumerate(batch.relations):
            if relation.table.schema == SCHEMA or not any(batch.counts(relation).values()):
                continue
            plan = self._plan(relation)
            if plan.binding.incomplete:
                raise TableStopped(
                    relation.table,
                    plan.binding.incomplete,
                    hint=f"copy it anew: `walcast resync {relation.table.argument}`",
                )
            net = None if mode == "replay" or plan.one_by_one else batch.net(relation)
            if net is None or net.replay:
                singly[number] = plan
                continue
            part = work(plan, net, mode, 0 if mode == "displaced" else self._config.direct_rows)
            made.stages.extend(part.stages)
            made.steps.extend(part.steps)
            made.rows.extend(part.rows)
        if any(singly):
            made.rows.append(in_order(batch.raw(), singly))
        return made

    def _run_commands(self, commands: Iterable[Command]) -> None:
        try:
            self._executor.rows(list(commands), [], [])
        except Failed as failed:
            self.rollback()
            if failed.failure.sqlstate == DIVISION_BY_ZERO:
                raise _fenced() from None
            raise failed.failure.error("writing") from None

    def _run_sql(self, *statements: bytes) -> None:
        try:
            self._session.query(*statements)
        except StatementFailed as failure:
            self.rollback()
            raise failure.error("flushing") from None

    def _plan(self, relation: Relation) -> Plan:
        plan = self._plans.get(relation.oid)
        if plan is None or (plan.relation is not relation and plan.relation != relation):
            self.prepare(relation)
            plan = self._plans[relation.oid]
        return plan

    def _forget(self, relation: Relation) -> None:
        """Drops the statements and stages of an earlier version."""
        old = self._plans.pop(relation.oid, None)
        if old is not None:
            self._session.forget(old.prefix)
            if old.staged:
                self._session.query(*old.drop_stages())


def _fenced() -> Fenced:
    return Fenced(
        "another pipeline wrote this sink's checkpoint (walcast.checkpoint at the target)",
        hint="stop the other pipeline, or give this one a name of its own",
    )
