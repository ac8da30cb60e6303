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

from walcast.model import Checkpoint, Lsn, Position
from walcast.sinks.postgres.session import Command, Prepared, Session

SCHEMA = "walcast"
"""A table of this schema at the source is another copy's bookkeeping: it is never copied, or two directions would
overwrite each other's checkpoints."""
_NOTHING = Checkpoint(0, Position(Lsn(0), 0), Lsn(0))

_PRESENT = sql.SQL("select count(*) from pg_catalog.pg_class where oid = to_regclass('walcast.relation')")
_CREATE = (
    b"begin",
    b"select pg_advisory_xact_lock(1463896435)",
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
    b"comment on schema walcast is 'what Walcast needs to go on where it stopped'",
    b"commit",
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

# Dividing by the number of rows found makes a missing row an error, which ends the script or pipeline at this point.
_SAME = b"pipeline = $1 and sink = $2 and (epoch, commit_lsn, ordinal, through) = ($3, $4, $5, $6)"
_INT8, _TEXT, _PG_LSN = 20, 25, 3220
_IDENTITY = (_TEXT, _TEXT)
_POSITION = (_INT8, _PG_LSN, _INT8, _PG_LSN)
_MOVE = Prepared(
    "walcast_move",
    b"with moved as (update walcast.checkpoint set epoch = $7, commit_lsn = $8, ordinal = $9, through = $10,"
    b" written_at = now() where " + _SAME + b" returning 1) select 1 / count(*) from moved",
    (*_IDENTITY, *_POSITION, *_POSITION),
)
_HOLD = Prepared(
    "walcast_hold",
    b"with held as (select 1 from walcast.checkpoint where " + _SAME + b" for update)"
    b" select 1 / count(*) from held",
    (*_IDENTITY, *_POSITION),
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
        if session.query(_PRESENT) != [(b"1",)]:
            session.query(*_CREATE)
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

    def hold(self, previous: Checkpoint | None) -> Command:
        """Locks the checkpoint for a transaction that does not move it. Fails as `move` does."""
        return Command(_HOLD, (*self._params, *_position(previous)))

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

    def learn(self, session: Session, oid: int, table: KnownTable) -> None:
        columns = sql.Literal(json.dumps(table.columns))
        values: Sequence[object] = (oid, table.schema, table.name, table.incomplete)
        session.query(_LEARN.format(*self._names, *map(sql.Literal, values), columns))


def _position(checkpoint: Checkpoint | None) -> tuple[bytes, bytes, bytes, bytes]:
    held = checkpoint or _NOTHING
    return (
        b"%d" % held.epoch,
        str(held.position.commit_lsn).encode(),
        b"%d" % held.position.ordinal,
        str(held.through).encode(),
    )
