"""Asks a server what it is doing: one statement, one round trip, PostgreSQL 13-18, primary or replica.

Whole rows of the statistics views are taken as JSON, so that columns which a version lacks are simply absent. Without
pg_monitor the server leaves details out: they are None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from walcast.cluster.observed import Facts, Receiver, SlotState, Stream, Waiting
from walcast.model import Lsn

SETTINGS: Final = (
    "synchronous_commit",
    "synchronous_standby_names",
    "fsync",
    "full_page_writes",
    "wal_log_hints",
    "data_checksums",
    "hot_standby",
    "max_slot_wal_keep_size",
    "recovery_min_apply_delay",
    "cluster_name",
)

QUERY: Final[LiteralString] = """
with me as materialized (select pg_is_in_recovery() as standby)
select json_build_object(
  'version', current_setting('server_version_num')::int,
  'system_id', (select system_identifier::text from pg_control_system()),
  'standby', standby,
  'timeline', case when standby
      then greatest((select received_tli from pg_stat_wal_receiver), (select timeline_id from pg_control_checkpoint()),
                    (select min_recovery_end_timeline from pg_control_recovery()))
      else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end,
  'lsn', case when not standby then pg_current_wal_insert_lsn() end,
  'flushed', case when not standby then pg_current_wal_flush_lsn() end,
  'received', case when standby then pg_last_wal_receive_lsn() end,
  'replayed', case when standby then pg_last_wal_replay_lsn() end,
  'replay_age', case when standby then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) end,
  'paused', standby and pg_is_wal_replay_paused(),
  'streams', (select coalesce(json_agg(json_build_object(
        'name', application_name, 'pid', pid, 'state', state, 'sync_state', sync_state,
        'sent', sent_lsn, 'write', write_lsn, 'flush', flush_lsn, 'replay', replay_lsn,
        'write_lag', extract(epoch from write_lag), 'flush_lag', extract(epoch from flush_lag),
        'replay_lag', extract(epoch from replay_lag),
        'slot', (select slot_name from pg_replication_slots where active_pid = r.pid))
      order by application_name, pid), '[]') from pg_stat_replication r),
  'slots', (select coalesce(json_agg(json_build_object(
        'name', slot_name, 'physical', slot_type = 'physical', 'active', active, 'restart', restart_lsn,
        'retained', greatest(0, pg_wal_lsn_diff(
            case when standby then coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                 else pg_current_wal_insert_lsn() end, restart_lsn)),
        'safe', safe_wal_size, 'wal_status', wal_status)
      order by slot_name), '[]') from pg_replication_slots),
  'receiver', (select to_json(w)::jsonb || jsonb_build_object(
        'silent', extract(epoch from clock_timestamp() - last_msg_receipt_time)) from pg_stat_wal_receiver w),
  'waiting', (select coalesce(json_agg(json_build_object(
        'pid', pid, 'application', application_name, 'user', usename,
        'seconds', extract(epoch from clock_timestamp() - coalesce(query_start, state_change))) order by query_start), '[]')
      from pg_stat_activity where wait_event = 'SyncRep'),
  'settings', (select json_object_agg(name, reset_val) from pg_settings where name = any(%(settings)s)),
  'conflicts', (select coalesce(sum(conflicts), 0) from pg_stat_database),
  'overrides', (select coalesce(json_agg(coalesce('role ' || nullif(setrole, 0)::regrole::text, 'database ' || datname, '')
        || ': ' || split_part(option, '=', 2)), '[]')
      from pg_db_role_setting left join pg_database d on d.oid = setdatabase, unnest(setconfig) option
      where option like 'synchronous_commit=%%'),
  'bootstrapped', exists (select from pg_database where datname = 'app')
      and (select count(*) = 2 from pg_roles where rolname in ('app', 'replicator')),
  'not_archived', (select last_failed_wal from pg_stat_archiver
      where last_failed_time > coalesce(last_archived_time, '-infinity')),
  'configuration', coalesce(current_setting('walcast.configuration', true), ''))
from me
"""


def history_file(timeline: int) -> str:
    """The name in pg_wal of the file that says where a timeline branched off."""
    return f"{timeline:08X}.history"


def read(row: Mapping[str, Any]) -> Facts:
    """The answer as a frozen value."""
    receiver = row["receiver"]
    return Facts(
        version=row["version"],
        system_id=int(row["system_id"]),
        timeline=row["timeline"] or 0,
        in_recovery=row["standby"],
        lsn=_lsn(row["lsn"]),
        flushed=_lsn(row["flushed"]),
        received=_lsn(row["received"]),
        replayed=_lsn(row["replayed"]),
        replay_age=row["replay_age"],
        replay_paused=row["paused"],
        streams=tuple(_stream(stream) for stream in row["streams"]),
        slots=tuple(
            SlotState(**{**slot, "restart": _lsn(slot["restart"]), "retained": _int(slot["retained"])})
            for slot in row["slots"]
        ),
        receiver=None if receiver is None else _receiver(receiver),
        waiting=tuple(Waiting(**waiting) for waiting in row["waiting"]),
        settings=row["settings"] or {},
        conflicts=int(row["conflicts"]),
        overrides=tuple(row["overrides"]),
        bootstrapped=row["bootstrapped"],
        configuration=row["configuration"],
        not_archived=row["not_archived"] or "",
    )


def _stream(row: Mapping[str, Any]) -> Stream:
    places = {name: _lsn(row[name]) for name in ("sent", "write", "flush", "replay")}
    return Stream(**{**row, **places})


def _receiver(row: Mapping[str, Any]) -> Receiver:
    return Receiver(
        status=row.get("status"),
        host=row.get("sender_host"),
        port=row.get("sender_port"),
        slot=row.get("slot_name"),
        timeline=row.get("received_tli"),
        silent=row.get("silent"),
        application=_application(row.get("conninfo") or ""),
    )


def _application(conninfo: str) -> str:
    """The walreceiver's application_name; the view hides the password and shows the rest."""
    try:
        return str(conninfo_to_dict(conninfo).get("application_name") or "")
    except psycopg.ProgrammingError:
        return ""


def _lsn(text: str | None) -> Lsn | None:
    return Lsn.parse(text) if text else None


def _int(value: float | None) -> int | None:
    return None if value is None else int(value)
