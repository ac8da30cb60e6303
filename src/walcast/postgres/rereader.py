"""Reads the source again: rows by their keys or links, in a snapshot in which given transactions are visible.

The stream may bring a transaction before others can see it: for a moment always, and for as long as a synchronous
standby is late. So the snapshot is taken again until it sees all that was asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg import sql

from walcast.decode.values import loaders
from walcast.model import Lsn, Relation, SourceIdentity, SourceUnavailable, TableId, Visibility
from walcast.model.derived import Key, Row
from walcast.model.secret import Secret
from walcast.postgres.catalog import describe_relations, fetch_one, identity, list_tables
from walcast.postgres.connect import Connection, connect
from walcast.postgres.cut import unsettled
from walcast.postgres.faults import explain

log = logging.getLogger("walcast.postgres")

_BEGIN: Final[LiteralString] = "begin transaction isolation level repeatable read, read only"
# The snapshot is taken before the statement runs, the position is read after: so all that it sees committed before.
_SNAPSHOT: Final[LiteralString] = """
select pg_catalog.pg_current_snapshot()::text,
       case when pg_catalog.pg_is_in_recovery() then coalesce(pg_catalog.pg_last_wal_replay_lsn(), '0/0')
            else pg_catalog.pg_current_wal_insert_lsn() end::text
"""
_OIDS: Final[LiteralString] = """
select c.oid::int8 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join unnest(%s::text[], %s::text[]) as w(schema, name) on n.nspname = w.schema and c.relname = w.name
 where c.relkind in ('r', 'p')
