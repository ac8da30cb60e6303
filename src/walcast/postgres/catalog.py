"""What the source's catalog says: which history it is, which tables it has, and how their rows look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, LiteralString

from walcast.model import Column, Relation, SourceIdentity, TableId, TypeInfo
from walcast.postgres.connect import Connection
from walcast.postgres.selection import Table
from walcast.postgres.typeinfo import load_types

_IDENTITY: Final[LiteralString] = """
select s.system_identifier::text,
       case when pg_catalog.pg_is_in_recovery()
            then coalesce((select received_tli from pg_catalog.pg_stat_wal_receiver),
                          (select timeline_id from pg_catalog.pg_control_checkpoint()))
            else ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int
       end,
       pg_catalog.current_database()::text
  from pg_catalog.pg_control_system() s
"""

_TABLES: Final[LiteralString] = """
select c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       case when c.relispartition then
           array(select a.relid::oid::int8 from pg_catalog.pg_partition_ancestors(c.oid) with ordinality a(relid, n)
                  where a.relid <> c.oid order by a.n)
       else '{}' end,
       c.relreplident::text,
       case c.relreplident
            when 'f' then true
            when 'i' then exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisreplident)
            when 'd' then exists (select from pg_catalog.pg_index i
                                   where i.indrelid = c.oid and i.indisprimary and i.indimmediate)
            else false end,
       pg_catalog.row_security_active(c.oid),
       pg_catalog.has_table_privilege(c.oid, 'select') and pg_catalog.has_schema_privilege(n.oid, 'usage'),
       not c.relispartition and exists (select from pg_catalog.pg_inherits i where c.oid in (i.inhrelid, i.inhparent)
                                                                      and c.relkind = 'r'),
       s.pages, case when c.reltuples > 0 and c.relpages > 0 then c.reltuples / c.relpages * s.pages
                     else s.pages * 80 end::int8
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select case when c.relkind in ('r', 'm') then pg_catalog.pg_relation_size(c.oid) / 8192
                                  else 0 end) s(pages)
 where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S')
   and c.relpersistence <> 't'
   and n.nspname <> 'information_schema' and n.nspname not like 'pg\\_%%'
   and (%(oids)s::int8[] is null or c.oid::int8 = any (%(oids)s::int8[]))
 order by n.nspname, c.relname
"""

_COLUMNS: Final[LiteralString] = """
select a.attrelid::int8, n.nspname::text, c.relname::text, c.relreplident::text,
       a.attname::text, a.atttypid::int8, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attnum, not a.attnotnull, a.attgenerated <> '',
       coalesce(a.attnum = any (k.indkey[0 : k.indnkeyatts - 1]), false),
       case when a.atthasmissing then (a.attmissingval::text::text[])[1] end,
       not a.atthasmissing and (a.atthasdef or a.attidentity <> '' or exists (
           select from pg_catalog.pg_type d where d.oid = a.atttypid and d.typdefault is not null))
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_class c on c.oid = a.attrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_index k on k.indrelid = a.attrelid
       and case when c.relreplident = 'i' then k.indisreplident
                when c.relreplident = 'd' then k.indisprimary and k.indimmediate
                else k.indisprimary end
 where a.attrelid::int8 = any (%s::int8[]) and a.attnum > 0 and not a.attisdropped
 order by a.attrelid, a.attnum
"""


async def identity(connection: Connection) -> SourceIdentity:
    """Which history this server is in now: it changes with a failover (timeline) and a restore (system identifier)."""
    row = await fetch_one(connection, _IDENTITY)
    return SourceIdentity(int(row[0]), row[1], connection.info.server_version, row[2])


async def list_tables(connection: Connection, oids: Sequence[int] | None = None) -> list[Table]:
    """Every table, view, sequence and foreign table outside the system's schemas, or those with these oids.

    A partitioned table's size is that of its leaves.
    """
    cursor = await connection.execute(_TABLES, {"oids": list(oids) if oids is not None else None})
    tables = [
        Table(
            oid=row[0],
            id=TableId(row[1], row[2]),
            kind=row[3],
            persistence=row[4],
            ancestors=tuple(row[5]),
            identity=row[6],
            identified=row[7],
            row_security=row[8],
            readable=row[9],
            inherits=row[10],
            bytes=row[11] * 8192,
            rows=row[12],
        )
        for row in await cursor.fetchall()
    ]
    return [_with_leaves(table, tables) if table.kind == "p" else table for table in tables]


async def describe_relations(connection: Connection, oids: Iterable[int]) -> dict[TableId, Relation]:
    """The tables with these oids as they are now, generated columns included; oids that are gone are left out.

    The key of a row is the replica identity index; under FULL and NOTHING the primary key if there is one.
    """
    cursor = await connection.execute(_COLUMNS, [list(oids)])
    rows = await cursor.fetchall()
    types = await load_types(connection, {row[5] for row in rows})
    grouped: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(row)
    return {
        TableId(first[1], first[2]): Relation(
            oid, TableId(first[1], first[2]), tuple(_column(row, types) for row in columns), first[3]
        )
        for oid, columns in grouped.items()
        for first in columns[:1]
    }


async def fetch_one(
    connection: Connection, query: LiteralString, params: Sequence[Any] = ()
) -> tuple[Any, ...]:
    """The one row of a query that always has one."""
    row = await (await connection.execute(query, params or None)).fetchone()
    if row is None:
        raise LookupError("a query that always has a row returned none")
    return row


def _column(row: tuple[Any, ...], types: dict[int, TypeInfo]) -> Column:
    return Column(
        name=row[4],
        type=types[row[5]],
        typmod=row[6],
        sql_type=row[7],
        attnum=row[8],
        nullable=row[9],
        generated=row[10],
        key=row[11],
        missing=row[12],
        unproven=row[13],
    )


def _with_leaves(root: Table, tables: Sequence[Table]) -> Table:
    leaves = [table for table in tables if root.oid in table.ancestors]
    return replace(root, rows=sum(leaf.rows for leaf in leaves), bytes=sum(leaf.bytes for leaf in leaves))
