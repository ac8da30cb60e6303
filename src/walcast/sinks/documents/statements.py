"""The SQL of the document store. In braces: its schema, the table of a collection, its table of text, values."""

from __future__ import annotations

from typing import Final

# Tables that were just filled have no statistics: a lookup of members would scan them.
TUNING: Final = "set enable_seqscan = off; set jit = off"
BOOKKEEPING: Final = (
    "select pg_catalog.pg_advisory_xact_lock(1463896436)",
    "create schema if not exists {schema}",
    """create table if not exists {schema}._walcast_checkpoint (
        pipeline text, sink text, epoch bigint not null, commit_lsn pg_lsn not null, ordinal bigint not null,
        through pg_lsn not null, token text not null, primary key (pipeline, sink))""",
    """create table if not exists {schema}._walcast_journal (
        pipeline text, sink text, key text, value json not null, primary key (pipeline, sink, key))""",
    """create table if not exists {schema}._walcast_collection (
        name text primary key, pipeline text not null, sink text not null, fingerprint text not null)""",
)
CREATE: Final = """create table {table} (
    id text primary key, version bigint not null, body jsonb not null, members text[], source text, target text)"""
PUT: Final = """
insert into {table} as t (id, version, body, members, source, target)
select r.id, {version}, r.body, r.members, r.source, r.target
  from pg_catalog.jsonb_to_recordset(%s::text::jsonb)
       as r(id text, body jsonb, members text[], source text, target text)
on conflict (id) do update set version = excluded.version, body = excluded.body, members = excluded.members,
    source = excluded.source, target = excluded.target
 where t.version <= excluded.version
"""
# A row of text changes only when its text does: what is computed of it and kept beside it stays.
CREATE_TEXT: Final = """create table if not exists {text} (
    id text primary key, content text not null, content_hash text not null)"""
PUT_TEXT: Final = """
insert into {text} as t (id, content, content_hash)
select c.id, c.body ->> {field}, pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(c.body ->> {field}, 'UTF8')), 'hex')
  from {table} c where c.body ->> {field} is not null and (%(ids)s::text[] is null or c.id = any (%(ids)s))
on conflict (id) do update set content = excluded.content, content_hash = excluded.content_hash
 where t.content_hash <> excluded.content_hash
"""
BUILT: Final = """
select c.name, case when t.tablename is null then '' else c.fingerprint end
  from {schema}._walcast_collection c left join pg_catalog.pg_tables t on t.schemaname = %s and t.tablename = c.name
 where c.pipeline = %s and c.sink = %s
"""
THERE: Final = "select from pg_catalog.pg_tables where schemaname = %s and tablename = %s"
DELETE_TEXT: Final = """
delete from {text} t where (%(ids)s::text[] is null or t.id = any (%(ids)s))
   and not exists (select from {table} c where c.id = t.id and c.body ->> {field} is not null)
"""
DELETE: Final = "delete from {table} where id = any (%s::text[]) and version <= {version}"
STATE: Final = """
select pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('default_transaction_read_only')::bool,
       coalesce((select pg_catalog.has_schema_privilege(n.oid, 'create, usage') from pg_catalog.pg_namespace n where n.nspname = %s),
                pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create')), current_user::text
"""
NEXT: Final = """update {schema}._walcast_checkpoint set epoch = %s, commit_lsn = %s, ordinal = %s, through = %s, token = %s
 where pipeline = %s and sink = %s and epoch = %s and commit_lsn = %s and ordinal = %s and through = %s"""
FIRST: Final = """insert into {schema}._walcast_checkpoint (epoch, commit_lsn, ordinal, through, token, pipeline, sink)
values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing"""
