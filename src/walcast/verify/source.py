"""The source's side of a comparison: which tables there are, and their rows under a fence's snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg import sql

from walcast.model import Cut, OperatorError, Relation, TableId
from walcast.model.comparing import Form
from walcast.postgres.catalog import describe_relations, list_tables
from walcast.postgres.comparing import ComparedColumn, PostgresTable, ordered
from walcast.postgres.connect import Connection
from walcast.postgres.cut import begin_at_cut
from walcast.postgres.faults import explain
from walcast.postgres.published import Published, published_tables


class Reshaped(Exception):
    """A table is not any more what it was when it was looked up: it was altered, or dropped."""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A published table: `relation` has the columns that are sent, `whole` all of them; `rows` is an estimate."""

    relation: Relation
    published: Published
    rows: int
    whole: Relation

    @property
    def table(self) -> TableId:
        return self.relation.table

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(self.relation.columns[number].name for number in self.relation.key)

    @property
    def ordered(self) -> bool:
        """Whether its key has the same order everywhere."""
        return ordered([self.relation.columns[number].type for number in self.relation.key])


class SourceReader:
    """A connection to the source; an async context manager. One call at a time."""

    def __init__(self, connection: Connection, publication: str, selected: Callable[[TableId], bool]) -> None:
        self.connection = connection
        self._publication = publication
        self._selected = selected

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.connection.close()

    async def tables(self) -> list[SourceTable]:
        """What the publication sends and the pipeline selects, in the order of names."""
        try:
            await self.connection.rollback()
            published = await published_tables(self.connection, self._publication)
            wanted = {item.oid: item for table, item in published.items() if self._selected(table)}
            described = await describe_relations(self.connection, wanted)
            sizes = {item.oid: item.rows for item in await list_tables(self.connection, list(wanted))}
        except psycopg.Error as error:
            raise explain(error, "reading the publication") from None
        return [
            SourceTable(
                _sent(relation, wanted[relation.oid]),
                wanted[relation.oid],
                sizes.get(relation.oid, 0),
                relation,
            )
            for _, relation in sorted(described.items())
        ]

    async def again(self, item: SourceTable) -> SourceTable | None:
        """The table as it is now; None: it is gone, or not published any more."""
        return next((found for found in await self.tables() if found.table == item.table), None)

    async def take(self, item: SourceTable) -> Cut:
        """The snapshot under which everything is read until the next. Raises Reshaped when the table has other columns in it."""
        cut = await begin_at_cut(self.connection, [item.table])
        try:
            found = await describe_relations(self.connection, [item.relation.oid])
        except psycopg.Error as error:
            raise explain(error, f"reading the columns of {item.table}") from None
        now = found.get(item.table)
        if now is None or _shape(now) != _shape(item.whole):
            raise Reshaped(str(item.table))
        return cut

    def opened(self, item: SourceTable, forms: Mapping[str, Form], where: str | None = None) -> PostgresTable:
        """The table under the snapshot taken last; the columns of `forms`, in those forms. `where`: SQL of whoever may write
        it, beside the row filter."""
        name = sql.Identifier(*item.table)
        condition: Any = item.published.filter  # the server's own text, from its catalog
        if where is not None:
            condition = where if condition is None else f"({condition}) and ({where}\n)"
        return PostgresTable(
            self.connection,
            name if item.published.partitioned else sql.SQL("only {}").format(name),
            [ComparedColumn(column.name, column.type, column.sql_type) for column in item.relation.columns],
            item.key,
            forms,
            condition=None if condition is None else sql.SQL(condition),
        )

    async def try_condition(self, item: SourceTable, where: str) -> None:
        """Raises OperatorError when `where` is no condition on the table's rows."""
        name = sql.Identifier(*item.table)
        text: Any = where
        try:
            await self.connection.rollback()
            await self.connection.execute("begin transaction read only")
            await self.connection.execute(
                sql.SQL("select from {} where ({}\n) limit 0").format(name, sql.SQL(text))
            )
            await self.connection.rollback()
        except psycopg.Error as error:
            await self.connection.rollback()
            raise OperatorError(
                f"{item.table}: the condition cannot be used: {error.diag.message_primary}",
                hint="write it as after `where`; functions and types with their schema",
            ) from None

    async def release(self) -> None:
        """Lets the snapshot go."""
        try:
            await self.connection.rollback()
        except psycopg.Error as error:
            raise explain(error, "reading the source") from None


def chosen(tables: Sequence[SourceTable], wanted: Sequence[TableId]) -> list[SourceTable]:
    """Those that are asked for (none: all). Raises OperatorError for one that the pipeline does not copy."""
    known = {item.table: item for item in tables}
    for table in wanted:
        if table not in known:
            raise OperatorError(
                f"{table} is not among the tables of the pipeline",
                hint=f"tables: {', '.join(map(str, list(known)[:10])) or 'none'}",
            )
    return [known[table] for table in wanted] if wanted else list(tables)


def _shape(relation: Relation) -> list[tuple[object, ...]]:
    return [(c.attnum, c.name, c.type, c.typmod, c.key) for c in relation.columns]


def _sent(relation: Relation, published: Published) -> Relation:
    columns = tuple(column for column in relation.columns if column.name in published.columns)
    return Relation(relation.oid, relation.table, columns, relation.identity)
