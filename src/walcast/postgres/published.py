"""What a publication sends, as the server understands it: tables, their columns and row filters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from walcast.model import OperatorError, TableId
from walcast.postgres.connect import Connection

_ALL_COLUMNS: Final[LiteralString] = "true"
_LISTED: Final[LiteralString] = "a.attname = any (p.attnames)"
_STORED: Final[LiteralString] = "a.attgenerated = ''"

_PUBLISHED: Final[LiteralString] = """
select c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, {filter},
       array(select a.attname::text from pg_catalog.pg_attribute a
              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and {listed} and {stored}
              order by a.attnum)
  from pg_catalog.pg_publication_tables p
  join pg_catalog.pg_namespace n on n.nspname = p.schemaname
  join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
 where p.pubname = %s
 order by n.nspname, c.relname
"""
_PUBLISHED_13: Final[LiteralString] = (
    _PUBLISHED.replace("{filter}", "null::text")
    .replace("{listed}", _ALL_COLUMNS)
    .replace("{stored}", _STORED)
)
_PUBLISHED_15: Final[LiteralString] = (
    _PUBLISHED.replace("{filter}", "p.rowfilter").replace("{listed}", _LISTED).replace("{stored}", _STORED)
)
_PUBLISHED_18: Final[LiteralString] = (
    _PUBLISHED.replace("{filter}", "p.rowfilter")
    .replace("{listed}", _LISTED)
    .replace("{stored}", _ALL_COLUMNS)
)

_EXISTS: Final[LiteralString] = "select from pg_catalog.pg_publication where pubname = %s"


# A column list names attributes of the table that it was given for, which may be an ancestor's: that proves nothing.
_LISTS: Final[LiteralString] = """
select prrelid::int8, prattrs::int2[]
  from pg_catalog.pg_publication_rel where prattrs is not null and prrelid::int8 = any (%s::int8[])
"""


@dataclass(frozen=True, slots=True)
class Published:
    """A table as a publication sends it: `columns` in the stream's order, `filter` an SQL condition (15+).

    `partitioned`: it is a root, published for its leaves.
    """

    oid: int
    table: TableId
    columns: tuple[str, ...]
    filter: str | None = None
    partitioned: bool = False


async def published_tables(
    connection: Connection, publication: str, patience: float = 30.0
) -> dict[TableId, Published]:
    """Every table of the publication. Waits at most `patience` seconds for a table that somebody is altering.

    Raises OperatorError when there is no such publication, and psycopg's LockNotAvailable.
    """
    version = connection.info.server_version
    query = _PUBLISHED_18 if version >= 180_000 else _PUBLISHED_15 if version >= 150_000 else _PUBLISHED_13
    async with lock_timeout(connection, patience):
        rows = await (await connection.execute(query, [publication])).fetchall()
    if not rows and not await (await connection.execute(_EXISTS, [publication])).fetchall():
        raise OperatorError(
            f"there is no publication {publication!r} in database {connection.info.dbname}",
            hint="`walcast publication create`, or name an existing one; \\dRp in psql lists them",
        )
    return {
        TableId(schema, name): Published(oid, TableId(schema, name), tuple(columns), condition, kind == "p")
        for oid, schema, name, kind, condition, columns in rows
    }


async def column_lists(connection: Connection, oids: Collection[int]) -> dict[int, list[list[int]]]:
    """The column lists (attribute numbers) of these tables, in all publications. Takes no locks."""
    found: dict[int, list[list[int]]] = {oid: [] for oid in oids}
    if connection.info.server_version >= 150_000:
        for oid, numbers in await (await connection.execute(_LISTS, [list(oids)])).fetchall():
            found[oid].append(numbers)
    return found


@asynccontextmanager
async def lock_timeout(connection: Connection, seconds: float) -> AsyncIterator[None]:
    """A transaction (or part of one) that waits so long for a lock. The server looks into tables where one would not
    think so: for the tables of a publication, for a table's size."""
    async with connection.transaction():
        statement = sql.SQL("set local lock_timeout = {}").format(max(1, round(seconds * 1000)))
        await connection.execute(statement)
        yield
        await connection.execute("set local lock_timeout = 0")
