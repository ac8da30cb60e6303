"""Notices what somebody else writes to the copy's tables: a statement trigger that the sink itself does not fire.

The sink writes as a replica, for which ordinary triggers do not act; where its role may not, a setting of its session
says who it is. A writer leaves at most one note an hour for each table, so that writers do not wait for each other.
"""

from __future__ import annotations

import logging
from typing import Final, Literal

from psycopg import sql

from walcast.sinks.postgres.session import Session
from walcast.sinks.postgres.target import TargetTable

log = logging.getLogger("walcast.sinks")

Mode = Literal["ignore", "notice", "refuse"]

NOTES: Final = b"""create table if not exists walcast.foreign_write (
        table_schema text, table_name text, role text, application text, hour timestamptz,
        since timestamptz not null default now(), primary key (table_schema, table_name, role, application, hour)
    )"""
FUNCTION: Final = b"""create or replace function walcast.notice_write() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp as $body$
begin
    if tg_argv[0] = 'refuse' then
        raise exception '%.% is a copy that Walcast keeps: it is not written by hand', tg_table_schema, tg_table_name
            using errcode = 'insufficient_privilege', hint = 'write to its source; or set foreign_writes of the sink';
    end if;
    insert into walcast.foreign_write (table_schema, table_name, role, application, hour)
        values (tg_table_schema, tg_table_name, session_user, current_setting('application_name'), date_trunc('hour', now()))
        on conflict do nothing;
    return null;
end $body$"""
IDENTIFY: Final = b"set walcast.writer = 'on'"
"""What a session of the sink says of itself."""

_DROP = sql.SQL("drop trigger if exists walcast_guard on {}")
_MAKE = sql.SQL(
    "create trigger walcast_guard before insert or update or delete or truncate on {} for each statement"
    " when (pg_catalog.current_setting('walcast.writer', true) is distinct from 'on')"
    " execute function walcast.notice_write({})"
)
_SEEN = sql.SQL(
    "select pg_catalog.json_agg(pg_catalog.json_build_array(f.table_schema || '.' || f.table_name, f.role, f.writers))"
    " from (select table_schema, table_name, role, pg_catalog.count(*) as writers from walcast.foreign_write w"
    " where exists (select from walcast.relation k where k.pipeline = {} and k.sink = {}"
    " and k.table_schema = w.table_schema and k.table_name = w.table_name) group by 1, 2, 3) f"
)


def put_up(session: Session, target: TargetTable, mode: Mode) -> None:
    """Brings the table's guard in line with the setting, where the role may make triggers on it."""
    wanted = None if mode == "ignore" else mode
    if target.guard == wanted or not target.may_guard:
        return
    steps: list[sql.Composable] = [_DROP.format(target.identifier)]
    if wanted is not None:
        steps.append(_MAKE.format(target.identifier, sql.Literal(wanted)))
    session.query(*steps)


def report(session: Session, pipeline: str, sink: str) -> None:
    """Logs whose writes were noticed, once an opening."""
    for table, role, _ in session.json(_SEEN.format(sql.Literal(pipeline), sql.Literal(sink))) or ():
        log.warning(
            "foreign_write",
            extra={
                "sink": sink,
                "table": table,
                "role": role,
                "hint": "see `walcast doctor`; `walcast verify` says whether it differs",
            },
        )