"""
_FIRST_WAIT, _LONGEST_WAIT = 0.001, 0.25
_TELL_AFTER = 2.0
"""Seconds after which the log says what is waited for."""


class PostgresReader:
    """Implements `walcast.model.derived.SourceReader` and `SourceView` over one connection; an async context manager.

    `history`: the one that the stream is of. Raises SourceUnavailable when the connection is lost, or leads to a server
    of another history: it is to be opened again.
    """

    def __init__(self, dsn: Secret, application: str, history: SourceIdentity | None = None) -> None:
        self.shown = Lsn(0)
        self._dsn = dsn
        self._application = application
        self._history = history
        self._connection: Connection | None = None
        self._pending: frozenset[int] = frozenset()
        self._relations: dict[TableId, Relation] = {}

    async def __aenter__(self) -> Self:
        connection = await connect(self._dsn, application=self._application)
        try:
            await self._check(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def relations(self, tables: Collection[TableId]) -> Mapping[TableId, Relation]:
        """See SourceReader. Not within a view."""
        names = [[table.schema for table in tables], [table.name for table in tables]]
        try:
            oids = [row[0] for row in await (await self._opened.execute(_OIDS, names)).fetchall()]
            found = await describe_relations(self._opened, oids)
        except psycopg.Error as error:
            raise explain(error, "reading the catalog for the mapping") from None
        self._relations |= found
        return found

    async def tables(self) -> Sequence[TableId]:
        """Every table that there is, for a message that names the nearest."""
        return [table.id for table in await list_tables(self._opened)]

    async def settle(self) -> None:
        try:
            self._pending |= frozenset(await unsettled(self._opened))
        except psycopg.Error as error:
            raise explain(error, "asking for transactions that are not visible yet") from None

    @asynccontextmanager
    async def view(self, xids: Collection[int]) -> AsyncIterator[Self]:
        connection = self._opened
        try:
            await self._see({*xids, *self._pending})
            self._pending = frozenset()
            yield self
        finally:
            if not connection.closed and not connection.broken:
                try:
                    await connection.execute("rollback")
                except psycopg.Error:
                    log.debug("rollback_failed", exc_info=True)

    async def rows(
        self, table: TableId, columns: Sequence[str], by: Sequence[str], values: Collection[Key]
    ) -> Sequence[Row]:
        """The columns `by` are compared in their own types; a value goes as text."""
        relation = self._relations[table]
        arrays = [sql.SQL("%s::text[]::{}[]").format(_type(relation, column)) for column in by]
        if len(by) == 1:
            condition = sql.SQL("where t.{} = any ({})").format(sql.Identifier(by[0]), arrays[0])
        else:
            names = [sql.Identifier(f"v{number}") for number in range(len(by))]
            pairs = [
                sql.SQL("t.{} = v.{}").format(sql.Identifier(column), name)
                for column, name in zip(by, names, strict=True)
            ]
            condition = sql.SQL("join unnest({}) as v({}) on {}").format(
                sql.SQL(", ").join(arrays), sql.SQL(", ").join(names), sql.SQL(" and ").join(pairs)
            )
        query = sql.SQL("select {} from {} t {}").format(_columns(columns), sql.Identifier(*table), condition)
        return await self._fetch(relation, columns, query, [list(part) for part in zip(*values, strict=True)])

    async def page(
        self, table: TableId, columns: Sequence[str], key: Sequence[str], after: Key | None, limit: int
    ) -> Sequence[Row]:
        relation = self._relations[table]
        names = sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(column)) for column in key)
        condition: sql.Composable = sql.SQL("")
        if after is not None:
            casts = [sql.SQL("%s::text::{}").format(_type(relation, column)) for column in key]
            condition = sql.SQL("where ({}) > ({})").format(names, sql.SQL(", ").join(casts))
        query = sql.SQL("select {} from {} t {} order by {} limit {}").format(
            _columns(columns), sql.Identifier(*table), condition, names, sql.Literal(limit)
        )
        return await self._fetch(relation, columns, query, list(after or ()))

    async def _check(self, connection: Connection) -> None:
        """A primary never changes its history under a connection; what a standby follows may."""
        try:
            now = await identity(connection)
            _, lsn = await fetch_one(connection, _SNAPSHOT)
            (standby,) = await fetch_one(connection, "select pg_catalog.pg_is_in_recovery()")
        except psycopg.Error as error:
            raise explain(error, "looking at the source that is read again") from None
        self.shown = Lsn.parse(lsn)
        then = self._history
        if then is not None and (
            now.system_id != then.system_id or (now.timeline != then.timeline and not standby)
        ):
            raise SourceUnavailable(
                f"the source is read again on another history: system {now.system_id}, timeline {now.timeline}",
                hint="it is tried again until the stream has followed; does the DSN name servers that were replaced?",
            )

    @property
    def _opened(self) -> Connection:
        if self._connection is None or self._connection.closed:
            raise SourceUnavailable(
                "the connection that reads the source again is closed", hint="it is tried again"
            )
        return self._connection

    async def _see(self, xids: set[int]) -> None:
        """Begins a transaction whose snapshot sees all of these."""
        loop = asyncio.get_running_loop()
        wait, began, told = _FIRST_WAIT, loop.time(), False
        while True:
            try:
                await self._opened.execute(_BEGIN)
                snapshot, lsn = await fetch_one(self._opened, _SNAPSHOT)
                visibility = Visibility.parse(snapshot)
                unseen = [xid for xid in xids if not visibility.sees(xid)]
                if not unseen:
                    self.shown = max(self.shown, Lsn.parse(lsn))
                    return
                await self._opened.execute("rollback")
            except psycopg.Error as error:
                raise explain(error, "taking a snapshot of the source") from None
            if not told and loop.time() - began > _TELL_AFTER:
                told = True
                log.warning(
                    "waits_for_visibility",
                    extra={
                        "transactions": len(unseen),
                        "hint": "they wait for a synchronous standby: see to it",
                    },
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    async def _fetch(
        self, relation: Relation, columns: Sequence[str], query: sql.Composed, params: list[Any]
    ) -> list[Row]:
        try:
            cursor = await self._opened.execute(query, params or None)
        except psycopg.Error as error:
            raise explain(error, f"reading {relation.table} again") from None
        result = cursor.pgresult
        assert result is not None
        load = [_loader(relation, column) for column in columns]
        return [
            {
                column: None if (value := result.get_value(row, number)) is None else load[number](value)
                for number, column in enumerate(columns)
            }
            for row in range(result.ntuples)
        ]


def _columns(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(column)) for column in columns)


def _type(relation: Relation, column: str) -> sql.Identifier:
    """Without its modifier: a cast to varchar(3) would cut."""
    info = relation.columns[relation.names.index(column)].type
    return sql.Identifier(info.schema or "pg_catalog", info.name)


def _loader(relation: Relation, column: str) -> Callable[[bytes], Any]:
    return loaders(relation.columns[relation.names.index(column)].type)[0]
