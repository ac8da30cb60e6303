"""The tables of the copy: made, and changed as the source's change.

What each column was at the source is recorded beside the data, with its attribute number: that is what tells a
rename from a drop and an add, and a widening from a rewrite.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import duckdb

from walcast.model import Builds, Relation, TableId, TableStopped, ValuesMissing
from walcast.sinks.duckdb.columns import (
    ColumnChoices,
    SourceType,
    duckdb_type,
    follows,
    from_text,
    literal,
    quoted,
)
from walcast.sinks.duckdb.store import Store

log = logging.getLogger("walcast.sinks.duckdb")

RESYNC: Final = "take it up again with a new snapshot: walcast resync"

_FIND: Final = """select source_schema, source_table, oid, target_schema, target_table, columns
    from _walcast.tables where pipeline = ? and sink = ? and (oid = ? or (source_schema = ? and source_table = ?))"""
_OWNER: Final = """select pipeline, sink, source_schema, source_table from _walcast.tables
    where lower(target_schema) = lower(?) and lower(target_table) = lower(?)"""
_FORGET: Final = """delete from _walcast.tables
    where pipeline = ? and sink = ? and source_schema = ? and source_table = ?"""
_FORGET_SPOILED: Final = """delete from _walcast.tables
    where pipeline = ? and sink = ? and oid = ? and columns is null"""
_ALL: Final = (
    "select source_schema, source_table, columns from _walcast.tables where pipeline = ? and sink = ?"
)
_FORGET_NUMBERS: Final = """update _walcast.tables set oid = 0, columns = ?
    where pipeline = ? and sink = ? and source_schema = ? and source_table = ?"""
_RECORD: Final = "insert into _walcast.tables values (?, ?, ?, ?, ?, ?, ?, ?)"
_SPOIL: Final = """update _walcast.tables set columns = null
    where pipeline = ? and sink = ? and source_schema = ? and source_table = ?"""
_PHYSICAL: Final = """select column_name, data_type from duckdb_columns()
    where database_name = current_database() and lower(schema_name) = lower(?) and lower(table_name) = lower(?)
    order by column_index"""


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of the copy, and what it is at the source."""

    name: str
    target: str
    source: SourceType
    attnum: int | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the copy, ready for one schema version of its source."""

    relation: Relation
    schema: str
    name: str
    columns: tuple[TargetColumn, ...]
    rebuild: bool = False
    """Its contents no longer follow the source: only a snapshot may write it, and makes it anew."""

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def key(self) -> tuple[int, ...]:
        return self.relation.key

    def stopped(self, message: str, hint: str = RESYNC) -> TableStopped:
        return TableStopped(self.relation.table, f"{self.relation.table}: {message}", hint=hint)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is recorded of a table; `columns` is None when it has to be rebuilt."""

    source: TableId
    oid: int
    schema: str
    name: str
    columns: tuple[TargetColumn, ...] | None


