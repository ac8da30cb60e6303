"""Publications: which tables a slot's stream may carry.

Walcast creates one when the role may, adds tables to one that it owns, and otherwise adopts what is there: a role with
only REPLICATION and SELECT then needs nothing more. It never takes a table out by itself: others may read it, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, LiteralString, cast

import psycopg
from psycopg import sql

from walcast.model import ConfigError, OperatorError, TableId, WalcastError
from walcast.postgres.catalog import describe_relations, fetch_one
from walcast.postgres.connect import Connection
from walcast.postgres.faults import explain
from walcast.postgres.selection import Pattern, Table

log = logging.getLogger("walcast.postgres")

_LIST: Final[LiteralString] = """
select p.pubname::text, pg_catalog.pg_get_userbyid(p.pubowner)::text,
       pg_catalog.pg_has_role(p.pubowner, 'usage'), p.puballtables, p.pubviaroot,
       array_remove(array[case when p.pubinsert then 'insert' end, case when p.pubupdate then 'update' end,
                          case when p.pubdelete then 'delete' end, case when p.pubtruncate then 'truncate' end], null),
       array(select t.schemaname::text from pg_catalog.pg_publication_tables t
              where t.pubname = p.pubname order by t.schemaname, t.tablename),
       array(select t.tablename::text from pg_catalog.pg_publication_tables t
              where t.pubname = p.pubname order by t.schemaname, t.tablename)
  from pg_catalog.pg_publication p
 where %(name)s::text is null or p.pubname::text = %(name)s::text
 order by p.pubname
"""

_RIGHTS: Final[LiteralString] = """
select current_user::text, pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create'),
       array(select n.nspname || '.' || c.relname
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where c.oid::int8 = any (%s::int8[]) and not pg_catalog.pg_has_role(c.relowner, 'usage')
              order by n.nspname, c.relname)
