"""How a table is cut for parallel reading: by leaves, and those by ranges of pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from walcast.model import Relation, TableId
from walcast.postgres.connect import Connection
from walcast.postgres.published import Published

# A role may be allowed to read a partitioned table but not its leaves: then the root is read as one.
_LEAVES: Final[LiteralString] = """
select r.oid::int8, n.nspname::text, c.relname::text, s.size::int8,
       case when c.reltuples > 0 and c.relpages > 0
            then c.reltuples / c.relpages * (s.size / b.block) else s.size / 80 end::int8,
       b.block, pg_catalog.has_table_privilege(c.oid, 'select') and pg_catalog.has_schema_privilege(n.oid, 'usage')
  from unnest(%s::int8[]) r(oid)
  cross join lateral (
      select r.oid::oid as relid where not exists (select from pg_catalog.pg_partition_tree(r.oid::oid::regclass))
      union all select t.relid::oid from pg_catalog.pg_partition_tree(r.oid::oid::regclass) t where t.isleaf
  ) l
  join pg_catalog.pg_class c on c.oid = l.relid and c.relkind = 'r'
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select pg_catalog.pg_relation_size(c.oid) as size) s
  cross join (select current_setting('block_size')::int8 as block) b
"""


_FORMATS: Final = {"binary": sql.SQL("binary"), "text": sql.SQL("text")}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table with rows of its own. `size` and `block` are bytes, `rows` is an estimate."""

    table: TableId
    size: int
    rows: int
    block: int
    readable: bool


async def read_leaves(connection: Connection, tables: Sequence[Published]) -> dict[int, list[Leaf]]:
    """The leaves of each table, by its oid; an ordinary table is its own."""
    cursor = await connection.execute(_LEAVES, [[table.oid for table in tables]])
    found: dict[int, list[Leaf]] = {table.oid: [] for table in tables}
    for oid, schema, name, size, rows, block, readable in await cursor.fetchall():
        found[oid].append(Leaf(TableId(schema, name), size, rows, block, readable))
    return found


def statements(
    relation: Relation, published: Published, leaves: Sequence[Leaf], form: str, split: int | None
) -> Iterator[sql.Composed]:
    """COPY statements that together read the table once. `split`: bytes in a range of pages; None: never by range."""
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in relation.columns)
    condition = None if published.filter is None else sql.SQL("({})").format(_trusted(published.filter))
    if published.partitioned and not all(leaf.readable for leaf in leaves):
        yield _copy(columns, sql.Identifier(*relation.table), [condition], form)
        return
    # COPY of a table is cheaper than of a query, but leaves generated columns out.
    plain = condition is None and bool(relation.columns) and not any(c.generated for c in relation.columns)
    for leaf in leaves:
        if plain and (split is None or leaf.size <= split):
            yield sql.SQL("copy {} ({}) to stdout (format {})").format(
                sql.Identifier(*leaf.table), columns, _FORMATS[form]
            )
            continue
        only = sql.SQL("only {}").format(sql.Identifier(*leaf.table))
        for page_range in _ranges(leaf, split):
            yield _copy(columns, only, [page_range, condition], form)
    if not leaves:  # a root without partitions
        yield _copy(columns, sql.Identifier(*relation.table), [condition], form)


def _ranges(leaf: Leaf, split: int | None) -> Iterator[sql.Composed | None]:
    """The last range is open: what was added since the size was read is after it, and invisible to the snapshot."""
    if split is None or leaf.size <= split:
        yield None
        return
    step = max(1, split // leaf.block)
    pages = leaf.size // leaf.block
    for first in range(0, pages, step):
        lower = sql.SQL("ctid >= '({},0)'::pg_catalog.tid").format(first)
        if first + step >= pages:
            yield lower
        else:
            yield sql.SQL("{} and ctid < '({},0)'::pg_catalog.tid").format(lower, first + step)


def _copy(
    columns: sql.Composed, table: sql.Composable, conditions: Sequence[sql.Composed | None], form: str
) -> sql.Composed:
    stated = [condition for condition in conditions if condition is not None]
    where = sql.SQL(" where ") + sql.SQL(" and ").join(stated) if stated else sql.SQL("")
    return sql.SQL("copy (select {} from {}{}) to stdout (format {})").format(
        columns, table, where, _FORMATS[form]
    )


def _trusted(expression: str) -> sql.SQL:
    """The server's own text of a row filter, from its catalog."""
    return sql.SQL(expression)
