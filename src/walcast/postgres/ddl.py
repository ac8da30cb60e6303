"""Schema changes in the ordered stream (PostgreSQL 14+, optional).

pgoutput does not send DDL, and its Relation messages carry no attribute numbers: a rename looks like a drop and an
add. An event trigger writes each altered table's columns, numbers included, as a transactional logical message, so
that it arrives in order, before the first row of the new shape:

    alter table t rename b to c  ->  message walcast.ddl {"oid": .., "columns": [["id", 1, ..], ["c", 2, ..]]}
    insert into t ...            ->  Relation(t: id, c), Insert

An attribute number is never used again, so the same number under another name *is* a rename.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from walcast.model import TableId

PREFIX: Final = "walcast.ddl"

INSTALL: Final[LiteralString] = """
create schema if not exists walcast;
create or replace function walcast.emit_ddl() returns event_trigger language plpgsql
    set search_path = pg_catalog, pg_temp
as $body$
declare
    altered record;
begin
    for altered in
        select distinct on (c.oid) c.oid, c.relname, n.nspname, d.command_tag
        from pg_event_trigger_ddl_commands() d
        join pg_class c on c.oid = d.objid and d.classid = 'pg_class'::regclass and c.relkind in ('r', 'p')
        join pg_namespace n on n.oid = c.relnamespace
        where c.relpersistence = 'p'
    loop
        perform pg_logical_emit_message(true, 'walcast.ddl', json_build_object(
            'version', 1, 'command', altered.command_tag,
            'oid', altered.oid::bigint, 'schema', altered.nspname, 'table', altered.relname,
            'columns', (
                select coalesce(json_agg(json_build_array(
                    attname, attnum, atttypid::bigint, atttypmod, attnotnull, atthasdef and attgenerated = ''
                ) order by attnum), '[]')
                from pg_attribute where attrelid = altered.oid and attnum > 0 and not attisdropped
            )
        )::text);
    end loop;
end $body$;
create or replace function walcast.emit_drop() returns event_trigger language plpgsql
    set search_path = pg_catalog, pg_temp
as $body$
declare
    dropped record;
begin
    for dropped in
        select objid, schema_name, object_name from pg_event_trigger_dropped_objects()
        where object_type = 'table' and not is_temporary
    loop
        perform pg_logical_emit_message(true, 'walcast.ddl', json_build_object(
            'version', 1, 'command', 'DROP TABLE', 'oid', dropped.objid::bigint,
            'schema', dropped.schema_name, 'table', dropped.object_name, 'columns', null
        )::text);
    end loop;
end $body$;
drop event trigger if exists walcast_ddl;
drop event trigger if exists walcast_drop;
create event trigger walcast_ddl on ddl_command_end
    when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO') execute function walcast.emit_ddl();
create event trigger walcast_drop on sql_drop when tag in ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED')
    execute function walcast.emit_drop();
"""
"""Run by a superuser (event triggers want one, before and after 16), in the source's database. Can be run again."""

REMOVE: Final[LiteralString] = """
drop event trigger if exists walcast_ddl;
drop event trigger if exists walcast_drop;
drop function if exists walcast.emit_ddl();
drop function if exists walcast.emit_drop();
"""
"""Takes it away. The schema stays: other things may live in it."""

INSTALLED: Final[LiteralString] = """
select count(*) = 2 from pg_event_trigger where evtname in ('walcast_ddl', 'walcast_drop') and evtenabled <> 'D'
"""


@dataclass(frozen=True, slots=True)
class DdlColumn:
    """A column after the change. `default` says that it has a default, which rows from before it may show."""

    name: str
    attnum: int
    type: int
    typmod: int
    not_null: bool
    default: bool


@dataclass(frozen=True, slots=True)
class DdlEvent:
    """A table's shape after a schema change; `columns` is None when it was dropped."""

    command: str
    oid: int
    table: TableId
    columns: tuple[DdlColumn, ...] | None


def parse(prefix: str, content: bytes) -> DdlEvent | None:
    """The event in a logical message; None when it is not one, or not of a version that is known here."""
    if prefix != PREFIX:
        return None
    try:
        data = json.loads(content)
        if data["version"] != 1:
            return None
        columns = data["columns"]
        return DdlEvent(
            str(data["command"]),
            int(data["oid"]),
            TableId(str(data["schema"]), str(data["table"])),
            None if columns is None else tuple(DdlColumn(*column) for column in columns),
        )
    except (ValueError, KeyError, TypeError):  # anybody may write a message under this prefix
        return None


class Shapes:
    """What the stream itself has proven about columns so far: the last recorded shape of each table."""

    def __init__(self) -> None:
        self._shapes: dict[int, tuple[DdlColumn, ...]] = {}

    def note(self, event: DdlEvent) -> None:
        if event.columns is None:
            self._shapes.pop(event.oid, None)
        else:
            self._shapes[event.oid] = event.columns

    def __contains__(self, oid: int) -> bool:
        return oid in self._shapes

    def attnums(self, oid: int, columns: Sequence[tuple[str, int, int]]) -> tuple[int, ...] | None:
        """The attribute numbers of announced columns (name, type oid, typmod), in their order; None when the recorded
        shape does not have them all. Columns that are not published may be missing among the announced."""
        known = {(c.name, c.type, c.typmod): c.attnum for c in self._shapes.get(oid, ())}
        numbers = [known.get(column) for column in columns]
        return tuple(n for n in numbers if n is not None) if None not in numbers else None


def notes(entries: Iterable[tuple[object, ...]]) -> list[tuple[int | None, DdlEvent | None]]:
    """What of a batch's entries matters here, in order: (relation number, None) at a relation's first use, (None, event)
    at a recorded schema change."""
    seen: set[int] = set()
    found: list[tuple[int | None, DdlEvent | None]] = []
    for entry in entries:
        if entry[0] == b"M":
            detail = entry[-1]
            event = parse(detail[0], detail[1]) if isinstance(detail, tuple) else None
            if event is not None:
                found.append((None, event))
        elif isinstance(relation := entry[1], int) and relation not in seen:
            seen.add(relation)
            found.append((relation, None))
    return found