class Tables:
    """Brings tables to the source's version. Runs in the store's thread, in its open transaction."""

    def __init__(self, store: Store, schema: str, choices: ColumnChoices, builds: Builds) -> None:
        self._store = store
        self._builds = builds
        self._schema = schema
        self._choices = choices

    def ready(self, relation: Relation) -> Table:
        """The table for this version, created or altered. Raises TableStopped when it cannot follow."""
        table = self._wanted(relation)
        if not table.columns:
            raise table.stopped("a table without columns has no place in DuckDB", hint="exclude it")
        _distinct(table)
        known = self._known(relation)
        if known is None:
            self._create(table)
        elif known.columns is None:
            return replace(table, schema=known.schema, name=known.name, rebuild=True)
        else:
            table = self._follow(replace(table, schema=known.schema, name=known.name), known, known.columns)
        return table

    def rebuilt(self, table: Table) -> Table:
        """Drops it and makes it anew, empty."""
        self._store.execute(f"drop table if exists {table.sql}")
        self._store.execute(_FORGET, [*self._store.owner, *table.relation.table])
        self._store.execute(_FORGET_SPOILED, [*self._store.owner, table.relation.oid])
        fresh = self._wanted(table.relation)
        self._create(fresh)
        return fresh

    def moved(self) -> list[TableId]:
        """Forgets object ids and attribute numbers; the tables that have to be rebuilt."""
        rebuilt = []
        for schema, name, columns in self._store.execute(_ALL, [*self._store.owner]):
            named = None
            if columns is None:
                rebuilt.append(TableId(schema, name))
            else:
                named = json.dumps([{**column, "attnum": None} for column in json.loads(columns)])
            self._store.execute(_FORGET_NUMBERS, [named, *self._store.owner, schema, name])
        return rebuilt

    def _wanted(self, relation: Relation) -> Table:
        columns = tuple(
            TargetColumn(c.name, duckdb_type(c, self._choices), SourceType.of(c), c.attnum)
            for c in relation.columns
        )
        return Table(relation, self._schema or relation.table.schema, relation.table.name, columns)

    def _known(self, relation: Relation) -> _Known | None:
        """By its name, or as a renamed table by its oid."""
        found = [
            _Known(TableId(row[0], row[1]), row[2], row[3], row[4], _loaded(row[5]))
            for row in self._store.execute(_FIND, [*self._store.owner, relation.oid, *relation.table])
        ]
        named = next((known for known in found if known.source == relation.table), None)
        return named or next(iter(found), None)

    def _create(self, table: Table) -> None:
        for owner in self._store.execute(_OWNER, [table.schema, table.name]):
            raise table.stopped(
                f"{table.sql} already holds {owner[2]}.{owner[3]} of sink {owner[1]!r} in pipeline {owner[0]!r}",
                hint="DuckDB's names ignore case; give this sink a `schema` or a file of its own, or exclude the table",
            )
        self._store.execute(f"create schema if not exists {quoted(table.schema)}")
        if physical := self._store.execute(_PHYSICAL, [table.schema, table.name]):
            self._adopt(table, physical)
        else:
            columns = ", ".join(f"{quoted(c.name)} {c.target}" for c in table.columns)
            self._store.execute(f"create table {table.sql} ({columns})")
        self._record(table)

    def _adopt(self, table: Table, physical: Sequence[tuple[str, str]]) -> None:
        """A table that was there before is used when it is empty and has these columns."""
        if self._store.execute(f"select 1 from {table.sql} limit 1"):
            raise table.stopped(
                f"{table.sql} is there already, with rows that are not this pipeline's",
                hint="drop or rename it, or give this sink a `schema` of its own",
            )
        types = {name.lower(): target for name, target in physical}
        for column in table.columns:
            if types.get(column.name.lower()) != column.target:
                raise table.stopped(
                    f"{table.sql} is there already, and its column {column.name!r} is "
                    f"{types.get(column.name.lower(), 'missing')} where {column.target} is needed",
                    hint="drop or rename it, or give this sink a `schema` of its own",
                )

    def _record(self, table: Table) -> None:
        relation, owner = table.relation, self._store.owner
        self._store.execute(_FORGET, [*owner, *relation.table])
        columns = json.dumps([asdict(column) for column in table.columns])
        self._store.execute(
            _RECORD, [*owner, *relation.table, relation.oid, table.schema, table.name, columns]
        )

    def _follow(self, table: Table, known: _Known, before: tuple[TargetColumn, ...]) -> Table:
        """Alters the copy. All that can stop it is asked before anything is changed."""
        relation = table.relation
        if known.source != relation.table:
            self._may_rename(table, known)
        elif known.oid not in (relation.oid, 0):
            self._stop(table, known, "it was dropped and made again at the source")
        elif before == table.columns:
            return table
        pairs = self._paired(table, known, before)
        for old, new in pairs.values():
            if not follows(old.target, old.source, new.target, new.source):
                self._stop(
                    table,
                    known,
                    f"column {new.name!r} changed from {old.source.name} to {new.source.name}, and the source sends "
                    f"nothing for the rows that it rewrote",
                )
        rows = bool(self._store.execute(f"select 1 from {table.sql} limit 1"))
        for number, column in enumerate(relation.columns):
            listed = column.missing is not None and table.columns[number].target.endswith("[]")
            if not rows or number in pairs or not (column.unproven or listed):
                continue
            what = f"column {column.name!r} was added, and its value in the rows from before is not known"
            if relation.table in self._builds.building:
                continue
            if self._builds.may_build(relation):
                raise ValuesMissing(relation.table, f"{relation.table}: {what}", hint=RESYNC)
            self._stop(table, known, what)
        if known.source != relation.table:
            table = self._rename_table(table, known)
        self._alter(table, pairs)
        self._record(table)
        return table

    def _may_rename(self, table: Table, known: _Known) -> None:
        relation = table.relation
        if not self._schema and known.source.schema != relation.table.schema:
            self._stop(table, known, f"it moved here from schema {known.source.schema}")
        if self._store.execute(_PHYSICAL, [table.schema, relation.table.name]):
            self._stop(
                table, known, f"it was renamed from {known.source}, and the copy has a table of that name"
            )

    def _rename_table(self, table: Table, known: _Known) -> Table:
        name = table.relation.table.name
        self._store.execute(f"alter table {table.sql} rename to {quoted(name)}")
        self._store.execute(_FORGET, [*self._store.owner, *known.source])
        log.info("table_renamed", extra={"table": str(table.relation), "before": str(known.source)})
        return replace(table, name=name)

    def _spoil(self, source: TableId) -> None:
        """In a transaction of its own: whatever becomes of the open one."""
        with self._store.cursor() as cursor:
            try:
                cursor.execute(_SPOIL, [*self._store.owner, *source])
            except duckdb.TransactionException:
                log.debug("table_changed_in_transaction", extra={"table": str(source)})

    def _stop(self, table: Table, known: _Known, message: str) -> None:
        """Records that only a snapshot can bring the table back, and raises."""
        self._spoil(known.source)
        raise table.stopped(message)

    def _paired(
        self, table: Table, known: _Known, before: tuple[TargetColumn, ...]
    ) -> dict[int, tuple[TargetColumn, TargetColumn]]:
        """Each column that was there before, with what it was: by attribute number, or by name where none is known."""
        by_attnum = {column.attnum: column for column in before if column.attnum is not None}
        by_name = {column.name: column for column in before}
        pairs = {}
        for number, column in enumerate(table.columns):
            old = by_attnum.get(column.attnum) if column.attnum is not None else None
            if old is None:
                old = by_name.get(column.name)
                if old is not None and None not in (old.attnum, column.attnum):
                    old = None  # dropped, and another added under its name
            if old is not None:
                pairs[number] = (old, column)
        unproven = [c.name for n, c in enumerate(table.columns) if n not in pairs and c.attnum is None]
        if unproven and len(pairs) < len(before):
            self._stop(
                table,
                known,
                f"column {unproven[0]!r} may be a renamed one: its attribute number is not known",
            )
        return pairs

    def _alter(self, table: Table, pairs: dict[int, tuple[TargetColumn, TargetColumn]]) -> None:
        renamed = [(old.name, new.name) for old, new in pairs.values() if old.name != new.name]
        for number, (old_name, _) in enumerate(
            renamed
        ):  # by way of other names: two columns may have swapped theirs
            self._rename_column(table, old_name, f"_walcast_renamed_{number}")
        added = {n: column for n, column in enumerate(table.columns) if n not in pairs}
        taken = {str(row[0]).lower() for row in self._store.execute(_PHYSICAL, [table.schema, table.name])}
        for name in [new for _, new in renamed] + [column.name for column in added.values()]:
            if name.lower() in taken:
                kept = next(free for free in _numbered(f"{name}_dropped") if free.lower() not in taken)
                taken.add(kept.lower())
                self._rename_column(table, name, kept)
        for number, (old_name, new_name) in enumerate(renamed):
            self._rename_column(table, f"_walcast_renamed_{number}", new_name)
            log.info(
                "column_renamed", extra={"table": str(table.relation), "column": new_name, "before": old_name}
            )
        for old, new in pairs.values():
            if old.target != new.target:
                self._store.execute(
                    f"alter table {table.sql} alter column {quoted(new.name)} type {new.target}"
                )
                log.info("column_widened", extra={"table": str(table.relation), "column": new.name})
        for number, column in added.items():
            self._store.execute(f"alter table {table.sql} add column {quoted(column.name)} {column.target}")
            missing = table.relation.columns[number].missing
            if (
                missing is not None
            ):  # what the rows hold that were there before; the source sends nothing for them
                value = from_text(literal(missing), column.target)
                self._store.execute(f"update {table.sql} set {quoted(column.name)} = {value}")
            log.info("column_added", extra={"table": str(table.relation), "column": column.name})

    def _rename_column(self, table: Table, old: str, new: str) -> None:
        self._store.execute(f"alter table {table.sql} rename column {quoted(old)} to {quoted(new)}")


def _distinct(table: Table) -> None:
    """DuckDB's column names ignore case."""
    seen: dict[str, str] = {}
    for column in table.columns:
        other = seen.setdefault(column.name.lower(), column.name)
        if other != column.name:
            raise table.stopped(
                f"columns {other!r} and {column.name!r} are one to DuckDB, whose names ignore case",
                hint="rename one at the source, or leave one out with a column list",
            )


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}_{number}"
        number += 1


def _loaded(text: str | None) -> tuple[TargetColumn, ...] | None:
    if text is None:
        return None
    return tuple(
        TargetColumn(item["name"], item["target"], SourceType(**item["source"]), item["attnum"])
        for item in json.loads(text)
    )
