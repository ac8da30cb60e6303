"""Where a server stands in its history: what tokens are made from, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from walcast.model import Lsn, OperatorError, TimelineHistory, Token
from walcast.model.secret import Secret
from walcast.postgres.connect import connect
from walcast.postgres.faults import explain

STANDING: Final[LiteralString] = """
select s.system_identifier::text, r.recovering,
       case when r.recovering
            then coalesce((select received_tli from pg_catalog.pg_stat_wal_receiver),
                          greatest((select timeline_id from pg_catalog.pg_control_checkpoint()),
                                   (select min_recovery_end_timeline from pg_catalog.pg_control_recovery())))
            else ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int
       end,
       case when r.recovering then coalesce(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::text
            else pg_catalog.pg_current_wal_insert_lsn()::text end,
       pg_catalog.current_setting('wal_block_size')::int,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')),
       extract(epoch from pg_catalog.pg_postmaster_start_time())::float8,
       case when not r.recovering then pg_catalog.pg_current_wal_flush_lsn()::text end
  from (select pg_catalog.pg_is_in_recovery() as recovering offset 0) r
 cross join pg_catalog.pg_control_system() s
"""
"""Any role may ask it. Whether the server recovers is asked once: it may be promoted between two looks. The timeline of a
standby may lag behind (received_tli is hidden without pg_read_all_stats), which errs on the safe side."""

_SHORT_HEADER: Final = 24
_LONG_HEADER: Final = 40
"""Bytes at the start of a page of WAL, and of a segment (src/include/access/xlog_internal.h)."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One look at a server. `lsn` is the insert position of a primary, the replay position of a standby; `started` is when
    its postmaster started, by the server's clock: another one may have other data."""

    system_id: int
    timeline: int
    lsn: Lsn
    recovering: bool
    started: float = 0.0
    flushed: Lsn | None = None
    """What is on a primary's disk: only that is sent to standbys."""

    @classmethod
    def of(cls, row: tuple[Any, ...] | None) -> Standing:
        """From the row of STANDING."""
        if row is None:
            raise LookupError("a query that always has a row returned none")
        system, recovering, timeline, lsn, block, segment, started, flushed = row
        return cls(
            int(system),
            timeline,
            page_start(Lsn.parse(lsn), block, segment),
            recovering,
            started,
            flushed and Lsn.parse(flushed),
        )

    @property
    def token(self) -> Token:
        """What committed here before this look is before it."""
        return Token(self.system_id, self.timeline, self.lsn)


def page_start(lsn: Lsn, block: int, segment: int) -> Lsn:
    """The same position, named by the end of the page before when it is just behind a page's header.

    A record that fills its page ends at the page's end, which is what a standby says that it replayed; the insert
    position has passed the next header by then, and a standby would not come there before the next record does.
    """
    if lsn % segment == _LONG_HEADER:
        return Lsn(lsn - _LONG_HEADER)
    if lsn % block == _SHORT_HEADER:
        return Lsn(lsn - _SHORT_HEADER)
    return lsn


def look(connection: psycopg.Connection[Any]) -> Standing:
    """Where its server stands. One query, outside of any transaction."""
    _outside(connection.info.transaction_status)
    before = connection.autocommit
    connection.autocommit = True  # no transaction is left open behind the caller's back
    try:
        with connection.cursor(row_factory=tuple_row) as cursor:
            return Standing.of(cursor.execute(STANDING, prepare=True).fetchone())
    finally:
        if not connection.closed:
            connection.autocommit = before


async def look_async(connection: psycopg.AsyncConnection[Any]) -> Standing:
    """`look` for an AsyncConnection."""
    _outside(connection.info.transaction_status)
    before = connection.autocommit
    await connection.set_autocommit(True)
    try:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            return Standing.of(await (await cursor.execute(STANDING, prepare=True)).fetchone())
    finally:
        if not connection.closed:
            await connection.set_autocommit(before)


def take_token(connection: psycopg.Connection[Any]) -> Token:
    """A token from a connection to the primary: everything that it has seen committed is before it.

    Take it *after* the commit. One query; from a standby it is what that standby has replayed. Raises OperatorError
    inside a transaction: a token from there would not cover its commit.
    """
    return look(connection).token


async def take_token_async(connection: psycopg.AsyncConnection[Any]) -> Token:
    """`take_token` for an AsyncConnection."""
    return (await look_async(connection)).token


def wait_for(connection: psycopg.Connection[Any], lsn: Lsn, seconds: float) -> None:
    """Waits inside the server (WAIT FOR LSN, PostgreSQL 19) until the standby has replayed so far, or so long (seconds). It
    knows no timelines: look afterwards where the server stands."""
    _outside(connection.info.transaction_status)
    connection.execute(waiting(lsn, seconds))


async def wait_for_async(connection: psycopg.AsyncConnection[Any], lsn: Lsn, seconds: float) -> None:
    """`wait_for` for an AsyncConnection."""
    _outside(connection.info.transaction_status)
    await connection.execute(waiting(lsn, seconds))


def waiting(lsn: Lsn, seconds: float) -> sql.Composed:
    """The command by which a server of version 19 waits. It ends with a status, never with an error."""
    limit = f"{max(1, round(seconds * 1000))}ms"
    return sql.SQL("wait for lsn {} with (timeout {}, no_throw)").format(str(lsn), limit)


async def read_history(dsn: str | Secret, application: str, timeline: int) -> TimelineHistory:
    """How the server came to this timeline. Takes a replication connection; raises what connecting raises, and what
    `faults.explain` makes of a refusal."""
    connection = await connect(dsn, application=application, replication=True)
    async with connection:
        try:
            row = await (await connection.execute(sql.SQL("TIMELINE_HISTORY {}").format(timeline))).fetchone()
        except psycopg.Error as error:
            raise explain(error, "reading the timeline's history") from None
    text = row[1] if row is not None else ""
    return TimelineHistory.parse(
        timeline, text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    )


def _outside(status: psycopg.pq.TransactionStatus) -> None:
    if status != psycopg.pq.TransactionStatus.IDLE:
        raise OperatorError(
            "a token is taken after the commit, and this connection is inside a transaction",
            hint="commit first; then take the token",
        )
