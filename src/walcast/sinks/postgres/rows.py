"""Changes one at a time, in commit order, as pipelined prepared statements with the server's bytes as parameters.

For small batches (one round trip), tables without a key, key changes, tables whose triggers act, and values that
come as text in a binary stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from walcast.model import NetChanges, RawChange, TableStopped
from walcast.sinks.postgres.plan import Plan
from walcast.sinks.postgres.session import Command

_UNCHANGED, _TEXT = b"ut"


class RowCommand(NamedTuple):
    """`finds`: the command means a row that should be there."""

    command: Command
    plan: Plan
    finds: bool


class RowMaker:
    """Makes the commands for the changes of one table."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._key = plan.key
        self._all = plan.columns == tuple(range(len(plan.relation.columns)))
        self._take = itemgetter(*plan.columns) if len(plan.columns) > 1 else None
        self._insert = plan.insert_row(False)
        self._upsert = plan.insert_row(True) if plan.key else self._insert
        self._binary = (1,) * len(plan.columns)

    def change(self, raw: RawChange) -> RowCommand | None:
        """The command for one change; None when there is nothing to do."""
        op, plan = raw.op, self._plan
        if op in (b"I", b"R"):
            return RowCommand(self._put(raw.kinds, raw.values, upsert=not plan.real), plan, False)
        if op == b"U":
            return self._update(raw)
        if op == b"D":
            return RowCommand(self._delete(raw), plan, True)
        return RowCommand(Command(plan.truncate(bool(raw.detail[1]))), plan, False)

    def net(self, net: NetChanges) -> Iterator[RowCommand]:
        """The commands for changes that were collapsed; without the truncate."""
        plan = self._plan
        if net.deletes is not None:
            for kinds, values in net.deletes.rows():  # also of rows that came and went within the batch
                yield RowCommand(
                    Command(plan.delete_row(), *self._some(self._key, kinds, values)), plan, False
                )
        for group in net.upserts:
            known = tuple(n for n in plan.columns if n not in group.unchanged and n not in self._key)
            for kinds, values in group.rows.rows():
                if plan.lacks(group.unchanged):
                    yield from self._keyed(known, kinds, values, kinds, values)
                else:
                    yield RowCommand(self._put(kinds, values, upsert=True), plan, False)

    def _put(self, kinds: bytes, values: tuple[bytes | None, ...], upsert: bool) -> Command:
        statement = self._upsert if upsert else self._insert
        if self._plan.adapters or _TEXT in kinds or self._take is None:
            return Command(statement, *self._some(self._plan.columns, kinds, values))
        return Command(statement, values if self._all else self._take(values), self._binary)

    def _update(self, raw: RawChange) -> RowCommand | None:
        plan = self._plan
        if not self._key:
            return self._update_same(raw)
        sent_old = bool(raw.old_kind)
        old_kinds, old = (raw.old_kinds, raw.old_values) if sent_old else (raw.kinds, raw.values)
        moved = sent_old and any(
            raw.kinds[n] != _UNCHANGED and (raw.values[n] != old[n] or raw.kinds[n] != old_kinds[n])
            for n in self._key
        )
        holes = _UNCHANGED in raw.kinds
        if not moved and not holes and not plan.real and not plan.moves:
            return RowCommand(self._put(raw.kinds, raw.values, upsert=True), plan, False)
        known = tuple(n for n in plan.columns if raw.kinds[n] != _UNCHANGED and (moved or n not in self._key))
        return next(self._keyed(known, raw.kinds, raw.values, old_kinds, old), None)

    def _keyed(
        self,
        known: tuple[int, ...],
        kinds: bytes,
        values: Sequence[bytes | None],
        old_kinds: bytes,
        old: Sequence[bytes | None],
    ) -> Iterator[RowCommand]:
        if not known:
            return
        params, formats = self._some(known, kinds, values)
        key, key_formats = self._some(self._key, old_kinds, old)
        command = Command(self._plan.update_row(known), params + key, formats + key_formats)
        yield RowCommand(command, self._plan, True)

    def _update_same(self, raw: RawChange) -> RowCommand | None:
        plan = self._plan
        nulls = self._old_nulls(raw)
        known = tuple(n for n in plan.columns if raw.kinds[n] != _UNCHANGED)
        if not known:
            return None
        params, formats = self._some(known, raw.kinds, raw.values)
        old, old_formats = self._old(raw, nulls)
        return RowCommand(
            Command(plan.update_same(known, nulls), params + old, formats + old_formats), plan, True
        )

    def _delete(self, raw: RawChange) -> Command:
        plan = self._plan
        if self._key:
            return Command(plan.delete_row(), *self._some(self._key, raw.old_kinds, raw.old_values))
        nulls = self._old_nulls(raw)
        return Command(plan.delete_same(nulls), *self._old(raw, nulls))

    def _old_nulls(self, raw: RawChange) -> tuple[int, ...]:
        if raw.old_kind != b"O":
            raise TableStopped(
                self._plan.relation.table,
                f"{self._plan.relation} has no key, and a change came without the old row",
                hint="alter table ... replica identity full (or give it a primary key) at the source, then resync",
            )
        return tuple(n for n in self._plan.columns if raw.old_values[n] is None)

    def _old(self, raw: RawChange, nulls: tuple[int, ...]) -> tuple[list[bytes | None], list[int]]:
        matched = [n for n in self._plan.columns if n not in nulls]
        return self._some(matched, raw.old_kinds, raw.old_values)

    def _some(
        self, numbers: Sequence[int], kinds: bytes, values: Sequence[bytes | None]
    ) -> tuple[list[bytes | None], list[int]]:
        params = [values[n] for n in numbers]
        formats = [0 if kinds[n] == _TEXT else 1 for n in numbers]
        for place, n in enumerate(numbers):
            adapter = self._plan.adapters.get(n)
            value = params[place]
            if adapter is not None and value is not None and formats[place]:
                params[place], formats[place] = adapter(value)
        return params, formats


def in_order(changes: Iterable[RawChange], plans: Sequence[Plan | None]) -> Iterator[RowCommand]:
    """The commands for a batch's changes; those of relations without a plan are left out."""
    makers = [RowMaker(plan) if plan is not None else None for plan in plans]
    for raw in changes:
        if raw.op == b"M":
            continue
        maker = makers[raw.relation]
        if maker is not None:
            made = maker.change(raw)
            if made is not None:
                yield made
