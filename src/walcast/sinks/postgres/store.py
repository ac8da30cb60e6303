"""What the sink keeps beside the data, in the schema `walcast`: checkpoint, journal, tables.

The checkpoint is written in the data's transaction, first, and only if the previous one is still there: a second
writer waits for the row's lock, finds another value, and fails before it has touched a table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from walcast.model import FORMAT, Checkpoint, DeadLetter, Lsn, Position, check_format
from walcast.postgres.own_schema import UNTRUSTED, refuse
from walcast.postgres.selection import BOOKKEEPING
from walcast.sinks.postgres import guard
from walcast.sinks.postgres.session import Command, Prepared, Session

SCHEMA = BOOKKEEPING
_NOTHING = Checkpoint(0, Position(Lsn(0), 0), Lsn(0))

_PRESENT = sql.SQL(
    "select count(*) from pg_catalog.pg_class where oid = to_regclass('walcast.foreign_write')"
)
_CREATE = (
    b"begin",
    b"select pg_catalog.pg_advisory_xact_lock(1463896435)",
    b"create schema if not exists walcast",
    b"""create table if not exists walcast.checkpoint (
        pipeline text, sink text, epoch bigint not null, commit_lsn pg_lsn not null, ordinal bigint not null,
        through pg_lsn not null, written_at timestamptz not null default now(), primary key (pipeline, sink)
    ) with (fillfactor = 20)""",
    b"""create table if not exists walcast.journal (
        pipeline text, sink text, key text, value json not null, primary key (pipeline, sink, key)
    )""",
    b"""create table if not exists walcast.relation (
        pipeline text, sink text, oid bigint, table_schema text not null, table_name text not null,
        incomplete text not null, columns json not null, primary key (pipeline, sink, oid)
    )""",
    b"""create table if not exists walcast.dead_letter (
        pipeline text, sink text, number bigint, table_schema text not null, table_name text not null,
        position text not null, keys text[] not null, kind text not null, code text not null, message text not null,
        attempts integer not null, since timestamptz not null, letter json not null,
        primary key (pipeline, sink, number)
    )""",
    guard.NOTES,
    guard.FUNCTION,
    b"comment on schema walcast is 'what Walcast needs to go on where it stopped (format %d)'" % FORMAT,
    b"commit",
)
_FORMAT = sql.SQL(
    "select pg_catalog.json_build_array(coalesce(substring(pg_catalog.obj_description(n.oid, 'pg_namespace')"
    " from 'format ([0-9]+)'), '0')::int, pg_catalog.pg_has_role(n.nspowner, 'usage'))"
    " from pg_catalog.pg_namespace n where n.nspname = 'walcast'"
)
_READ = sql.SQL(
    "select json_build_array(epoch, commit_lsn, ordinal, through) from walcast.checkpoint where pipeline = {} and sink = {}"
)
_FIRST = sql.SQL("insert into walcast.checkpoint values ({}, {}, 0, '0/0', 0, '0/0') on conflict do nothing")
_TOUCH = sql.SQL("update walcast.checkpoint set written_at = written_at where pipeline = {} and sink = {}")
_LOAD = sql.SQL("select json_object_agg(key, value) from walcast.journal where pipeline = {} and sink = {}")
_FORGET = sql.SQL("delete from walcast.journal where pipeline = {} and sink = {} and key = {}")
_SAVE = sql.SQL(
    "insert into walcast.journal values ({}, {}, {}, {}) on conflict (pipeline, sink, key) do update set value = excluded.value"
)
_KNOWN = sql.SQL(
    "select json_build_object('schema', table_schema, 'name', table_name, 'incomplete', incomplete, 'columns', columns)"
    " from walcast.relation where pipeline = {} and sink = {} and oid = {}"
)
_LEARN = sql.SQL(
    "insert into walcast.relation values ({}, {}, {}, {}, {}, {}, {}) on conflict (pipeline, sink, oid) do update set"
    " table_schema = excluded.table_schema, table_name = excluded.table_name, incomplete = excluded.incomplete,"
    " columns = excluded.columns"
)

_CLAIM = b"select pg_catalog.pg_advisory_xact_lock(1463896435)"
_OTHER = sql.SQL(
    "select pg_catalog.json_build_array(pipeline, sink) from walcast.relation where (pipeline, sink) <> ({}, {})"
    " and table_schema = {} and table_name = {} limit 1"
)
# An incomplete table keeps its entry, under a number that no oid is, so that a crash does not forget it.
_FORGET_COMPLETE = sql.SQL(
    "delete from walcast.relation where pipeline = {} and sink = {} and incomplete = ''"
)
_MOVED = sql.SQL(
    "with kept as (update walcast.relation set oid = -pg_catalog.abs(oid) where pipeline = {} and sink = {} returning *)"
    " select pg_catalog.json_agg(pg_catalog.json_build_array(table_schema, table_name)) from kept"
)
_FORGET_MOVED = sql.SQL(
    "delete from walcast.relation where pipeline = {} and sink = {} and oid < 0 and table_schema = {} and table_name = {}"
)

# Dividing by the number of rows found makes a missing row an error, which ends the script or pipeline at this point.
_SAME = b"pipeline = $1 and sink = $2 and (epoch, commit_lsn, ordinal, through) = ($3, $4, $5, $6)"
_INT8, _INT4, _TEXT, _JSON, _FLOAT8, _PG_LSN = 20, 23, 25, 114, 701, 3220
_IDENTITY = (_TEXT, _TEXT)
_POSITION = (_INT8, _PG_LSN, _INT8, _PG_LSN)
_MOVE = Prepared(
    "walcast_move",
    b"with moved as (update walcast.checkpoint set epoch = $7, commit_lsn = $8, ordinal = $9, through = $10,"
    b" written_at = now() where " + _SAME + b" returning 1) select 1 / count(*) from moved",
    (*_IDENTITY, *_POSITION, *_POSITION),
)
_HOLD, _SHARE = (
    Prepared(
        f"walcast_{name}",
        b"with held as (select 1 from walcast.checkpoint where " + _SAME + b" for " + lock + b")"
        b" select 1 / count(*) from held",
        (*_IDENTITY, *_POSITION),
    )
    for name, lock in (("hold", b"update"), ("share", b"share"))
)
_SET_ASIDE = Prepared(
    "walcast_set_aside",
    b"insert into walcast.dead_letter values ($1, $2, $3, $4, $5, $6, array(select pg_catalog.json_array_elements_text($7)), $8, $9,"
    b" $10, $11, pg_catalog.to_timestamp($12), $13) on conflict (pipeline, sink, number) do update set kind = excluded.kind,"
    b" code = excluded.code, message = excluded.message, attempts = excluded.attempts, letter = excluded.letter",
    (*_IDENTITY, _INT8, _TEXT, _TEXT, _TEXT, _JSON, _TEXT, _TEXT, _TEXT, _INT4, _FLOAT8, _JSON),
)
_SETTLE = Prepared(
    "walcast_settle",
    b"delete from walcast.dead_letter where pipeline = $1 and sink = $2 and number = $3",
    (*_IDENTITY, _INT8),
)
_LETTERS = sql.SQL(
    "select json_agg(letter order by number) from walcast.dead_letter where pipeline = {} and sink = {}"
)
_COMPLETE = Prepared(
    "walcast_complete",
    b"update walcast.relation set incomplete = '' where pipeline = $1 and sink = $2 and oid = $3",
    (25, 25, 20),
)


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A source table as the sink last saw it: the copy's name, and its columns as (attribute number, name, type oid,
    typmod).

    `incomplete` says why it takes nothing but a new snapshot; empty: it does not.
    """

    schema: str
    name: str
    incomplete: str
    columns: tuple[tuple[int | None, str, int, int], ...]


