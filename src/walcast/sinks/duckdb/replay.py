"""Batches that do not collapse by key: a key changed, or the table has none.

The plan says which rows of the copy go, and from which change each column of each new row comes. A few statements apply
that at once; one statement a change would take a thousand times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from walcast.model import Batch
from walcast.sinks.duckdb.columns import exact, quoted
from walcast.sinks.duckdb.loading import Incoming, Loader
from walcast.sinks.duckdb.plan import Plan, Ref, by_key, by_row
from walcast.sinks.duckdb.store import Store
from walcast.sinks.duckdb.tables import Table

STAGE: Final = "_walcast_stage"
GONE: Final = "_walcast_gone"
ROWS: Final = "_walcast_rows"
HOLES: Final = "_walcast_holes"
RESULT: Final = "_walcast_result"
GOING: Final = "_walcast_going"
STAYING: Final = "_walcast_staying"

_FILL_GONE: Final = f"""create or replace temp table {GONE} as
    select unnest($1::ubigint[]) as lsn, unnest($2::ubigint[]) as ordinal, unnest($3::boolean[]) as old,
        unnest($4::bigint[]) as copies"""
_FILL_ROWS: Final = f"""create or replace temp table {ROWS} as
    select unnest($1::bigint[]) as row, unnest($2::ubigint[]) as lsn, unnest($3::ubigint[]) as ordinal,
        unnest($4::ubigint[]) as origin_lsn, unnest($5::ubigint[]) as origin_ordinal, unnest($6::boolean[]) as origin_old"""
_FILL_HOLES: Final = f"""create or replace temp table {HOLES} as
    select unnest($1::bigint[]) as row, unnest($2::bigint[]) as number, unnest($3::ubigint[]) as lsn,
        unnest($4::ubigint[]) as ordinal"""


class Replay:
    """Applies plans, in the store's open transaction."""

    def __init__(self, store: Store, loader: Loader) -> None:
        self._store = store
        self._loader = loader

    def apply(self, table: Table, batch: Batch, building: bool = False) -> None:
        number = list(batch.relations).index(table.relation)
        changes = (change for change in batch.raw() if change.op != b"M" and change.relation == number)
        try:
            plan = (by_key if table.key else by_row)(changes, table.relation)
        except ValueError as error:
            raise table.stopped(str(error)) from None
        if plan.truncate:
            self._store.execute(f"delete from {table.sql}")
        self._loader.run(
            table,
            range(len(table.columns)),
            lambda choices: batch.table(table.relation, choices),
            self._stage,
            system=True,
        )
        if table.key:
            self._apply_keyed(table, plan, building)
        else:
            self._apply_copies(table, plan)
        for name in (STAGE, GONE, ROWS, HOLES, RESULT, GOING, STAYING):
            self._store.execute(f"drop table if exists {name}")

    def _stage(self, incoming: Incoming) -> int:
        """Both sides of every change, in the copy's types."""
        table = incoming.table
        columns = []
        for number in incoming.columns:
            new, old = incoming.value(number), incoming.old(number)
            sent = "s._old is not null" if not table.key or number in table.key else _whole_old(table)
            columns.append(f"if(list_contains(s._unchanged, {number}) and {sent}, {old}, {new}) as n{number}")
            columns.append(f"{old} as o{number}")
        return incoming.run(
            f"create or replace temp table {STAGE} as select _commit_lsn as lsn, _ordinal as ordinal, {', '.join(columns)} "
            f"{incoming.source}"
        )

    def _apply_keyed(self, table: Table, plan: Plan, building: bool) -> None:
        self._fill_gone(list(plan.gone.values()), [1] * len(plan.gone))
        rows = list(plan.rows.values())
        self._store.execute(
            _FILL_ROWS,
            [
                list(range(len(rows))),
                [row.last.lsn for row in rows],
                [row.last.ordinal for row in rows],
                [row.origin and row.origin.lsn for row in rows],
                [row.origin and row.origin.ordinal for row in rows],
                [row.origin and row.origin.old for row in rows],
            ],
        )
        holes = [(n, number, ref) for n, row in enumerate(rows) for number, ref in row.holes.items()]
        self._store.execute(
            _FILL_HOLES,
            [
                [n for n, _, _ in holes],
                [number for _, number, _ in holes],
                [ref and ref.lsn for _, _, ref in holes],
                [ref and ref.ordinal for _, _, ref in holes],
            ],
        )
        self._store.execute(_result(table, sorted({number for _, number, _ in holes})))
        if building:
            self._store.execute(f"delete from {RESULT} where missing")
        elif self._store.execute(f"select 1 from {RESULT} where missing limit 1"):
            raise table.stopped(
                "an update did not send an unchanged TOASTed column, and the copy has no such row to take it from"
            )
        keys = " and ".join(
            f"t.{quoted(table.columns[k].name)} = if(g.old, s.o{k}, s.n{k})" for k in table.key
        )
        self._store.execute(
            f"delete from {table.sql} as t using {GONE} as g join {STAGE} as s using (lsn, ordinal) where {keys}"
        )
        columns = range(len(table.columns))
        self._store.execute(
            f"insert into {table.sql} ({', '.join(quoted(table.columns[n].name) for n in columns)}) "
            f"select {', '.join(f'c{n}' for n in columns)} from {RESULT}"
        )

    def _apply_copies(self, table: Table, plan: Plan) -> None:
        columns = range(len(table.columns))
        images = ", ".join(f"if(g.old, s.o{n}, s.n{n}) as c{n}" for n in columns)
        surplus = [image for image, copies in plan.copies.items() if copies < 0]
        if surplus:
            copies = [-plan.copies[image] for image in surplus]
            self._fill_gone([plan.refs[image] for image in surplus], copies)
            self._delete_copies(table, images, sum(copies))
        added = [image for image, copies in plan.copies.items() if copies > 0]
        if added:
            self._fill_gone([plan.refs[image] for image in added], [plan.copies[image] for image in added])
            self._store.execute(
                f"insert into {table.sql} ({', '.join(quoted(c.name) for c in table.columns)}) "
                f"select {', '.join(f'c{n}' for n in columns)} from (select {images}, unnest(range(g.copies)) "
                f"from {GONE} as g join {STAGE} as s using (lsn, ordinal))"
            )

    def _delete_copies(self, table: Table, images: str, surplus: int) -> None:
        """Deletes all copies of the images, and inserts those that stay. (DuckDB 2.0 loses track of rows, or crashes, where
        some of several equal rows are deleted by their rowid.)"""
        columns = range(len(table.columns))
        same = " and ".join(
            f"{exact('t.' + quoted(c.name), c.target)} is not distinct from {exact(f'u.c{n}', c.target)}"
            for n, c in enumerate(table.columns)
        )
        self._store.execute(
            f"create or replace temp table {GOING} as select row_number() over () as number, g.copies, {images} "
            f"from {GONE} as g join {STAGE} as s using (lsn, ordinal)"
        )
        self._store.execute(
            f"create or replace temp table {STAYING} as select u.number, count(*) - any_value(u.copies) as copies "
            f"from {table.sql} as t join {GOING} as u on {same} group by u.number"
        )
        found = f"select coalesce(sum(u.copies), 0) from {GOING} as u join {STAYING} as v using (number) where v.copies >= 0"
        if self._store.execute(found)[0][0] != surplus:
            raise table.stopped("rows that the source changed are not in the copy")
        self._store.execute(f"delete from {table.sql} as t using {GOING} as u where {same}")
        self._store.execute(
            f"insert into {table.sql} ({', '.join(quoted(c.name) for c in table.columns)}) "
            f"select {', '.join(f'c{n}' for n in columns)} from (select u.*, unnest(range(v.copies)) "
            f"from {GOING} as u join {STAYING} as v using (number))"
        )

    def _fill_gone(self, refs: Sequence[Ref], copies: list[int]) -> None:
        self._store.execute(
            _FILL_GONE,
            [[r.lsn for r in refs], [r.ordinal for r in refs], [r.old for r in refs], copies],
        )


