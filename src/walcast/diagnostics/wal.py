"""Who holds WAL at the source, since when, and why; what old transactions and slots keep from vacuum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

import psycopg

from walcast.diagnostics.case import Case, through
from walcast.diagnostics.wording import size, span
from walcast.model import Finding
from walcast.postgres.slots import OpenTransaction, open_transactions

SEGMENT: Final = 16 << 20
"""A slot without a reader may keep as much: WAL is removed by whole segments."""

_SLOTS: Final[LiteralString] = """
select s.slot_name::text, s.slot_type::text, coalesce(s.database::text, ''), s.active_pid, s.temporary,
       coalesce(pg_catalog.pg_wal_lsn_diff(n.lsn, s.restart_lsn), 0)::int8,
       coalesce(pg_catalog.pg_wal_lsn_diff(n.lsn, coalesce(s.confirmed_flush_lsn, r.replay_lsn)), 0)::int8,
       coalesce(s.wal_status, ''), s.safe_wal_size, coalesce(pg_catalog.age(s.catalog_xmin), 0),
       coalesce(pg_catalog.age(s.xmin), 0), {since}, {synced}, coalesce(r.application_name, '')
  from pg_catalog.pg_replication_slots s
 cross join (select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                         else pg_catalog.pg_current_wal_lsn() end) n(lsn)
  left join pg_catalog.pg_stat_replication r on r.pid = s.active_pid
 order by 6 desc, 1
"""
_SLOTS_13: Final[LiteralString] = _SLOTS.replace("{since}", "null::timestamptz").replace("{synced}", "false")
_SLOTS_17: Final[LiteralString] = _SLOTS.replace("{since}", "s.inactive_since").replace(
    "{synced}", "s.synced"
)
_OLDEST: Final[LiteralString] = """
select f.modification from pg_catalog.pg_replication_slots s
  join pg_catalog.pg_ls_waldir() f on f.name = pg_catalog.pg_walfile_name(s.restart_lsn)
 where s.slot_name::text = %s and not pg_catalog.pg_is_in_recovery()
