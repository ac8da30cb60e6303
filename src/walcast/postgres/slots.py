"""Logical replication slots: what the server keeps for us, and what it costs.

Creating one waits for every transaction that is open at that moment, prepared ones too; `create_slot` says who they are.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from walcast.model import (
    ConfigError,
    Lsn,
    OperatorError,
    SlotInUse,
    SlotLost,
    SlotState,
    WalcastError,
)
from walcast.postgres.connect import Connection
from walcast.postgres.faults import explain

log = logging.getLogger("walcast.postgres")

_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")
_REPORT_EVERY: Final = 1.0
"""Seconds between reports of who is waited for."""

_LIST: Final[LiteralString] = """
select s.slot_name::text, s.confirmed_flush_lsn::text, s.restart_lsn::text, s.active_pid, s.wal_status, {invalidation},
       coalesce(pg_catalog.pg_wal_lsn_diff(
           case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                else pg_catalog.pg_current_wal_lsn() end, s.restart_lsn), 0)::int8,
       s.safe_wal_size, s.plugin::text, s.database::text, {two_phase}
  from pg_catalog.pg_replication_slots s
 where s.slot_type = 'logical' and (%(name)s::text is null or s.slot_name::text = %(name)s::text)
 order by s.slot_name
"""
_LOST: Final[LiteralString] = "case when s.wal_status = 'lost' then 'wal_removed' end"
_LIST_13: Final[LiteralString] = _LIST.replace("{invalidation}", _LOST).replace("{two_phase}", "false")
_LIST_14: Final[LiteralString] = _LIST.replace("{invalidation}", _LOST).replace("{two_phase}", "s.two_phase")
_LIST_16: Final[LiteralString] = _LIST.replace(
    "{invalidation}",
    "case when s.wal_status = 'lost' then 'wal_removed' when s.conflicting then 'conflict' end",
).replace("{two_phase}", "s.two_phase")
_LIST_17: Final[LiteralString] = _LIST.replace("{invalidation}", "s.invalidation_reason").replace(
    "{two_phase}", "s.two_phase"
)

# Locks are visible to every role, unlike pg_stat_activity.backend_xid.
_OPEN: Final[LiteralString] = """
select l.pid, coalesce(a.usename::text, p.owner::text), coalesce(a.application_name, ''), a.state, p.gid,
       coalesce(extract(epoch from pg_catalog.clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8,
       case when l.pid is null then '{}' else pg_catalog.pg_blocking_pids(l.pid) end
  from pg_catalog.pg_locks l
  left join pg_catalog.pg_stat_activity a on a.pid = l.pid
  left join pg_catalog.pg_prepared_xacts p on p.transaction::text = l.transactionid::text and l.pid is null
 where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
   and l.pid is distinct from pg_catalog.pg_backend_pid()
 order by 6 desc
"""

_HOLDER: Final[LiteralString] = """
select s.active_pid, a.usename::text, coalesce(a.application_name, ''), coalesce(a.client_addr::text, 'local')
  from pg_catalog.pg_replication_slots s
  left join pg_catalog.pg_stat_activity a on a.pid = s.active_pid
 where s.slot_name::text = %s and s.active_pid is not null
"""


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that has an xid, or is prepared (then `gid` is set, and `pid` is not). `age` in seconds; it waits for a
    lock that the backends `waits_for` hold, or ask for before it."""

    pid: int | None
    user: str | None
    application: str
    state: str | None
    gid: str | None
    age: float
    waits_for: Sequence[int] = ()

    def __str__(self) -> str:
        if self.pid is None:
            return f"prepared transaction {self.gid!r} of {self.user}, {self.age:.0f} s old"
        return f"pid {self.pid} ({self.user}, {self.application or 'no name'}, {self.state}), {self.age:.0f} s old"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who reads a slot now."""

    pid: int
    user: str | None
    application: str
    address: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.user}, {self.application or 'no name'}, from {self.address})"


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """A new slot. Its stream begins at `consistent_point`; `snapshot` shows the data as of there, until the next command
    on the connection that made it."""

    name: str
    consistent_point: Lsn
    snapshot: str | None


async def list_slots(connection: Connection) -> list[SlotState]:
    """Every logical slot of the server, of all databases."""
    return await _read(connection, None)


async def slot_state(connection: Connection, name: str) -> SlotState | None:
    """The logical slot of that name; None when there is none."""
    found = await _read(connection, name)
    return found[0] if found else None


def check_slot(slot: SlotState, database: str) -> None:
    """Raises OperatorError when the slot is not one that Walcast can read for this database, SlotLost when it is one no
    more."""
    if slot.plugin != "pgoutput":
        raise OperatorError(
            f"slot {slot.name} belongs to the output plugin {slot.plugin}, not to pgoutput",
            hint="choose another slot name",
        )
    if slot.database != database:
        raise OperatorError(
            f"slot {slot.name} belongs to database {slot.database}, not to {database}",
            hint="choose another slot name, or connect to that database",
        )
    if slot.two_phase:
        raise OperatorError(
            f"slot {slot.name} decodes prepared transactions before they are committed (two_phase)",
            hint="choose another slot: Walcast copies what is committed, and a prepared transaction may yet be undone",
        )
    if slot.invalidation is not None:
        raise SlotLost(
            f"slot {slot.name} was invalidated by the server ({slot.invalidation})",
            hint=f"changes are gone: drop it (walcast slot drop {slot.name}) and snapshot again; "
            "a larger max_slot_wal_keep_size keeps the WAL longer",
        )


async def create_slot(
    replication: Connection,
    name: str,
    *,
    temporary: bool = False,
    failover: bool = False,
    export: bool = False,
    control: Connection | None = None,
    waiting: Callable[[Sequence[OpenTransaction]], None] | None = None,
    timeout: float | None = None,
) -> CreatedSlot:
    """Creates a slot for pgoutput over a replication connection.

    `export` keeps a snapshot at its consistent point. While it waits for open transactions, `waiting` is called every
    second with those that `control` sees, and may raise to give it up; after `timeout` seconds it is given up, with nothing left behind.
    Raises OperatorError with the remedy.
    """
    check_name(name)
    version = replication.info.server_version
    if failover and version < 170_000:
        raise OperatorError(
            f"failover slots need PostgreSQL 17; this server is {version // 10_000}",
            hint="set failover = false",
        )
    command = sql.SQL("CREATE_REPLICATION_SLOT {name} {temporary} LOGICAL pgoutput {options}").format(
        name=sql.Identifier(name),
        temporary=sql.SQL("TEMPORARY" if temporary else ""),
        options=sql.SQL(_options(version, export, failover)),
    )
    creating = asyncio.ensure_future(_run(replication, command))
    try:
        await _wait(creating, name, control, waiting, timeout)
        row = await creating
    except psycopg.Error as error:
        raise _explain_create(error, name) from None
    finally:
        if not creating.done():
            creating.cancel()  # psycopg cancels the command at the server, which undoes the slot
            await asyncio.gather(creating, return_exceptions=True)
    log.info("slot_created", extra={"slot": name, "lsn": row[1], "temporary": temporary})
    return CreatedSlot(name, Lsn.parse(row[1]), row[2])


async def drop_slot(connection: Connection, name: str) -> bool:
    """Drops a slot; False when there was none. Raises SlotInUse, naming the holder."""
    try:
        cursor = await connection.execute(
            "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots "
            "where slot_name::text = %s",
            [name],
        )
    except psycopg.Error as error:
        raise await _explain_held(connection, error, name, "dropping") from None
    dropped = cursor.rowcount > 0
    if dropped:
        log.info("slot_dropped", extra={"slot": name})
    return dropped


async def advance_slot(connection: Connection, name: str, to: Lsn) -> Lsn:
    """Moves an idle slot forward; where it stands then. What lies between is skipped for good."""
    try:
        cursor = await connection.execute(
            "select end_lsn::text from pg_catalog.pg_replication_slot_advance(%s, %s::pg_catalog.pg_lsn)",
            [name, str(to)],
        )
        row = await cursor.fetchone()
    except psycopg.Error as error:
        raise await _explain_held(connection, error, name, "advancing") from None
    return Lsn.parse(row[0]) if row else to


async def slot_holder(connection: Connection, name: str) -> Holder | None:
    """Who reads the slot now; None when nobody does."""
    row = await (await connection.execute(_HOLDER, [name])).fetchone()
    return Holder(*row) if row else None


async def open_transactions(connection: Connection) -> list[OpenTransaction]:
    """Transactions that a new slot has to wait for, oldest first."""
    return [OpenTransaction(*row) for row in await (await connection.execute(_OPEN)).fetchall()]


def check_name(name: str) -> None:
    """Raises ConfigError when the server would refuse the name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"not a slot name: {name!r}",
            hint="slot names have 1 to 63 lower-case letters, digits and underscores",
        )


async def _read(connection: Connection, name: str | None) -> list[SlotState]:
    version = connection.info.server_version
    query = (
        _LIST_17
        if version >= 170_000
        else _LIST_16
        if version >= 160_000
        else _LIST_14
        if version >= 140_000
        else _LIST_13
    )
    cursor = await connection.execute(query, {"name": name})
    return [
        SlotState(
            name=row[0],
            confirmed=Lsn.parse(row[1]) if row[1] else None,
            restart=Lsn.parse(row[2]) if row[2] else None,
            active_pid=row[3],
            wal_status=row[4],
            invalidation=row[5],
            retained=row[6],
            safe_wal_size=row[7],
            plugin=row[8],
            database=row[9],
            two_phase=row[10],
        )
        for row in await cursor.fetchall()
    ]


def _options(version: int, export: bool, failover: bool) -> LiteralString:
    if version < 150_000:
        return "EXPORT_SNAPSHOT" if export else "NOEXPORT_SNAPSHOT"
    snapshot: LiteralString = "SNAPSHOT 'export'" if export else "SNAPSHOT 'nothing'"
    return f"({snapshot}, FAILOVER true)" if failover else f"({snapshot})"


async def _run(connection: Connection, command: sql.Composed) -> tuple[Any, ...]:
    row = await (await connection.execute(command)).fetchone()
    if row is None:
        raise psycopg.InternalError("CREATE_REPLICATION_SLOT returned no row")
    return row


async def _wait(
    creating: asyncio.Future[tuple[Any, ...]],
    name: str,
    control: Connection | None,
    waiting: Callable[[Sequence[OpenTransaction]], None] | None,
    timeout: float | None,
) -> None:
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    while True:
        patience = _REPORT_EVERY if deadline is None else max(0.0, min(_REPORT_EVERY, deadline - loop.time()))
        done, _ = await asyncio.wait({creating}, timeout=patience)
        if done:
            return
        found = await open_transactions(control) if control is not None else []
        if waiting is not None:
            waiting(found)
        if deadline is not None and loop.time() >= deadline:
            who = "; ".join(map(str, found[:5])) or "for the server; on a standby, for its primary"
            raise OperatorError(
                f"slot {name} could not be created within {timeout:g} s: waiting for {who}",
                hint="end those transactions (commit, rollback, pg_terminate_backend, rollback prepared) and try again; "
                "on an idle standby run `select pg_log_standby_snapshot()` at the primary",
            )


def _explain_create(error: psycopg.Error, name: str) -> WalcastError:
    hints = {
        "53400": "raise max_replication_slots (needs a restart), or drop a slot that nobody reads (walcast slot list)",
        "55000": "alter system set wal_level = 'logical', then restart the server (on a standby: its primary, too)",
        "0A000": "before PostgreSQL 16 a standby has no logical slots: connect to the primary",
        "42501": "alter role ... replication (a managed service grants a role instead, such as rds_replication)",
        "42710": "adopt it, choose another name, or drop it (walcast slot drop)",
    }
    found = explain(error, f"creating slot {name}")
    if error.sqlstate in hints:
        return OperatorError(found.message, hint=hints[error.sqlstate])
    return found


async def _explain_held(connection: Connection, error: psycopg.Error, name: str, doing: str) -> WalcastError:
    if error.sqlstate == "55006":
        holder = await slot_holder(connection, name)
        return SlotInUse(
            f"slot {name} is in use by {holder or 'another process'}",
            hint="stop that reader first, or pg_terminate_backend",
        )
    found = explain(error, f"{doing} slot {name}")
    if error.sqlstate == "42501":
        return OperatorError(found.message, hint="alter role ... replication")
    return found
