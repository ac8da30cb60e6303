"""Checks of tables: selection, rights, publication, replica identity, types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, LiteralString

from walcast.model import Finding, OperatorError, TableId, finding_of
from walcast.postgres.catalog import describe_relations, fetch_one
from walcast.postgres.preflight.facts import Facts
from walcast.postgres.publications import (
    add_statement,
    check_membership,
    check_root,
    create_statement,
    lacking,
    missing_rights,
)
from walcast.postgres.selection import Table, named
from walcast.postgres.wanted import did_you_mean

_SHOWN: Final = 10
"""Tables listed by name in one message."""

# The dependencies in pg_depend would name the columns of a column list, too: the filter itself says which it reads.
_FILTERED: Final[LiteralString] = r"""
select n.nspname::text, c.relname::text, string_agg(a.attname::text, ', ' order by a.attnum)
  from pg_catalog.pg_publication p
  join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
  join pg_catalog.pg_class c on c.oid = r.prrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 cross join lateral (select distinct m.found[1]::int2
                       from pg_catalog.regexp_matches(r.prqual::text, ':varattno (\d+) ', 'g') m(found)) v(attnum)
  join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = v.attnum and a.attnum > 0
 where p.pubname::text = %s and (p.pubupdate or p.pubdelete) and r.prqual is not null and c.relreplident <> 'f'
   and not exists (select from pg_catalog.pg_index i
                    where i.indrelid = c.oid and a.attnum = any (i.indkey::int2[])
                      and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end)
 group by 1, 2 order by 1, 2
