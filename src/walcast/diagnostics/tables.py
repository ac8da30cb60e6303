"""Checks of tables and publications beyond what `run` asks before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from walcast.diagnostics.case import Case
from walcast.model import Finding, Fix
from walcast.postgres.passing import passing_publications
from walcast.postgres.publications import lacking
from walcast.postgres.selection import BOOKKEEPING

_SHOWN: Final = 10

# An index supports the key when its first columns are the key's, in any order.
_BARE_KEYS: Final[LiteralString] = """
select n.nspname::text, c.relname::text, f.conname::text, pg_catalog.format('create index concurrently on %%I.%%I (%%s)',
           n.nspname, c.relname, (select string_agg(pg_catalog.quote_ident(a.attname), ', ' order by k.place)
                                    from pg_catalog.unnest(f.conkey) with ordinality k(attnum, place)
                                    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum))
  from pg_catalog.pg_constraint f
  join pg_catalog.pg_class c on c.oid = f.conrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where f.contype = 'f' and f.conparentid = 0 and c.oid::int8 = any (%s::int8[])
   and not exists (select from pg_catalog.pg_index i
                    where i.indrelid = c.oid and i.indisvalid and i.indpred is null
                      and (i.indkey::int2[])[0 : pg_catalog.cardinality(f.conkey) - 1] @> f.conkey)
 order by 1, 2, 3
"""
_OTHERS: Final[LiteralString] = """
select exists (select from pg_catalog.pg_tables where schemaname = %s)
"""


async def check_foreign_keys(case: Case) -> Sequence[Finding]:
    if case.server.wanted is None:
        return []
    oids = [table.oid for table in case.server.wanted.selection.tables]
    return [
        Finding(
            "notice",
            "foreign_key_without_index",
            f"{schema}.{table}: no index supports foreign key {name}: a delete or a key change at the table it points to"
            " reads all of this one, at the source and where it is looked up again",
            statement,
        )
        for schema, table, name, statement in await case.rows(_BARE_KEYS, [oids])
    ]


async def check_membership(case: Case) -> Sequence[Finding]:
    wanted = case.server.wanted
    if wanted is None or wanted.publication is None or case.server.standby:
        return []
    publication, found = wanted.publication, []
    added = lacking(publication, wanted.membership)
    if added and publication.owned:  # one that belongs to somebody else is an error of check_publication
        names = ", ".join(str(table.id) for table in added[:_SHOWN])
        more = f" and {len(added) - _SHOWN} more" if len(added) > _SHOWN else ""
        found.append(
            Finding(
                "warning",
                "not_published",
                f"publication {publication.name} does not send {names}{more}, which the configuration selects",
                "walcast reload" if case.running else "the next walcast run adds them",
                fix=Fix("publish", publication.name, f"add {names}{more} to publication {publication.name}"),
            )
        )
    if publication.all_tables and (await case.rows(_OTHERS, [BOOKKEEPING]))[0][0]:
        found.append(
            Finding(
                "notice",
                "bookkeeping_published",
                f"publication {publication.name} is for all tables, and the source holds another copy's bookkeeping"
                f" (schema {BOOKKEEPING}): it is left out here, other readers get it",
                None,
            )
        )
    return found


async def check_leftovers(case: Case) -> Sequence[Finding]:
    if case.server.standby:
        return []
    return [
        Finding(
            "notice",
            "leftover_publication",
            f"publication {name} was made by a `walcast tail` that was killed: nobody uses it",
            f"walcast publication drop {name}",
            fix=Fix("drop_publication", name, f"drop publication {name}"),
        )
        for name in await passing_publications(case.connection)
    ]
