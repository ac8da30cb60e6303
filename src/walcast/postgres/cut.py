"""A snapshot of the source that belongs to a position of its stream: what a fence takes (walcast.engine.fence)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from walcast.model import Cut, Lsn, OperatorError, RetryableError, TableId, Visibility
from walcast.postgres.connect import Connection
from walcast.postgres.faults import explain

_BEGIN: Final[LiteralString] = "begin transaction isolation level repeatable read, read only"

# The snapshot is taken before the statement runs, the position is read after: so all that it sees committed before.
_CUT: Final[LiteralString] = """
select pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_current_wal_insert_lsn()::text
"""

# Who may not read others' activity cannot tell a commit that waits from a transaction that works: then all open ones are
# meant. A commit of a prepared transaction waits in a backend that has no transaction id any more.
_UNSETTLED: Final[LiteralString] = """
with waiting as (select a.backend_xid from pg_catalog.pg_stat_activity a where a.wait_event = 'SyncRep'),
     blind as (select not pg_catalog.pg_has_role('pg_read_all_stats', 'usage') as yes)
select backend_xid::text::int8 from waiting where backend_xid is not null
union select p.transaction::text::int8 from pg_catalog.pg_prepared_xacts p
  where (select yes from blind) or exists (select from waiting)
union select l.transactionid::text::int8 from pg_catalog.pg_locks l
  where (select yes from blind) and l.locktype = 'transactionid' and l.granted and l.mode = 'ExclusiveLock'
"""


# What readers write (cleaned pages) is flushed by nobody while the server is idle. The end of a transaction that has an id is
# flushed within wal_writer_delay, and all before it; rolled back, it waits for no standby.
_NUDGE: Final[LiteralString] = "begin; select pg_catalog.pg_current_xact_id(); rollback"


async def begin_at_cut(connection: Connection, tables: Sequence[TableId] = (), patience: float = 2.0) -> Cut:
    """Ends the connection's transaction, if there is one, and begins another whose snapshot the cut describes: read
    only, repeatable read, until it is rolled back.

    `tables` are locked before (access share, as any reader does): one that is truncated or rewritten after the snapshot
    was taken and before it is read would look empty. Waits at most `patience` seconds for the locks. Raises
    OperatorError on a standby and for a table that is not there, RetryableError, SourceUnavailable.
    """
    try:
        await connection.rollback()
        await connection.execute(_BEGIN)
        if tables:
            timeout = sql.Literal(max(1, round(patience * 1000)))
            await connection.execute(sql.SQL("set local lock_timeout = {}").format(timeout))
            names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
            await connection.execute(sql.SQL("lock table {} in access share mode").format(names))
        row = await (await connection.execute(_CUT)).fetchone()
    except psycopg.errors.ObjectNotInPrerequisiteState:
        await connection.rollback()
        raise OperatorError(
            "the source is a standby: its snapshots have no position of the stream that they belong to",
            hint="give the primary's DSN as the source",
        ) from None
    except psycopg.errors.LockNotAvailable:
        await connection.rollback()
        raise RetryableError(
            f"somebody is altering {', '.join(map(str, tables))}", hint="it is tried again"
        ) from None
    except psycopg.Error as error:
        raise explain(error, "taking a snapshot of the source") from None
    assert row is not None
    return Cut(Lsn.parse(row[1]), Visibility.parse(row[0]))


async def unsettled(connection: Connection) -> Sequence[int]:
    """See `walcast.model.KnowsVisibility`."""
    rows = await (await connection.execute(_UNSETTLED)).fetchall()
    return [row[0] & 0xFFFFFFFF for row in rows]


async def nudge(connection: Connection) -> None:
    """See `walcast.model.KnowsVisibility`. Costs a transaction id."""
    await connection.execute(_NUDGE)
