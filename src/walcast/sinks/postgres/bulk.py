"""A table's net changes as COPYs and a few statements over what was copied.

    fresh rows ------------------------ COPY --> table
    other rows -- COPY --> stage -- insert ... on conflict do update --> table
    rows with unsent columns -- COPY --> mask -- update ... from --> table
    deleted keys -- COPY --> keys -- delete ... using --> table

Where rows exchange values of a unique column, no order of single changes need be free of conflicts. Then the rows
are *displaced*: all are taken out into `hold`, changed there, and put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from walcast.model import NetChanges, RowSet, UpsertGroup
from walcast.sinks.postgres.plan import Plan
from walcast.sinks.postgres.plan import Stage as StageName
from walcast.sinks.postgres.rows import RowCommand, RowMaker
from walcast.sinks.postgres.session import Prepared, Step

_DOUBTS = 3
Mode = Literal["straight", "staged", "displaced", "replay"]


class TableStep(NamedTuple):
    """A step and the table it is about; None: the transaction's own."""

    step: Step
    plan: Plan | None


class Work(NamedTuple):
    """What a table's changes come to: stages that must exist, steps of a script, then single commands."""

    stages: list[tuple[Plan, StageName]]
    steps: list[TableStep]
    rows: list[Iterator[RowCommand]]


def work(plan: Plan, net: NetChanges, mode: Mode, direct_rows: int) -> Work:
    """The statements for net changes that need no replay."""
    singly, staged = _divide(plan, net, direct_rows)
    builder = _Builder(plan)
    if net.truncate:
        builder.run(plan.truncate(net.restart_identity))
    if staged.deletes is not None:
        builder.fill("keys", plan.key, staged.deletes)
        builder.run(plan.delete())
    full = [group for group in staged.upserts if not plan.lacks(group.unchanged)]
    masked = [group for group in staged.upserts if plan.lacks(group.unchanged)]
    if mode == "displaced" and plan.displaceable:
        builder.displace(full, masked)
    else:
        builder.upsert(full, masked, straight=mode == "straight" and plan.doubts < _DOUBTS)
    single = singly.deletes is not None or singly.upserts
    return Work(builder.stages, builder.steps, [RowMaker(plan).net(singly)] if single else [])


def _divide(plan: Plan, net: NetChanges, direct_rows: int) -> tuple[NetChanges, NetChanges]:
    """(what goes row by row, what goes by COPY): few rows, and rows whose values COPY does not take, go singly."""
    rows = sum(len(group.rows) for group in net.upserts) + (
        len(net.deletes) if net.deletes is not None else 0
    )
    if rows <= direct_rows:
        return net, net._replace(deletes=None, upserts=())

    def copies(rows: RowSet) -> bool:
        return rows.format != "mixed" and (rows.format == "text" or not plan.adapters)

    deletes = net.deletes if net.deletes is not None and copies(net.deletes) else None
    upserts = tuple(group for group in net.upserts if copies(group.rows))
    singly = net._replace(
        deletes=None if deletes is not None else net.deletes,
        upserts=tuple(group for group in net.upserts if not copies(group.rows)),
    )
    return singly, net._replace(deletes=deletes, upserts=upserts)


class _Builder:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.stages: list[tuple[Plan, StageName]] = []
        self.steps: list[TableStep] = []

    def run(self, prepared: Prepared) -> None:
        if prepared.utility:
            self._add(Step(prepared.statement))
        else:
            self._add(Step(b'execute "' + prepared.name.encode() + b'"', None, prepared))

    def fill(self, stage: StageName, columns: Sequence[int], *several: RowSet) -> None:
        """Empties the stage and copies the rows into it."""
        self._clear(stage, sum(map(len, several)))
        for rows in several:
            self._add(Step(self._plan.copy_stage(stage, columns, rows.format), _Lazy(rows, columns)))

    def upsert(self, full: Sequence[UpsertGroup], masked: Sequence[UpsertGroup], straight: bool) -> None:
        plan = self._plan
        staged: list[RowSet] = []
        for group in full:
            binary = group.rows.format == "binary"
            if straight and group.fresh and (plan.straight or not binary):
                statement = plan.copy_in(plan.columns, group.rows.format)
                self._add(Step(statement, _Lazy(group.rows, plan.columns)))
            else:
                staged.append(group.rows)
        if staged:
            self.fill("stage", plan.columns, *staged)
            self.run(plan.upsert())
        for known in self._masks(masked):
            self.run(plan.update(known))

    def displace(self, full: Sequence[UpsertGroup], masked: Sequence[UpsertGroup]) -> None:
        plan = self._plan
        if not full and not masked:
            return
        self._clear("hold", sum(len(group.rows) for group in (*full, *masked)))
        for known in self._masks(masked):
            self.run(plan.take_out("mask"))
            self.run(plan.update(known, "hold"))
        if full:
            self.fill("stage", plan.columns, *(group.rows for group in full))
            self.run(plan.take_out("stage"))
            if any(n not in plan.key for n in plan.columns):
                self.run(plan.update(plan.columns, "hold"))
        self.run(plan.put_back())
        if full:
            self.run(plan.put_new())

    def _masks(self, groups: Sequence[UpsertGroup]) -> Iterator[tuple[int, ...]]:
        """Fills `mask` with each group in turn; the columns that its rows bring."""
        plan = self._plan
        for group in groups:
            known = tuple(n for n in plan.columns if n not in group.unchanged)
            if all(n in plan.key for n in known):
                continue
            self.fill("mask", [n for n in plan.columns if n in known or n in plan.key], group.rows)
            yield known

    def _clear(self, stage: StageName, rows: int) -> None:
        self.stages.append((self._plan, stage))
        statement = self._plan.clear(stage, rows)
        if statement is not None:
            self._add(Step(statement))

    def _add(self, step: Step) -> None:
        self.steps.append(TableStep(step, self._plan))


class _Lazy:
    """COPY input that is made when the server asks for it, and gone when it was sent."""

    def __init__(self, rows: RowSet, columns: Sequence[int]) -> None:
        self._rows = rows
        self._columns = columns

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return iter(self._rows.copy(self._columns))
