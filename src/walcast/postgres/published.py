"""What a publication sends, as the server understands it: tables, their columns and row filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, LiteralString

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


async def published_tables(connection: Connection, publication: str) -> dict[TableId, Published]:
    """Every table of the publication. Raises OperatorError when there is no such publication."""
    version = connection.info.server_version
    query = _PUBLISHED_18 if version >= 180_000 else _PUBLISHED_15 if version >= 150_000 else _PUBLISHED_13
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