def _whole_old(table: Table) -> str:
    """Whether a change carries the whole old row, and not its key alone."""
    return "s._old is not null" if table.relation.identity == "f" else "false"


def _result(table: Table, holed: Sequence[int]) -> str:
    """The statement that puts the new rows together: from the last change, an earlier one, or the copy's row."""
    columns = []
    for number, column in enumerate(table.columns):
        if number in holed:
            columns.append(
                f"case when h{number}.row is null then s.n{number} when h{number}.lsn is null "
                f"then t.{quoted(column.name)} else s{number}.n{number} end as c{number}"
            )
        else:
            columns.append(f"s.n{number} as c{number}")
    if not holed:
        return (
            f"create or replace temp table {RESULT} as select {', '.join(columns)}, false as missing "
            f"from {ROWS} as r join {STAGE} as s on s.lsn = r.lsn and s.ordinal = r.ordinal"
        )
    key = " and ".join(
        f"t.{quoted(table.columns[k].name)} = if(r.origin_old, o.o{k}, o.n{k})" for k in table.key
    )
    joins = "".join(
        f" left join {HOLES} as h{n} on h{n}.row = r.row and h{n}.number = {n}"
        f" left join {STAGE} as s{n} on s{n}.lsn = h{n}.lsn and s{n}.ordinal = h{n}.ordinal"
        for n in holed
    )
    missing = " or ".join(f"(h{n}.row is not null and h{n}.lsn is null)" for n in holed)
    return (
        f"create or replace temp table {RESULT} as select {', '.join(columns)}, t.rowid is null and ({missing}) as missing "
        f"from {ROWS} as r join {STAGE} as s on s.lsn = r.lsn and s.ordinal = r.ordinal "
        f"left join {STAGE} as o on o.lsn = r.origin_lsn and o.ordinal = r.origin_ordinal "
        f"left join {table.sql} as t on {key}{joins}"
    )
