"""Arrow to DuckDB: a batch's columns under a name, as expressions of the types that the copy has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import duckdb

from walcast.model import ArrowTable, Batch, TableStopped, TypeChoices, ValueRangeError
from walcast.sinks.duckdb.columns import ColumnChoices, is_temporal, loaded
from walcast.sinks.duckdb.store import Store
from walcast.sinks.duckdb.tables import Table

SYSTEM: Final = ("_op", "_commit_lsn", "_ordinal", "_xid", "_commit_time", "_unchanged", "_old")
"""The first columns of `Batch.table`."""


class ValueRefused(TableStopped):
    """A value does not fit: this one table's rows are to be looked at."""


class Loader:
    """Registers Arrow tables. Columns are addressed by place: a source's table may have a column called `_op`."""

    def __init__(self, store: Store, choices: ColumnChoices) -> None:
        self._store = store
        self._choices = choices

    def run(
        self,
        table: Table,
        columns: Sequence[int],
        make: Callable[[TypeChoices], ArrowTable],
        apply: Callable[[Incoming], int],
        system: bool = False,
    ) -> int:
        """Applies an Arrow table of these columns; what `apply` returned.

        Dates and times go natively, and once more as text when there is one that Arrow cannot hold. Raises
        TableStopped when a value fits neither.
        """
        temporal = any(is_temporal(table.columns[number].target) for number in columns)
        for native in (True, False) if temporal else (True,):
            choices = TypeChoices(self._choices.numeric, "native" if native else "text", self._choices.arrays)
            try:
                arrow = make(choices)
            except ValueRangeError as error:
                if native and temporal:
                    continue
                raise _refused(table, error.message) from None
            incoming = Incoming(self._store, table, tuple(columns), arrow, native, system)
            try:
                return apply(incoming)
            except (duckdb.DataError, duckdb.InvalidInputException):
                self._store.rollback()
                raise self._refused(incoming) from None
        raise AssertionError("text holds every date")

    def fits(self, table: Table, batch: Batch) -> bool:
        """Whether DuckDB can hold every value of the batch's changes of this table. Touches nothing."""

        def probe(incoming: Incoming) -> int:
            values = [f"count({incoming.value(n)})" for n in incoming.columns]
            if batch.kind != "snapshot":
                values += [f"count({incoming.old(n)})" for n in incoming.columns]
            return incoming.run(f"select {', '.join(values)} {incoming.source}")

        try:
            columns = range(len(table.columns))
            self.run(table, columns, lambda choices: batch.table(table.relation, choices), probe, system=True)
        except ValueRefused:
            return False
        return True

    def _refused(self, incoming: Incoming) -> ValueRefused:
        """Finds the column whose value did not fit. The value itself is never told."""
        table = incoming.table
        for number in incoming.columns:
            column = table.columns[number]
            try:
                incoming.run(f"select count({incoming.value(number)}) {incoming.source}")
            except duckdb.Error:
                return _refused(
                    table, f"a value of column {column.name!r} does not fit DuckDB's {column.target}"
                )
        return _refused(table, "a value does not fit its DuckDB type")


class Incoming:
    """Rows to be loaded, as SQL sees them: `source` is a from clause, `value` a column in the copy's type."""

    def __init__(
        self,
        store: Store,
        table: Table,
        columns: tuple[int, ...],
        arrow: ArrowTable,
        native: bool,
        system: bool,
    ) -> None:
        self.table = table
        self.columns = columns
        self._store = store
        self._arrow = arrow
        self._native = native
        places = [*(SYSTEM if system else ()), *(f"c{number}" for number in columns)]
        self.source = f"from _walcast_in as s({', '.join(places)})"

    def run(self, statement: str) -> int:
        """Runs a statement over them; how many rows it touched, if it says so."""
        rows = self._store.scan(statement, self._arrow)
        return int(rows[0][0]) if rows else 0

    def value(self, number: int) -> str:
        """The new value of a column."""
        return loaded(f"s.c{number}", self.table.columns[number].target, self._native)

    def old(self, number: int) -> str:
        """The old value of a column, or null when none was sent."""
        place = f"struct_extract_at(s._old, {number + 1})"
        return loaded(place, self.table.columns[number].target, self._native)

    def select(self, numbers: Sequence[int] | None = None) -> str:
        """Selects columns in the copy's types, under their `c` names."""
        wanted = self.columns if numbers is None else numbers
        return f"select {', '.join(f'{self.value(number)} as c{number}' for number in wanted)} {self.source}"


def _refused(table: Table, message: str) -> ValueRefused:
    return ValueRefused(
        table.relation.table,
        f"{table.relation}: {message}",
        hint=f"choose text for that type in the sink's settings (numeric, json, arrays), then bring {table.relation} "
        f"back with a new snapshot: walcast resync",
    )