class Store:
    """The rows of one pipeline's sink."""

    def __init__(self, pipeline: str, sink: str) -> None:
        self._names = (sql.Literal(pipeline), sql.Literal(sink))
        self._params = (pipeline.encode(), sink.encode())

    def create(self, session: Session) -> None:
        """Makes the schema when it is not there, and this sink's first, empty checkpoint."""
        _refuse_planted(session)
        found, ours = session.json(_FORMAT) or (0, True)
        check_format(found, "schema walcast of the copy in PostgreSQL")
        if session.query(_PRESENT) != [(b"1",)] or (found < FORMAT and ours):
            session.query(*_CREATE)
            _refuse_planted(session)  # it may have come in between
        session.query(_FIRST.format(*self._names))

    def checkpoint(self, session: Session) -> Checkpoint | None:
        row = session.json(_READ.format(*self._names))
        if row is None:
            return None
        found = Checkpoint(row[0], Position(Lsn.parse(row[1]), row[2]), Lsn.parse(row[3]))
        return None if found == _NOTHING else found

    def move(self, previous: Checkpoint | None, to: Checkpoint) -> Command:
        """Writes the next checkpoint. Fails with DIVISION_BY_ZERO when `previous` is not there any more."""
        return Command(_MOVE, (*self._params, *_position(previous), *_position(to)))

    def hold(self, previous: Checkpoint | None, shared: bool = False) -> Command:
        """Locks the checkpoint for a transaction that does not move it, or not yet; `shared`: beside others that do not.
        Fails as `move` does."""
        return Command(_SHARE if shared else _HOLD, (*self._params, *_position(previous)))

    def touch(self) -> bytes:
        """Writes the checkpoint's row as it is: something to commit."""
        return _TOUCH.format(*self._names).as_bytes()

    def complete(self, oid: int) -> Command:
        """Notes that a snapshot of the table has begun: it will hold all rows again."""
        return Command(_COMPLETE, (*self._params, b"%d" % oid))

    def load_journal(self, session: Session) -> dict[str, Any]:
        return session.json(_LOAD.format(*self._names)) or {}

    def save_journal(self, session: Session, key: str, value: Any) -> None:
        """Durable when it returns, whatever the session's synchronous_commit is."""
        names = (*self._names, sql.Literal(key))
        write = (
            _FORGET.format(*names) if value is None else _SAVE.format(*names, sql.Literal(json.dumps(value)))
        )
        session.query(b"begin", b"set local synchronous_commit = on", write, b"commit")

    def dead_letters(self, session: Session) -> list[DeadLetter]:
        return [DeadLetter.of(value) for value in session.json(_LETTERS.format(*self._names)) or ()]

    def set_aside(self, letters: Sequence[DeadLetter], gone: Sequence[int]) -> list[Command]:
        """Writes letters and forgets others, in whatever transaction this is run."""
        return [
            *(Command(_SET_ASIDE, (*self._params, *_letter(letter))) for letter in letters),
            *(Command(_SETTLE, (*self._params, b"%d" % number)) for number in gone),
        ]

    def known(self, session: Session, oid: int) -> KnownTable | None:
        row = session.json(_KNOWN.format(*self._names, sql.Literal(oid)))
        if row is None:
            return None
        return KnownTable(
            row["schema"],
            row["name"],
            row["incomplete"],
            tuple((a, n, t, m) for a, n, t, m in row["columns"]),
        )

    def other_owner(self, session: Session, schema: str, name: str) -> str | None:
        """Who else keeps this table of the copy; None: nobody. Held against others until the transaction ends."""
        session.query(_CLAIM)
        owner = session.json(_OTHER.format(*self._names, sql.Literal(schema), sql.Literal(name)))
        return None if owner is None else f"sink {owner[1]!r} of pipeline {owner[0]!r}"

    def moved(self, session: Session) -> list[tuple[str, str]]:
        """Forgets what was known by oid; schema and name of the tables that were incomplete."""
        session.query(_FORGET_COMPLETE.format(*self._names))
        return [(schema, name) for schema, name in session.json(_MOVED.format(*self._names)) or ()]

    def learn(self, session: Session, oid: int, table: KnownTable) -> None:
        columns = sql.Literal(json.dumps(table.columns))
        values: Sequence[object] = (oid, table.schema, table.name, table.incomplete)
        place = (sql.Literal(table.schema), sql.Literal(table.name))
        session.query(
            _FORGET_MOVED.format(*self._names, *place),
            _LEARN.format(*self._names, *map(sql.Literal, values), columns),
        )


def _refuse_planted(session: Session) -> None:
    refuse([text.decode() for (text,) in session.query(UNTRUSTED.encode()) if text is not None])


def _letter(letter: DeadLetter) -> tuple[bytes, ...]:
    texts = (
        str(letter.number),
        *letter.table,
        str(letter.position),
        json.dumps(letter.keys),
        letter.kind,
        letter.code,
        letter.message,
        str(letter.attempts),
        repr(letter.since),
        json.dumps(letter.as_json()),
    )
    return tuple(text.encode() for text in texts)


def _position(checkpoint: Checkpoint | None) -> tuple[bytes, bytes, bytes, bytes]:
    held = checkpoint or _NOTHING
    return (
        b"%d" % held.epoch,
        str(held.position.commit_lsn).encode(),
        b"%d" % held.position.ordinal,
        str(held.through).encode(),
    )