"""
_ARCHIVER: Final[LiteralString] = """
select failed_count, last_failed_wal, coalesce(last_archived_time, stats_reset) from pg_catalog.pg_stat_archiver
 where last_failed_time > coalesce(last_archived_time, '-infinity') and pg_catalog.current_setting('archive_mode') <> 'off'
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot of either kind. `retained` is the WAL it keeps, `unconfirmed` what its reader has not confirmed, bytes;
    `catalog_age` and `row_age` transactions whose dead catalog entries and rows it keeps from vacuum."""

    name: str
    kind: str
    database: str
    pid: int | None
    temporary: bool
    retained: int
    unconfirmed: int
    wal_status: str
    safe_wal_size: int | None
    catalog_age: int
    row_age: int
    inactive_since: datetime | None
    synced: bool
    reader: str

    @property
    def drop(self) -> str:
        """How to drop it."""
        return f"walcast slot drop {self.name}"


async def read_slots(case: Case) -> list[Slot]:
    """Every slot of the server, the one that keeps most WAL first."""
    query = _SLOTS_17 if case.version >= 170_000 else _SLOTS_13
    return [Slot(*row) for row in await case.rows(query)]


def holds(case: Case, slot: Slot) -> bool:
    """Whether it keeps more WAL than its reading explains."""
    return slot.retained >= (SEGMENT if slot.pid is None else case.limits.retained)


async def check_wal(case: Case) -> Sequence[Finding]:
    slots = await read_slots(case)
    found = [
        Finding(
            "warning",
            "slot_lost",
            f"slot {slot.name} has lost its WAL: nobody can go on with it",
            slot.drop,
            since=slot.inactive_since,
        )
        for slot in slots
        if slot.wal_status == "lost" and slot.name != case.setup.source.slot
    ]
    held = [slot for slot in slots if holds(case, slot)]
    open_now = await open_transactions(case.connection) if held else []
    found += [await _holder(case, slot, open_now) for slot in held]
    return found + await _archiver(case)


async def _holder(case: Case, slot: Slot, open_now: Sequence[OpenTransaction]) -> Finding:
    why, remedy = _why(case, slot, open_now)
    budget = case.setup.wal_budget if slot.name == case.setup.source.slot else None
    beyond = slot.wal_status == "unreserved" or (budget is not None and slot.retained >= budget)
    since = slot.inactive_since or await _oldest(case, slot)
    return Finding(
        "error" if beyond else "warning",
        "wal_held",
        f"slot {slot.name} keeps {size(slot.retained)} of WAL: {why}"
        + ("; it is about to be invalidated" if slot.wal_status == "unreserved" else ""),
        remedy,
        since=since,
    )


def _why(case: Case, slot: Slot, open_now: Sequence[OpenTransaction]) -> tuple[str, str]:
    ours = slot.name == case.setup.source.slot
    if slot.pid is None:
        if slot.synced:
            return "it is a standby's copy of a failover slot", "look at the slot on the primary"
        if slot.kind == "physical":
            return "its standby is away", f"start the standby; if it is gone for good: {slot.drop}"
        if ours:
            return (
                "its pipeline does not run",
                f"walcast run; if the copies are not wanted any more: {slot.drop}",
            )
        return (
            "nobody reads it",
            f"start its reader in database {slot.database}; if nobody needs it any more: {slot.drop}",
        )
    late = slot.unconfirmed >= slot.retained / 2
    if late and slot.kind == "physical":
        return (
            f"standby {slot.reader or slot.name} is {size(slot.unconfirmed)} behind",
            "look at the standby's log, disk and network (pg_stat_replication)",
        )
    if late and ours and (sink := _slowest(case.sinks)):
        return _sink(sink)
    if late:
        return (
            f"its reader (pid {slot.pid}{', ' + slot.reader if slot.reader else ''}) is {size(slot.unconfirmed)} behind",
            "look at the reader's own log: it is slow, or it does not confirm",
        )
    if open_now:
        return f"decoding begins before {open_now[0]}", _ending(open_now[0])
    return "a transaction that was long has just ended", "nothing: the next checkpoint lets it go"


def _slowest(sinks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    held = [sink for sink in sinks if sink["state"] != "released"]
    return min(held, key=lambda sink: through(sink) or 0, default=None)


def _sink(sink: Mapping[str, Any]) -> tuple[str, str]:
    error = sink["error"]
    what = f"sink {sink['name']} is {sink['state']}" + (
        f" and {size(sink['lag_bytes'])} behind" if sink.get("lag_bytes") else ""
    )
    if error:
        return f"{what}: {error['message']}", error.get("remedy") or "see `walcast status`"
    return (
        what,
        "see `walcast status`; engine.wal_budget and engine.on_budget say how long the slot may wait for it",
    )


def _ending(transaction: OpenTransaction) -> str:
    if transaction.pid is None:
        return f"commit prepared or rollback prepared '{transaction.gid}'"
    return f"end it: commit, rollback, or select pg_terminate_backend({transaction.pid})"


async def _oldest(case: Case, slot: Slot) -> datetime | None:
    """When the oldest WAL that it keeps was written; None when this role may not look (pg_monitor may)."""
    try:
        rows = await case.rows(_OLDEST, [slot.name])
    except psycopg.errors.InsufficientPrivilege:
        return None
    return rows[0][0] if rows else None


async def _archiver(case: Case) -> list[Finding]:
    rows = await case.rows(_ARCHIVER)
    return [
        Finding(
            "error",
            "archiver_fails",
            f"archiving of {segment} fails ({failures} times by now): no WAL is removed meanwhile",
            "see the server's log for what archive_command says",
            since=since,
        )
        for failures, segment, since in rows
    ]


async def check_vacuum(case: Case) -> Sequence[Finding]:
    found = []
    for slot in await read_slots(case):
        age = max(slot.catalog_age, slot.row_age)
        if age < case.limits.catalog_age:
            continue
        which = "catalog_xmin" if slot.catalog_age >= slot.row_age else "xmin"
        found.append(
            Finding(
                "warning",
                "stale_xmin",
                f"slot {slot.name} keeps what {age:,} transactions left behind from vacuum ({which}): "
                + (
                    "nobody reads it"
                    if slot.pid is None
                    else "its reader is far behind, or a transaction is open"
                ),
                f"start its reader, or drop it: {slot.drop}"
                if slot.pid is None
                else "see the findings on WAL",
                since=slot.inactive_since,
            )
        )
    return found


async def check_transactions(case: Case) -> Sequence[Finding]:
    old = [t for t in await open_transactions(case.connection) if t.age >= case.limits.transaction]
    return [
        Finding(
            "warning",
            "prepared_transaction" if transaction.pid is None else "long_transaction",
            f"{transaction}: a new slot waits for it, and every slot keeps the WAL since"
            if transaction.pid is None
            else f"open for {span(transaction.age)}: {transaction}; a new slot waits for it, and every slot keeps the WAL since",
            _ending(transaction),
        )
        for transaction in old
    ]
