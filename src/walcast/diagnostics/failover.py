"""Whether a standby that is promoted can go on feeding the copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from walcast.diagnostics.case import Case
from walcast.model import Finding, WalcastError, finding_of
from walcast.model.secret import Secret
from walcast.postgres.connect import application_name, connect, describe

_SLOT: Final[LiteralString] = """
select failover, synced from pg_catalog.pg_replication_slots where slot_name::text = %s
"""
_STANDBYS: Final[LiteralString] = """
select s.slot_name::text, r.application_name, coalesce(s.catalog_xmin is not null, false)
  from pg_catalog.pg_stat_replication r
  left join pg_catalog.pg_replication_slots s on s.active_pid = r.pid and s.slot_type = 'physical'
 where r.state is null or not exists (select from pg_catalog.pg_replication_slots l
                                       where l.active_pid = r.pid and l.slot_type = 'logical')
"""
_SYNCED: Final[LiteralString] = """
select pg_catalog.pg_is_in_recovery(), s.synced and s.invalidation_reason is null, s.invalidation_reason,
       pg_catalog.current_setting('sync_replication_slots')::bool
  from (select) one left join pg_catalog.pg_replication_slots s on s.slot_name::text = %s
"""


async def check_failover(case: Case) -> Sequence[Finding]:
    source = case.setup.source
    if case.server.standby:
        return []
    standbys = await case.rows(_STANDBYS)
    if case.version < 170_000:
        return _too_old(case, len(standbys))
    slot = await case.rows(_SLOT, [source.slot])
    if not standbys and not source.failover:
        return []
    if not source.failover or (slot and not slot[0][0]):
        return [_no_failover(case, bool(source.failover))]
    found: list[Finding] = []
    if not standbys:
        found.append(
            Finding(
                "warning",
                "no_standby",
                "source.failover is set, but no standby is connected",
                "start the standby; its slot at the primary shows in pg_replication_slots",
            )
        )
    waiting = {
        name.strip(' "') for name in (await case.setting("synchronized_standby_slots") or "").split(",")
    }
    for name, application, feedback in standbys:
        found += _standby(name, application, feedback, name in waiting)
    for place, dsn in _other_hosts(source.dsn):
        found += await _on_standby(case, place, dsn)
    return found


def _too_old(case: Case, standbys: int) -> list[Finding]:
    if not standbys:
        return []
    return [
        Finding(
            "notice",
            "failover_loses_slot",
            f"PostgreSQL {case.version // 10_000} has no failover slots: after a promotion the copies need a new snapshot",
            "upgrade to 17; or plan `walcast resync --all` after a failover",
        )
    ]


def _no_failover(case: Case, wanted: bool) -> Finding:
    name = case.setup.source.slot
    if not wanted:
        return Finding(
            "notice",
            "failover_loses_slot",
            "a standby is connected, but source.failover is off: after its promotion the copies need a new snapshot",
            f"stop the pipeline, set source.failover = true, and have a superuser run over a replication connection:"
            f" alter_replication_slot {name} (failover true)",
        )
    return Finding(
        "error",
        "slot_without_failover",
        f"source.failover is set, but slot {name} was made without it: it is not carried over to standbys",
        f"stop the pipeline, then over a replication connection (psql 'replication=database ...'):"
        f" alter_replication_slot {name} (failover true)",
    )


def _standby(slot: str | None, application: str, feedback: bool, waited_for: bool) -> list[Finding]:
    if slot is None:
        return [
            Finding(
                "warning",
                "standby_without_slot",
                f"standby {application} has no physical slot: the failover slot cannot be synchronized to it",
                "create one (pg_create_physical_replication_slot) and set primary_slot_name on the standby",
            )
        ]
    found = []
    if not waited_for:
        found.append(
            Finding(
                "warning",
                "standby_not_waited_for",
                f"synchronized_standby_slots does not name {slot}: the copies can get ahead of standby {application},"
                " and after its promotion hold what it lost",
                f"alter system set synchronized_standby_slots = '{slot}', then select pg_reload_conf()",
            )
        )
    if not feedback:
        found.append(
            Finding(
                "warning",
                "standby_without_feedback",
                f"slot {slot} holds no catalog rows for standby {application}: failover slots want hot_standby_feedback",
                "on the standby: alter system set hot_standby_feedback = on, then select pg_reload_conf()",
            )
        )
    return found


def _other_hosts(secret: Secret) -> list[tuple[str, Secret]]:
    """A DSN for each of several hosts: the standbys, and the primary itself."""
    parameters = conninfo_to_dict(secret.reveal())
    hosts = str(parameters.get("host") or "").split(",")
    ports = str(parameters.get("port") or "5432").split(",")
    if len(hosts) < 2:
        return []
    ports = ports * len(hosts) if len(ports) == 1 else ports
    found = []
    for host, port in zip(hosts, ports, strict=False):
        one: dict[str, Any] = {**parameters, "host": host, "port": port, "target_session_attrs": "any"}
        dsn = Secret(psycopg.conninfo.make_conninfo(**one))
        found.append((describe(dsn), dsn))
    return found


async def _on_standby(case: Case, place: str, dsn: Secret) -> list[Finding]:
    """What a standby has of the slot; nothing to say of the primary."""
    try:
        async with await connect(dsn, application=application_name(case.setup.name, "doctor")) as connection:
            rows = await (await connection.execute(_SYNCED, [case.setup.source.slot])).fetchall()
    except WalcastError as error:
        return [finding_of(error, "standby_unreachable", "warning", place)]
    recovering, synced, lost, syncs = rows[0]
    if not recovering or synced:
        return []
    why = (
        f"its copy was invalidated ({lost})"
        if lost
        else "sync_replication_slots is off there"
        if not syncs
        else "it has not been carried over yet"
    )
    return [
        Finding(
            "error",
            "slot_not_synced",
            f"slot {case.setup.source.slot} is not ready on this standby: {why}",
            "on the standby: sync_replication_slots = on, hot_standby_feedback = on, primary_slot_name, and dbname in"
            " primary_conninfo; see its log",
            where=place,
        )
    ]
