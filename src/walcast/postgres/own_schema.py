"""The schema `walcast`: ours only when nobody else can put something into it that we would run.

Who may create schemas can make one of that name first, with a table whose trigger, or a function whose body, runs with
the rights of whoever uses it. So its owners are looked at before anything in it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from walcast.model import OperatorError
from walcast.postgres.connect import Connection

# A superuser is a member of every role, which says nothing here: then the owner must be one, too.
UNTRUSTED: Final[LiteralString] = """
select pg_catalog.format('%s belongs to %I', o.what, r.rolname)
  from (select 'schema walcast' as what, n.nspowner as owner from pg_catalog.pg_namespace n where n.nspname = 'walcast'
        union all
        select 'walcast.' || c.relname, c.relowner from pg_catalog.pg_class c
          join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'walcast' and c.relkind in ('r', 'p', 'v', 'm', 'f')
        union all
        select 'function walcast.' || p.proname, p.proowner from pg_catalog.pg_proc p
          join pg_catalog.pg_namespace n on n.oid = p.pronamespace where n.nspname = 'walcast') o
  join pg_catalog.pg_roles r on r.oid = o.owner
 cross join (select * from pg_catalog.pg_roles where rolname = current_user) me
 cross join (select datdba from pg_catalog.pg_database where datname = pg_catalog.current_database()) d
 where not (r.rolsuper or r.oid = me.oid or r.oid = d.datdba
            or (not me.rolsuper and pg_catalog.pg_has_role(r.oid, 'member')))
 order by 1
"""
"""What of it belongs to somebody who is neither this role, nor a superuser, nor the database's owner."""


async def check_own_schema(connection: Connection) -> None:
    """Raises OperatorError when somebody else owns a part of it."""
    rows = await (await connection.execute(UNTRUSTED)).fetchall()
    refuse([row[0] for row in rows])


def refuse(found: Sequence[str]) -> None:
    """Raises OperatorError unless there is nothing."""
    if found:
        raise OperatorError(
            f"what Walcast keeps in schema walcast could be anybody's: {'; '.join(found[:5])}",
            hint="find out who made it; then alter ... owner to Walcast's role, or drop it",
        )
