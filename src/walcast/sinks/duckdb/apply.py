"""A batch's changes of one table, as a handful of statements."""

from __future__ import annotations

from collections.abc import Sequence

from walcast.model import Batch, NetChanges, UpsertGroup
from walcast.sinks.duckdb.columns import FLOATS, ColumnChoices, exact, quoted
from walcast.sinks.duckdb.loading import Incoming, Loader
from walcast.sinks.duckdb.replay import Replay
from walcast.sinks.duckdb.store import Store
from walcast.sinks.duckdb.tables import Table


class Applier:
    """Writes batches into tables, inside the store's open transaction."""

    def __init__(self, store: Store, choices: ColumnChoices) -> None:
        self._store = store
        self._loader = Loader(store, choices)
        self._replay = Replay(store, self._loader)

    def snapshot(self, table: Table, batch: Batch) -> None:
        """Adds a chunk; the first one empties the table."""
        if batch.part is None or batch.part.number == 0:
            self._store.execute(f"delete from {table.sql}")
        columns = range(len(table.columns))
        self._loader.run(
            table,
            columns,
            lambda choices: batch.table(table.relation, choices),
            self._insert,
            system=True,
        )

    def changes(self, table: Table, batch: Batch, *, building: bool = False) -> None:
        """Brings the table from before the batch to after it. `building`: updates of rows that are not there yet are let go,
        where they do not send the whole row."""
        net = batch.net(table.relation)
        if net.replay:
            self._replay.apply(table, batch, building)
        else:
            self._net(table, net, building)

    def fits(self, table: Table, batch: Batch) -> bool:
        """Whether DuckDB can hold every value of the batch's changes of this table."""
        return self._loader.fits(table, batch)

    def _insert(self, incoming: Incoming) -> int:
        return incoming.run(
            f"insert into {incoming.table.sql} ({names(incoming.table, incoming.columns)}) {incoming.select()}"
        )

    def _net(self, table: Table, net: NetChanges, building: bool) -> None:
        if net.truncate:
            self._store.execute(f"delete from {table.sql}")
        if net.deletes is not None and len(net.deletes):
            deletes = net.deletes
            self._loader.run(
                table, table.key, lambda choices: deletes.table(table.key, choices), self._delete
            )
        for group in net.upserts:
            self._upsert(table, group, building)

    def _delete(self, incoming: Incoming) -> int:
        table = incoming.table
        return incoming.run(
            f"delete from {table.sql} as t using ({incoming.select()}) as u where {matched(table)}"
        )

    def _upsert(self, table: Table, group: UpsertGroup, building: bool) -> None:
        columns = [number for number in range(len(table.columns)) if number not in group.unchanged]
        apply = self._update if group.unchanged else self._insert if group.fresh else self._merge
        written = self._loader.run(table, columns, lambda choices: group.rows.table(columns, choices), apply)
        if group.unchanged and written < len(group.rows) and not building:
            raise table.stopped(
                "an update did not send an unchanged TOASTed column, and the copy has no such row to take it from"
            )

    def _merge(self, incoming: Incoming) -> int:
        table, columns = incoming.table, incoming.columns
        self._turn_zeros(incoming)
        return incoming.run(
            f"merge into {table.sql} as t using ({incoming.select()}) as u on {matched(table)} "
            f"when matched then update set {_assigned(table, columns)} "
            f"when not matched then insert ({names(table, columns)}) "
            f"values ({', '.join(f'u.c{number}' for number in columns)})"
        )

    def _update(self, incoming: Incoming) -> int:
        table = incoming.table
        self._turn_zeros(incoming)
        return incoming.run(
            f"update {table.sql} as t set {_assigned(table, incoming.columns)} from ({incoming.select()}) as u "
            f"where {matched(table)}"
        )

    def _turn_zeros(self, incoming: Incoming) -> None:
        """DuckDB leaves a value as it is when an update brings an equal one, and -0 equals 0: where a zero is to become the
        other one, it becomes something else first."""
        table = incoming.table
        for number in incoming.columns:
            column = table.columns[number]
            if column.target not in FLOATS or number in table.key:
                continue
            if not incoming.run(f"select count(*) from ({incoming.select([number])}) where c{number} = 0"):
                continue
            mine, theirs = f"t.{quoted(column.name)}", f"u.c{number}"
            incoming.run(
                f"update {table.sql} as t set {quoted(column.name)} = 1 "
                f"from ({incoming.select([*table.key, number])}) as u where {matched(table)} and {mine} = 0 "
                f"and {exact(mine, column.target)} <> {exact(theirs, column.target)}"
            )


def names(table: Table, columns: Sequence[int]) -> str:
    return ", ".join(quoted(table.columns[number].name) for number in columns)


def matched(table: Table) -> str:
    return " and ".join(f"t.{quoted(table.columns[number].name)} = u.c{number}" for number in table.key)


def _assigned(table: Table, columns: Sequence[int]) -> str:
    return ", ".join(f"{quoted(table.columns[number].name)} = u.c{number}" for number in columns)