"""


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication as the server has it. `tables` are those whose changes it sends, a root standing for its leaves when
    `via_root`; `owned`: this role may change it."""

    name: str
    owner: str
    owned: bool
    all_tables: bool
    via_root: bool
    operations: tuple[str, ...]
    tables: tuple[TableId, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """What is to be published: the tables to name, and for some of them a column list or a row filter (15+).

    `filters` and `columns` are keyed by table as patterns are written (`orders`, `app.orders`). `arriving` are the
    tables whose rows will come; `generated`: stored generated columns, too (18+).
    """

    members: tuple[Table, ...]
    arriving: tuple[Table, ...]
    filters: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    via_root: bool = False
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `ensure_publication` did; `added` are the tables that it named."""

    name: str
    action: Literal["created", "extended", "adopted"]
    added: tuple[TableId, ...]

    def __str__(self) -> str:
        tables = f" ({', '.join(map(str, self.added))})" if self.added else ""
        return f"{self.action} publication {self.name}{tables}"


async def list_publications(connection: Connection) -> list[Publication]:
    """Every publication of the database."""
    return await _read(connection, None)


async def read_publication(connection: Connection, name: str) -> Publication | None:
    """The publication of that name; None when there is none."""
    found = await _read(connection, name)
    return found[0] if found else None


async def ensure_publication(connection: Connection, name: str, wanted: Membership) -> Outcome:
    """Makes the publication send `wanted`: creates it, adds what it lacks, or leaves it as it is.

    Raises OperatorError with the statement that somebody with more rights has to run, ConfigError when filters or
    columns name what is not there.
    """
    await check_membership(connection, wanted)
    found = await read_publication(connection, name)
    if found is None:
        await _change(connection, create_statement(name, wanted), name, wanted.members)
        log.info("publication_created", extra={"publication": name, "tables": len(wanted.members)})
        return Outcome(name, "created", tuple(table.id for table in wanted.members))
    check_root(found, wanted)
    added = lacking(found, wanted)
    if not added:
        return Outcome(name, "adopted", ())
    await _change(connection, add_statement(name, added, wanted), name, added)
    log.info("publication_extended", extra={"publication": name, "tables": len(added)})
    return Outcome(name, "extended", tuple(table.id for table in added))


async def drop_publication(connection: Connection, name: str) -> bool:
    """Drops it; False when there was none. Raises OperatorError when the role does not own it."""
    if await read_publication(connection, name) is None:
        return False
    await _change(connection, sql.SQL("drop publication {}").format(sql.Identifier(name)), name, ())
    log.info("publication_dropped", extra={"publication": name})
    return True


async def check_membership(connection: Connection, wanted: Membership) -> None:
    """Raises when a filter or column list names a table or column that is not there, leaves out a key column, or needs a
    newer server."""
    version = connection.info.server_version
    if (wanted.filters or wanted.columns) and version < 150_000:
        raise OperatorError(
            f"row filters and column lists need PostgreSQL 15; this server is {version // 10_000}",
            hint="take source.filters and source.columns out",
        )
    if wanted.generated and version < 180_000:
        raise OperatorError(
            f"generated columns are published from PostgreSQL 18 on; this server is {version // 10_000}",
            hint="the copy can generate them itself",
        )
    for setting, keyed in (("filters", wanted.filters), ("columns", wanted.columns)):
        for text in keyed:
            if not any(Pattern.parse(text).matches(table.id) for table in wanted.members):
                raise ConfigError(
                    f"source.{setting} names {text}, which is not among the tables to copy",
                    hint="write it as schema.table; check include and exclude",
                )
    listed = {table.oid: columns for table in wanted.members if (columns := _of(wanted.columns, table))}
    for relation in (await describe_relations(connection, listed)).values():
        columns = listed[relation.oid]
        missing = [name for name in columns if name not in relation.names]
        if missing:
            raise ConfigError(
                f"source.columns of {relation}: there is no column {missing[0]!r}",
                hint=f"it has {', '.join(relation.names)}",
            )
        needed = (
            set(relation.names) if relation.identity == "f" else {relation.names[n] for n in relation.key}
        )
        left_out = sorted(needed - set(columns))
        if left_out:
            raise ConfigError(
                f"source.columns of {relation} leaves out {', '.join(left_out)} of the replica identity: "
                "UPDATE and DELETE would fail at the source",
                hint="add the columns to the list"
                + (", or change REPLICA IDENTITY FULL" if relation.identity == "f" else ""),
            )


def check_root(found: Publication, wanted: Membership) -> None:
    """Raises OperatorError when partitions would arrive under other names than the configuration says."""
    partitioned = any(table.kind == "p" for table in wanted.members)
    if partitioned and found.via_root != wanted.via_root:
        says = "their root's name" if found.via_root else "their own names"
        raise OperatorError(
            f"publication {found.name} sends partitions under {says}, the configuration says otherwise",
            hint=f"set source.publish_via_partition_root = {str(found.via_root).lower()}, or have its owner run: "
            f"alter publication {found.name} set (publish_via_partition_root = {str(wanted.via_root).lower()})",
        )


def lacking(found: Publication, wanted: Membership) -> tuple[Table, ...]:
    """The members to add so that all that should arrive does."""
    sent = set(found.tables)
    missing = {table.oid for table in wanted.arriving if table.id not in sent}
    return tuple(
        table
        for table in wanted.members
        if table.oid in missing
        or any(table.oid in leaf.ancestors and leaf.oid in missing for leaf in wanted.arriving)
    )


def create_statement(name: str, wanted: Membership) -> sql.Composed:
    """`create publication` for these members. Raises OperatorError when there are none."""
    if not wanted.members:
        raise OperatorError("no table to publish", hint="check source.include and source.exclude")
    generated: LiteralString = ", publish_generated_columns = stored" if wanted.generated else ""
    return sql.SQL("create publication {} for table {} with (publish_via_partition_root = {}{})").format(
        sql.Identifier(name),
        _members(wanted.members, wanted),
        sql.SQL("true" if wanted.via_root else "false"),
        sql.SQL(generated),
    )


def add_statement(name: str, tables: Sequence[Table], wanted: Membership) -> sql.Composed:
    """`alter publication ... add table` with the members' filters and column lists."""
    return sql.SQL("alter publication {} add table {}").format(sql.Identifier(name), _members(tables, wanted))


async def missing_rights(connection: Connection, tables: Sequence[Table], *, create: bool) -> list[str]:
    """What the role lacks to create a publication (or to add to its own) for these tables, as a person says it."""
    role, may_create, foreign = await fetch_one(connection, _RIGHTS, [[table.oid for table in tables]])
    lacks = []
    if create and not may_create:
        lacks.append(f"{role} lacks CREATE on database {connection.info.dbname}")
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        lacks.append(f"{role} does not own {', '.join(foreign[:5])}{more}")
    return lacks


async def _read(connection: Connection, name: str | None) -> list[Publication]:
    rows = await (await connection.execute(_LIST, {"name": name})).fetchall()
    return [
        Publication(
            name=row[0],
            owner=row[1],
            owned=row[2],
            all_tables=row[3],
            via_root=row[4],
            operations=tuple(row[5]),
            tables=tuple(map(TableId, row[6], row[7])),
        )
        for row in rows
    ]


async def _change(
    connection: Connection, statement: sql.Composed, name: str, tables: Sequence[Table]
) -> None:
    try:
        await connection.execute(statement)
    except psycopg.Error as error:
        raise await _refused(connection, error, statement, name, tables) from None


async def _refused(
    connection: Connection, error: psycopg.Error, statement: sql.Composed, name: str, tables: Sequence[Table]
) -> WalcastError:
    found = explain(error, f"changing publication {name}")
    if error.sqlstate != "42501":
        return found
    exists = await read_publication(connection, name)
    lacks = await missing_rights(connection, tables, create=exists is None)
    if exists is not None and not exists.owned:
        lacks.insert(0, f"publication {name} belongs to {exists.owner}")
    return OperatorError(
        f"this role may not change publication {name}: {'; '.join(lacks) or found.message}",
        hint=f"have somebody who may run: {statement.as_string(connection)}",
    )


def _members(tables: Sequence[Table], wanted: Membership) -> sql.Composed:
    return sql.SQL(", ").join(_member(table, wanted) for table in tables)


def _member(table: Table, wanted: Membership) -> sql.Composed:
    parts: list[sql.Composable] = [
        sql.SQL("only ") if table.kind == "r" else sql.SQL(""),
        sql.Identifier(*table.id),
    ]
    columns = _of(wanted.columns, table)
    if columns:
        parts.append(sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))))
    condition = _of(wanted.filters, table)
    if condition:
        # The operator's own SQL, from the configuration: it is meant to be code.
        parts.append(sql.SQL(" where ({})").format(sql.SQL(cast(LiteralString, condition))))
    return sql.Composed(parts)


def _of(keyed: Mapping[str, Any], table: Table) -> Any:
    return next((value for text, value in keyed.items() if Pattern.parse(text).matches(table.id)), None)
