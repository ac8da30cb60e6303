"""Checks of the connection and of the server's settings."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from typing import Final, LiteralString

import psycopg

from walcast.diagnostics.case import Case
from walcast.diagnostics.wording import size, span
from walcast.model import Finding
from walcast.postgres.encryption import encryption
from walcast.postgres.preflight import Facts

_END_OF_LIFE: Final = {
    13: date(2025, 11, 13),
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
"""The last release of each major version, as postgresql.org/support/versioning announces it."""
_SHORT: Final = 10_000
_NOW: Final[LiteralString] = "select extract(epoch from pg_catalog.clock_timestamp())::float8"
_TIMEOUT: Final[LiteralString] = (
    "select setting::int8 from pg_catalog.pg_settings where name = 'wal_sender_timeout'"
)
_SPILLED: Final[LiteralString] = """
select spill_txns, spill_bytes, stats_reset from pg_catalog.pg_stat_replication_slots where slot_name::text = %s
"""


def asked(
    *checks: Callable[[Facts], Awaitable[list[Finding]]],
) -> Callable[[Case], Awaitable[Sequence[Finding]]]:
    """Checks that `run` makes, too, as checks of the doctor's. A reader that is our own pipeline is no news."""

    async def look(case: Case) -> Sequence[Finding]:
        found = [finding for check in checks for finding in await check(case.server)]
        return [finding for finding in found if not (case.running and finding.name == "slot_in_use")]

    return look


async def check_tls(case: Case) -> Sequence[Finding]:
    return encryption(case.connection, "source.dsn")


async def check_version(case: Case) -> Sequence[Finding]:
    found = []
    major = case.version // 10_000
    today = datetime.fromtimestamp(case.clock(), UTC).date()
    end = _END_OF_LIFE.get(major)
    if end is not None and today > end:
        found.append(
            Finding(
                "warning",
                "server_end_of_life",
                f"PostgreSQL {major} got its last release on {end}: its defects stay",
                "upgrade the source; `walcast switch` moves the copies over",
            )
        )
    if major > case.limits.newest:
        found.append(
            Finding(
                "notice",
                "server_newer",
                f"PostgreSQL {major} is newer than what this Walcast has been tested with ({case.limits.newest})",
                "look for a newer Walcast",
            )
        )
    library = psycopg.pq.version() // 10_000
    if library < case.limits.libpq:
        found.append(
            Finding(
                "warning",
                "libpq_old",
                f"this machine's libpq is version {library}",
                "pip install 'psycopg[binary]' brings its own",
                where="this machine",
            )
        )
    return found


async def check_clock(case: Case) -> Sequence[Finding]:
    before, began = case.clock(), time.monotonic()
    ((there,),) = await case.rows(_NOW)
    trip = time.monotonic() - began
    off = there - (before + trip / 2)
    if abs(off) <= case.limits.clock + trip:
        return []
    way = "ahead of" if off > 0 else "behind"
    return [
        Finding(
            "warning",
            "clock",
            f"the source's clock is {span(abs(off))} {way} this machine's: lag in seconds is wrong by that",
            "let NTP (chrony, systemd-timesyncd) set both clocks",
        )
    ]


async def check_timeouts(case: Case) -> Sequence[Finding]:
    ((milliseconds,),) = await case.rows(_TIMEOUT)
    if milliseconds == 0:
        return [
            Finding(
                "warning",
                "walsender_without_timeout",
                "wal_sender_timeout is 0: a reader whose machine died keeps its slot until TCP gives up, which takes hours",
                "alter system set wal_sender_timeout = '1min', then select pg_reload_conf()",
            )
        ]
    if milliseconds < _SHORT:
        return [
            Finding(
                "warning",
                "walsender_timeout_short",
                f"wal_sender_timeout is {span(milliseconds / 1000)}: a short stall of the network ends the stream",
                "alter system set wal_sender_timeout = '1min', then select pg_reload_conf()",
            )
        ]
    return []


async def check_memory(case: Case) -> Sequence[Finding]:
    if case.version < 140_000:
        return []
    rows = await case.rows(_SPILLED, [case.setup.source.slot])
    if not rows or rows[0][1] < case.limits.retained:
        return []
    count, spilled, since = rows[0]
    return [
        Finding(
            "warning",
            "decoding_spills",
            f"the server wrote {size(spilled)} of {count} transactions to disk while decoding slot"
            f" {case.setup.source.slot}: they did not fit logical_decoding_work_mem",
            'set source.logical_decoding_work_mem = "256MB"; with source.streaming = auto they are sent instead',
            since=since,
        )
    ]
