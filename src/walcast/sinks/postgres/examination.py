"""What the doctor asks of a target, over a connection of its own."""

from __future__ import annotations

import shlex
from typing import Final, LiteralString

import psycopg

from walcast.model import Finding, SinkContext, SinkUnavailable, WalcastError, finding_of
from walcast.postgres.catalog import fetch_one
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.encryption import encryption
from walcast.postgres.faults import explain
from walcast.postgres.own_schema import check_own_schema
from walcast.sinks.postgres.config import PostgresSinkConfig

_OLDEST: Final = 130_000
_STATE: Final[LiteralString] = """
select pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only')::bool,
       (select system_identifier::text from pg_catalog.pg_control_system()),
       (select timeline_id from pg_catalog.pg_control_checkpoint()), pg_catalog.current_database()::text,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create'),
       exists (select from pg_catalog.pg_namespace where nspname = 'walcast'), current_user::text
"""
_COPIES: Final[LiteralString] = """
select n.nspname || '.' || c.relname,
       pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select')
       and pg_catalog.has_table_privilege(c.oid, 'insert') and pg_catalog.has_table_privilege(c.oid, 'update')
       and pg_catalog.has_table_privilege(c.oid, 'delete') and pg_catalog.has_table_privilege(c.oid, 'truncate'),
       array(select g.tgname::text from pg_catalog.pg_trigger g
              where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled in ('A', 'R') order by 1)
  from walcast.relation k
  join pg_catalog.pg_namespace n on n.nspname = k.table_schema
  join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = k.table_name
 where k.pipeline = %s and k.sink = %s
 order by 1
"""


_NOTED: Final[LiteralString] = """
select coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass('walcast.foreign_write')::oid, 'select'), false)
"""
_WRITERS: Final[LiteralString] = """
select w.table_schema || '.' || w.table_name, w.role, string_agg(distinct coalesce(nullif(w.application, ''), 'no name'), ', '),
       min(w.since)
  from walcast.foreign_write w
 where exists (select from walcast.relation k where k.pipeline = %s and k.sink = %s
                and k.table_schema = w.table_schema and k.table_name = w.table_name)
 group by 1, 2 order by 1, 2
"""


async def examine(config: PostgresSinkConfig, context: SinkContext) -> list[Finding]:
    """Whether it can be reached and written, is not the source itself, and the line to it is safe."""
    name = application_name(context.pipeline, f"{context.sink}:doctor")
    try:
        connection = await connect(config.dsn, application=name, unavailable=SinkUnavailable)
    except WalcastError as error:
        return [finding_of(error, "target")]
    async with connection:
        try:
            return await _look(connection, config, context)
        except WalcastError as error:
            return [finding_of(error, "target")]
        except psycopg.Error as error:
            return [finding_of(explain(error, "asking the target's catalog"), "target")]


async def _look(connection: Connection, config: PostgresSinkConfig, context: SinkContext) -> list[Finding]:
    version = connection.info.server_version
    if version < _OLDEST:
        return [
            Finding(
                "error",
                "target_too_old",
                f"the target is PostgreSQL {version // 10_000}; the copy needs 13 or later",
                "upgrade the target",
            )
        ]
    standby, read_only, system, timeline, database, creates, made, role = await fetch_one(connection, _STATE)
    found = encryption(connection, f"sinks.{context.sink}.dsn")
    if standby or read_only:
        found.append(
            Finding(
                "error",
                "target_read_only",
                "the target is a standby" if standby else "the target's database is read-only",
                "give the DSN of the primary (target_session_attrs=read-write finds it among several hosts)",
            )
        )
    source = context.source
    here, there = (int(system), timeline, database), (source.system_id, source.timeline, source.database)
    if here == there and not config.schemas:
        found.append(
            Finding(
                "error",
                "copy_into_itself",
                "the target is the source: every table would be copied into itself",
                'give the DSN of another database, or map schemas: schemas = { shop = "shop_copy" }',
            )
        )
    if not made and not creates:
        found.append(
            Finding(
                "error",
                "target_rights",
                f"{role} may not create the schemas of the copy",
                f'grant create on database "{database}" to "{role}"',
            )
        )
    if made:
        await check_own_schema(connection)
        found += await _copies(connection, context, role)
        found += await _foreign_writes(connection, context)
    return found + await _role(connection, config, role)


async def _foreign_writes(connection: Connection, context: SinkContext) -> list[Finding]:
    """Whose writes the guard noticed."""
    ((present,),) = await (await connection.execute(_NOTED)).fetchall()
    if not present:
        return []
    rows = await (await connection.execute(_WRITERS, [context.pipeline, context.sink])).fetchall()
    return [
        Finding(
            "warning",
            "foreign_write",
            f"{table} was written by {role} ({applications}), not by Walcast: it may differ from the source",
            f"walcast verify {context.sink} --table {shlex.quote(table)} --repair, then empty walcast.foreign_write at the"
            f' copy; to forbid it: foreign_writes = "refuse", or revoke the right from {role}',
            since=since,
        )
        for table, role, applications, since in rows
    ]


async def _copies(connection: Connection, context: SinkContext, role: str) -> list[Finding]:
    rows = await (await connection.execute(_COPIES, [context.pipeline, context.sink])).fetchall()
    closed = [table for table, writable, _ in rows if not writable]
    found = [
        Finding(
            "notice",
            "target_triggers",
            f"triggers of the copy act on what is written: {table} ({', '.join(triggers)})",
            f"if they are not meant to: alter table {table} enable trigger {triggers[0]}",
        )
        for table, _, triggers in rows
        if triggers
    ]
    if closed:
        found.append(
            Finding(
                "error",
                "target_rights",
                f"{role} may not write {', '.join(closed[:10])}",
                f'grant select, insert, update, delete, truncate on {", ".join(closed[:10])} to "{role}"',
            )
        )
    return found


async def _role(connection: Connection, config: PostgresSinkConfig, role: str) -> list[Finding]:
    if config.replication_role == "off":
        return []
    try:
        await connection.execute("set session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return [
            Finding(
                "error" if config.replication_role == "on" else "notice",
                "target_replication_role",
                f"{role} may not set session_replication_role: the copy's triggers and foreign keys act on what is written",
                f'grant set on parameter session_replication_role to "{role}" (PostgreSQL 15 and later)',
            )
        ]
    return []
