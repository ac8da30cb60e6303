"""Checks of the server: version, settings, slot, walsenders, role."""

from __future__ import annotations

from typing import Final, LiteralString

import psycopg

from walcast.model import Finding, OperatorError, WalcastError, finding_of
from walcast.postgres.catalog import fetch_one
from walcast.postgres.connect import application_name, connect
from walcast.postgres.faults import explain
from walcast.postgres.preflight.facts import Facts
from walcast.postgres.slots import check_name, check_slot, slot_holder

_OLDEST: Final = 130_000
_NEEDED_WALSENDERS: Final = 2
"""One for the stream, one for the temporary slot of a later snapshot."""

_SLOTS: Final[LiteralString] = """
select count(*)::int, coalesce(string_agg(slot_name::text, ', ' order by slot_name) filter (where not active), '')
  from pg_catalog.pg_replication_slots
"""
_WALSENDERS: Final[LiteralString] = """
select count(*)::int from pg_catalog.pg_stat_get_wal_senders() w
 where not exists (select from pg_catalog.pg_stat_get_activity(w.pid) a where a.application_name = %s)
"""
"""Without the one that a check before this tried: it may not have ended yet."""
_FEATURES: Final = (
    ("filters", 150_000, "row filters", "take source.filters out"),
    ("columns", 150_000, "column lists", "take source.columns out"),
    ("failover", 170_000, "failover slots", "set source.failover = false"),
    ("ddl_capture", 140_000, "capture of schema changes", "set source.ddl_capture = false"),
)


def version_finding(version: int) -> list[Finding]:
    """Whether this server_version_num is one that Walcast reads."""
    if version >= _OLDEST:
        return []
    number = f"{version // 10_000}" if version >= 100_000 else f"{version // 10_000}.{version // 100 % 100}"
    return [
        Finding(
            "error",
            "server_too_old",
            f"this server is PostgreSQL {number}; Walcast reads 13 and later",
            "upgrade the server, or read a newer standby of it",
        )
    ]


async def check_wal_level(facts: Facts) -> list[Finding]:
    level = facts.settings["wal_level"]
    if level == "logical":
        return []
    return [
        Finding(
            "error",
            "wal_level",
            f"wal_level is {level}, logical replication needs logical",
            "run `alter system set wal_level = 'logical'` and restart the server"
            + (" and its primary" if facts.standby else "")
            + " (managed services: a parameter such as rds.logical_replication)",
        )
    ]


async def check_standby(facts: Facts) -> list[Finding]:
    if not facts.standby:
        return []
    if facts.version < 160_000:
        return [
            Finding(
                "error",
                "standby_too_old",
                "this server is a standby; before PostgreSQL 16 a standby has no logical slots",
                "connect to the primary (target_session_attrs=read-write in the DSN finds it)",
            )
        ]
    found = [
        Finding(
            "notice",
            "standby",
            "the source is a standby: a new slot waits for a snapshot record of the primary",
            "if it takes long, run `select pg_log_standby_snapshot()` at the primary",
        )
    ]
    if facts.wanted is not None and facts.wanted.publication is None:
        found.append(
            Finding(
                "error",
                "publication_on_standby",
                f"there is no publication {facts.config.publication!r}, and a standby cannot create one",
                "create it at the primary (walcast publication create with the primary's DSN)",
            )
        )
    return found


async def check_features(facts: Facts) -> list[Finding]:
    config, major = facts.config, facts.version // 10_000
    found = [
        Finding(
            "error",
            "server_too_old_for",
            f"{what} need PostgreSQL {since // 10_000}; this is {major}",
            remedy,
        )
        for setting, since, what, remedy in _FEATURES
        if getattr(config, setting) and facts.version < since
    ]
    if config.origin == "none" and facts.version < 160_000:
        found.append(
            Finding(
                "error",
                "server_too_old_for",
                f"origin = none needs PostgreSQL 16; this is {major}",
                "set origin = any",
            )
        )
    return found


async def check_replication_role(facts: Facts) -> list[Finding]:
    """Tried, not looked up: managed services grant a role instead of the attribute."""
    name = application_name(facts.config.name, "preflight")
    try:
        connection = await connect(facts.config.dsn, application=name, replication=True)
    except WalcastError as error:
        return [finding_of(error, "replication_connection")]
    async with connection:
        try:
            await connection.execute("IDENTIFY_SYSTEM")
        except psycopg.Error as error:
            return [finding_of(explain(error, "identifying the source"), "replication_connection")]
    return []


async def check_slot_state(facts: Facts) -> list[Finding]:
    try:
        check_name(facts.config.slot)
        if facts.slot is not None:
            check_slot(facts.slot, facts.connection.info.dbname)
    except OperatorError as error:
        return [finding_of(error, "slot")]
    holder = await slot_holder(facts.connection, facts.config.slot)
    if holder is None:
        return []
    return [
        Finding(
            "warning",
            "slot_in_use",
            f"slot {facts.config.slot} is in use by {holder}",
            "a second `walcast run` waits as a hot spare until that one ends",
        )
    ]


async def check_slot_room(facts: Facts) -> list[Finding]:
    if facts.slot is not None:
        return []
    used, idle = await fetch_one(facts.connection, _SLOTS)
    limit = int(facts.settings["max_replication_slots"])
    if used < limit:
        return []
    unused = f"; nobody reads {idle}" if idle else ""
    return [
        Finding(
            "error",
            "no_free_slot",
            f"all {limit} replication slots are in use{unused}",
            "raise max_replication_slots (needs a restart), or drop a slot that nobody needs (walcast slot list)",
        )
    ]


async def check_walsenders(facts: Facts) -> list[Finding]:
    if facts.slot is not None and facts.slot.active_pid is not None:
        return []
    (used,) = await fetch_one(
        facts.connection, _WALSENDERS, [application_name(facts.config.name, "preflight")]
    )
    limit = int(facts.settings["max_wal_senders"])
    free = limit - used
    if free >= _NEEDED_WALSENDERS:
        return []
    return [
        Finding(
            "error" if free < 1 else "warning",
            "no_free_walsender",
            f"{used} of {limit} walsenders are in use"
            + ("" if free < 1 else "; tables added later need another one while they are copied"),
            "raise max_wal_senders (needs a restart), or end a reader that is not needed (pg_stat_replication)",
        )
    ]


async def check_synchronous(facts: Facts) -> list[Finding]:
    """`*` makes any reader a synchronous standby: commits at the source would wait for the copy."""
    names = facts.settings["synchronous_standby_names"]
    ours = application_name(facts.config.name)
    if facts.config.allow_synchronous or not ("*" in names or ours in names):
        return []
    return [
        Finding(
            "error",
            "synchronous_standby",
            f"synchronous_standby_names is {names!r}: commits at the source would wait for this reader",
            "name the standbys there instead of *, or set source.allow_synchronous = true",
        )
    ]


async def check_retention(facts: Facts) -> list[Finding]:
    found = []
    if facts.settings["max_slot_wal_keep_size"] == "-1":
        found.append(
            Finding(
                "warning",
                "unlimited_wal",
                "max_slot_wal_keep_size is unlimited: a copy that stays away fills the source's disk",
                "alter system set max_slot_wal_keep_size = '50GB' (what the disk can spare), then select pg_reload_conf()",
            )
        )
    idle = facts.settings.get("idle_replication_slot_timeout", "0")
    if idle != "0":
        found.append(
            Finding(
                "warning",
                "idle_slot_timeout",
                f"idle_replication_slot_timeout is {idle}: a pipeline that is down for longer loses its slot",
                "make it longer than any planned stop",
            )
        )
    return found
