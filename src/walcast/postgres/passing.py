"""Publications that live as long as a command: named so that what a killed one leaves behind is known and removed.

Whoever makes one holds an advisory lock of its name for as long as its session lives. No lock, no owner.
"""

from __future__ import annotations

import secrets
from typing import Final, LiteralString

from walcast.postgres.catalog import fetch_one
from walcast.postgres.connect import Connection
from walcast.postgres.publications import drop_publication

_PREFIX: Final = "walcast_tail_"
_CLASS: Final = 0x57414C43
"""Our half of the advisory locks' keys."""

_HOLD: Final[LiteralString] = "select pg_catalog.pg_try_advisory_lock(%s, %s)"
_RELEASE: Final[LiteralString] = "select pg_catalog.pg_advisory_unlock(%s, %s)"
_UNHELD: Final[LiteralString] = r"""
select p.pubname::text
  from pg_catalog.pg_publication p
 where p.pubname::text ~ '^walcast_tail_[0-9a-f]{8}$' and pg_catalog.pg_has_role(p.pubowner, 'usage')
   and not exists (select from pg_catalog.pg_locks l join pg_catalog.pg_database d on d.oid = l.database
                    where l.locktype = 'advisory' and d.datname = pg_catalog.current_database()
                      and l.classid::int8 = %s and l.objsubid = 2
                      and l.objid::int8 = ('x' || pg_catalog.right(p.pubname::text, 8))::bit(32)::int8)
 order by 1
"""


def passing_name() -> str:
    """A new name, for a publication and a temporary slot."""
    return f"{_PREFIX}{secrets.token_hex(4)}"


async def claim(connection: Connection, name: str) -> bool:
    """Makes the name ours for as long as the connection is open; False when somebody has it."""
    (held,) = await fetch_one(connection, _HOLD, [_CLASS, _key(name)])
    return bool(held)


async def passing_publications(connection: Connection) -> list[str]:
    """Those that this role may drop and nobody uses any more."""
    return [row[0] for row in await (await connection.execute(_UNHELD, [_CLASS])).fetchall()]


async def drop_passing(connection: Connection, name: str) -> None:
    """Drops it, unless somebody uses it after all."""
    if await claim(connection, name):
        try:
            await drop_publication(connection, name)
        finally:
            await fetch_one(connection, _RELEASE, [_CLASS, _key(name)])


def _key(name: str) -> int:
    """The signed half of a key that stands for the name."""
    number = int(name.removeprefix(_PREFIX), 16)
    return number - (1 << 32) if number >= 1 << 31 else number
