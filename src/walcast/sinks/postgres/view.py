"""The copy as it is at one moment, to be compared with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString, Self

import psycopg
from psycopg import sql

from walcast.model import Relation, SinkUnavailable, TableId
from walcast.model.comparing import Form
from walcast.postgres.catalog import describe_relations
from walcast.postgres.comparing import ComparedColumn, PostgresTable, natural_form, ordered
from walcast.postgres.connect import Connection
from walcast.postgres.faults import explain

_BEGIN: Final[LiteralString] = "begin transaction isolation level repeatable read, read only"
_FIND: Final[LiteralString] = """
select c.oid::int8, c.relkind::text from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p')
"""
_LOCK_TIMEOUT: Final[LiteralString] = "set local lock_timeout = 2000"


class PostgresView:
    """Implements `walcast.model.comparing.CopyView`."""

    def __init__(self, connection: Connection, tables: Mapping[TableId, CopiedPostgresTable]) -> None:
        self._connection = connection
        self._tables = tables

    @classmethod
    async def open(
        cls, connection: Connection, schemas: Mapping[str, str], relations: Sequence[Relation]
    ) -> Self:
        """Locks the tables (access share) before the snapshot is taken: one that the sink truncates later would look
        empty. `schemas` are the copy's names of the source's. Closes the connection when it fails."""
        try:
            found = {}
            for relation in relations:
                name = (schemas.get(relation.table.schema, relation.table.schema), relation.table.name)
                row = await (await connection.execute(_FIND, name)).fetchone()
                if row is not None:
                    found[relation] = (row[0], row[1], sql.Identifier(*name))
            await connection.execute(_BEGIN)
            await connection.execute(_LOCK_TIMEOUT)
            for _, _, identifier in found.values():
                await connection.execute(sql.SQL("lock table {} in access share mode").format(identifier))
            described = await describe_relations(connection, [oid for oid, _, _ in found.values()])
            by_oid = {held.oid: held for held in described.values()}
            tables = {
                relation.table: CopiedPostgresTable(
                    connection,
                    identifier if kind == "p" else sql.SQL("only {}").format(identifier),
                    relation,
                    by_oid[oid],
                )
                for relation, (oid, kind, identifier) in found.items()
                if oid in by_oid
            }
        except psycopg.Error as error:
            await connection.close()
            raise explain(error, "reading the copy", unavailable=SinkUnavailable) from None
        except BaseException:
            await connection.close()
            raise
        return cls(connection, tables)

    async def table(self, relation: Relation) -> CopiedPostgresTable | None:
        return self._tables.get(relation.table)

    async def close(self) -> None:
        await self._connection.close()


class CopiedPostgresTable(PostgresTable):
    """Implements `walcast.model.comparing.CopiedTable`: the source's columns, found by name."""

    def __init__(
        self, connection: Connection, source: sql.Composable, relation: Relation, held: Relation
    ) -> None:
        there = {column.name: column for column in held.columns}
        self.forms: dict[str, Form] = {
            column.name: natural_form(column.type) for column in relation.columns if column.name in there
        }
        key = [relation.columns[number].name for number in relation.key]
        self.ordered = all(name in there for name in key) and ordered([there[name].type for name in key])
        columns = [ComparedColumn(name, there[name].type, there[name].sql_type) for name in self.forms]
        super().__init__(connection, source, columns, [name for name in key if name in there], self.forms)