"""


async def check_selection(facts: Facts) -> list[Finding]:
    if facts.refusal is not None:
        return [finding_of(facts.refusal, "selection")]
    if facts.wanted is None:
        return []
    selection = facts.wanted.selection
    found = [
        Finding(
            "error", "no_such_table", f"no table matches {text!r}", did_you_mean(text, facts.wanted.catalog)
        )
        for text in selection.unmatched
    ]
    for table in selection.refused:
        exact = named(table, facts.config.include)
        found.append(
            Finding(
                "error" if exact else "warning",
                "table_refused",
                f"{table.id} {table.refusal}" + ("" if exact else "; it is left out"),
                "take it out of source.include" if exact else "alter table ... set logged, or exclude it",
            )
        )
    if not selection.tables and not found:
        found.append(
            Finding(
                "error", "nothing_selected", "no table is selected", "check source.include and source.exclude"
            )
        )
    return found


async def check_readable(facts: Facts) -> list[Finding]:
    if facts.wanted is None:
        return []
    found = []
    dark = [table for table in facts.wanted.selection.tables if not table.readable]
    if dark:
        (role,) = await fetch_one(facts.connection, "select current_user::text")
        schemas = sorted({table.id.schema for table in dark})
        found.append(
            Finding(
                "error",
                "no_select",
                f"{role} may not read {_names(dark)}",
                "; ".join(
                    f'grant usage on schema "{schema}" to "{role}"; grant select on all tables in schema "{schema}" to "{role}"'
                    for schema in schemas
                ),
            )
        )
    hidden = [table for table in facts.wanted.selection.tables if table.row_security and table.readable]
    if hidden:
        found.append(
            Finding(
                "error",
                "row_security",
                f"row-level security hides rows of {_names(hidden)} from this role: a snapshot would miss them",
                "alter role ... bypassrls, or add a policy that shows it every row",
            )
        )
    return found


async def check_publication(facts: Facts) -> list[Finding]:
    """Whether the publication sends what was selected, or can be made to by this role."""
    wanted = facts.wanted
    if wanted is None or not wanted.membership.members or facts.standby:
        return []
    try:
        await check_membership(facts.connection, wanted.membership)
        if wanted.publication is not None:
            check_root(wanted.publication, wanted.membership)
    except OperatorError as error:
        return [finding_of(error, "publication")]
    name, publication = facts.config.publication, wanted.publication
    added = wanted.membership.members if publication is None else lacking(publication, wanted.membership)
    if not added:
        return []
    lacks = await missing_rights(facts.connection, added, create=publication is None)
    if publication is not None and not publication.owned:
        lacks.insert(0, f"it belongs to {publication.owner}")
    if not lacks:
        return []
    statement = (
        create_statement(name, wanted.membership)
        if publication is None
        else add_statement(name, added, wanted.membership)
    )
    what = (
        f"there is no publication {name}"
        if publication is None
        else f"publication {name} lacks {_names(added)}"
    )
    return [
        Finding(
            "error",
            "publication",
            f"{what}, and this role cannot change that: {'; '.join(lacks)}",
            f"have somebody who may run: {statement.as_string(facts.connection)}",
        )
    ]


async def check_published_shape(facts: Facts) -> list[Finding]:
    """What an existing publication leaves out, or breaks at the source."""
    publication = facts.wanted.publication if facts.wanted is not None else None
    if publication is None:
        return []
    found = []
    silent = [op for op in ("insert", "update", "delete", "truncate") if op not in publication.operations]
    if silent:
        found.append(
            Finding(
                "warning",
                "operations_not_published",
                f"publication {publication.name} does not send {', '.join(silent)}: copies will differ from the source",
                f"alter publication {publication.name} set (publish = 'insert, update, delete, truncate')",
            )
        )
    if facts.version >= 150_000:
        cursor = await facts.connection.execute(_FILTERED, [publication.name])
        found += [
            Finding(
                "error",
                "filter_beyond_identity",
                f"the row filter of {schema}.{name} reads {columns}, not of its replica identity: UPDATE and DELETE fail"
                " at the source",
                f"alter table {TableId(schema, name).written} replica identity full, or filter by key columns",
            )
            for schema, name, columns in await cursor.fetchall()
        ]
    return found


async def check_identity(facts: Facts) -> list[Finding]:
    """Publishing a table without replica identity makes UPDATE and DELETE fail at the source, for its applications."""
    wanted = facts.wanted
    if wanted is None:
        return []
    publication = wanted.publication
    if publication is not None and not {"update", "delete"} & set(publication.operations):
        return []
    published = set(publication.tables) if publication is not None else set()
    found = []
    for table in wanted.selection.tables:
        bare = [leaf for leaf in wanted.leaves(table) if not leaf.identified]
        if not bare:
            continue
        already = table.id in published
        found.append(
            Finding(
                "warning" if already else "error",
                "no_replica_identity",
                f"{_names(bare)}: no primary key and no replica identity; UPDATE and DELETE "
                + ("fail at the source" if already else "would fail at the source once it is published"),
                f"add a primary key, or alter table {bare[0].id.written} replica identity full"
                + ("" if already else ", or exclude it"),
            )
        )
    return found


async def check_inheritance(facts: Facts) -> list[Finding]:
    if facts.wanted is None:
        return []
    found = [table for table in facts.wanted.selection.tables if table.inherits]
    if not found:
        return []
    return [
        Finding(
            "notice",
            "inheritance",
            f"{_names(found)}: tables that inherit are copied one by one; a query of the parent's copy shows its own rows",
            None,
        )
    ]


async def check_binary(facts: Facts) -> list[Finding]:
    """A value without binary output kills a binary stream at every attempt."""
    if facts.wanted is None or facts.config.binary == "off":
        return []
    oids = [
        leaf.oid for table in facts.wanted.selection.tables for leaf in (table, *facts.wanted.leaves(table))
    ]
    relations = (await describe_relations(facts.connection, set(oids))).values()
    columns = [
        f"{r.table}.{c.name} ({c.sql_type})" for r in relations for c in r.columns if not c.type.has_binary
    ]
    if not columns:
        return []
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return [
        Finding(
            "error" if facts.config.binary == "on" else "notice",
            "no_binary_output",
            f"no binary form: {', '.join(columns[:_SHOWN])}{more}; values travel as text",
            "set source.binary = auto" if facts.config.binary == "on" else None,
        )
    ]


def _names(tables: Iterable[Table]) -> str:
    names = [str(table.id) for table in tables]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
