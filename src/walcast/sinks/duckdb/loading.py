"""Arrow to DuckDB: a batch's columns under a name, as expressions of the types that the copy has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import duckdb

from walcast.model import ArrowTable, TypeChoices, ValueRangeError
from walcast.sinks.duckdb.columns import ColumnChoices, is_temporal, loaded
from walcast.sinks.duckdb.store import Store
from walcast.sinks.duckdb.tables import Table

SYSTEM: Final = ("_op", "_commit_lsn", "_ordinal", "_xid", "_commit_time", "_unchanged", "_old")
"""The first columns of `Batch.table`."""


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
                raise table.stopped(error.message, hint=_choose(table)) from None
            incoming = Incoming(table, tuple(columns), native, system)
            with self._store.arrow(incoming.view, arrow):
                try:
                    return apply(incoming)
                except (duckdb.DataError, duckdb.InvalidInputException):
                    self._store.rollback()
                    raise self._refused(incoming) from None
        raise AssertionError("text holds every date")

    def _refused(self, incoming: Incoming) -> Exception:
        """Finds the column whose value did not fit. The value itself is never told."""
        table = incoming.table
        for number in incoming.columns:
            column = table.columns[number]
            try:
                self._store.execute(f"select count({incoming.value(number)}) {incoming.source}")
            except duckdb.Error:
                return table.stopped(
                    f"a value of column {column.name!r} does not fit DuckDB's {column.target}",
                    hint=_choose(table),
                )
        return table.stopped("a value does not fit its DuckDB type", hint=_choose(table))


class Incoming:
    """Rows to be loaded, as SQL sees them: `source` is a from clause, `value` a column in the copy's type."""

    _names = itertools.count()

    def __init__(self, table: Table, columns: tuple[int, ...], native: bool, system: bool) -> None:
        self.table = table
        self.columns = columns
        self.native = native
        self.view = f"_walcast_in_{next(self._names) % 1000}"
        places = [*(SYSTEM if system else ()), *(f"c{number}" for number in columns)]
        self.source = f"from {self.view} as s({', '.join(places)})"

    def value(self, number: int) -> str:
        """The new value of a column."""
        return loaded(f"s.c{number}", self.table.columns[number].target, self.native)

    def old(self, number: int) -> str:
        """The old value of a column, or null when none was sent."""
        place = f"struct_extract_at(s._old, {number + 1})"
        return loaded(place, self.table.columns[number].target, self.native)

    def select(self, numbers: Sequence[int] | None = None) -> str:
        """Selects columns in the copy's types, under their `c` names."""
        wanted = self.columns if numbers is None else numbers
        return f"select {', '.join(f'{self.value(number)} as c{number}' for number in wanted)} {self.source}"


def _choose(table: Table) -> str:
    return (
        f"choose text for that type in the sink's settings (numeric, json, arrays), then bring {table.relation} "
        f"back with a new snapshot: walcast resync"
    )
