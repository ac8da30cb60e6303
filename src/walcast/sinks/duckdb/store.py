"""The DuckDB file: one connection in one thread, and its own bookkeeping tables."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import duckdb

from walcast.model import (
    FORMAT,
    Checkpoint,
    DeadLetter,
    OperatorError,
    check_format,
)
from walcast.sinks.closing import closed
from walcast.sinks.duckdb.faults import fenced, first_line, translated
from walcast.sinks.duckdb.seal import Seal

T = TypeVar("T")


class View(Protocol):
    """What reads beside the writer for longer than one call."""

    def interrupt(self) -> None: ...

    def end(self) -> None: ...


_BOOKKEEPING: Final = (
    "create schema if not exists _walcast",
    """create table if not exists _walcast.checkpoints (
        pipeline varchar, sink varchar, epoch bigint, commit_lsn ubigint, ordinal ubigint, through ubigint)""",
    "create table if not exists _walcast.journal (pipeline varchar, sink varchar, key varchar, value varchar)",
    """create table if not exists _walcast.tables (
        pipeline varchar, sink varchar, source_schema varchar, source_table varchar, oid ubigint,
        target_schema varchar, target_table varchar, columns varchar)""",
    """create table if not exists _walcast.dead_letters (
        pipeline varchar, sink varchar, number bigint, source_schema varchar, source_table varchar, position varchar,
        keys varchar[], kind varchar, code varchar, message varchar, attempts integer, since timestamptz, letter varchar)""",
)

_FORMAT: Final = """select coalesce(comment, '') from duckdb_tables()
    where database_name = current_database() and schema_name = '_walcast' and table_name = 'checkpoints'"""
_NOTE_FORMAT: Final = f"comment on table _walcast.checkpoints is 'format {FORMAT}'"

_LOAD_CHECKPOINT: Final = """select epoch, commit_lsn, ordinal, through from _walcast.checkpoints
    where pipeline = ? and sink = ?"""
_FIRST_CHECKPOINT: Final = """insert into _walcast.checkpoints
    select $1, $2, $3, $4, $5, $6
    where not exists (select 1 from _walcast.checkpoints where pipeline = $1 and sink = $2)"""
_NEXT_CHECKPOINT: Final = """update _walcast.checkpoints set epoch = $3, commit_lsn = $4, ordinal = $5, through = $6
    where pipeline = $1 and sink = $2 and epoch = $7 and commit_lsn = $8 and ordinal = $9 and through = $10"""

_SETTLE_LETTER: Final = "delete from _walcast.dead_letters where pipeline = ? and sink = ? and number = ?"
_SET_ASIDE: Final = """insert into _walcast.dead_letters
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, to_timestamp(?), ?)"""

_QUERY_ROWS: Final = 10_000


class Store:
    """An open DuckDB file. Every method but `call`, `read` and `close` runs in the one worker thread.

    DuckDB's calls block, and a connection serves one call at a time; the event loop must not wait for either.
    """

    def __init__(self, path: Path, pipeline: str, sink: str, settings: dict[str, str]) -> None:
        self.path = path
        self.owner = (pipeline, sink)
        self._settings = settings
        self._writer = ThreadPoolExecutor(1, "walcast-duckdb")
        self._readers = ThreadPoolExecutor(2, "walcast-duckdb-read")
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._seal: Seal | None = None
        self._checkpoint: Checkpoint | None = None
        self.in_transaction = False
        self.views: set[View] = set()
        """Closed with the store."""

    async def beside(self, function: Callable[..., T], *args: Any) -> T:
        """Runs it in a reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *args)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Runs it in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, function, *args)

    async def open(self, seal: Seal) -> None:
        await self.call(self._open, seal)

    async def close(self) -> None:
        """Rolls back what is open and lets go of the file. A statement at work is interrupted."""
        if self._connection is not None:
            self._connection.interrupt()
        for view in self.views:
            view.interrupt()
        try:
            await closed(self._writer, self._close)
        finally:
            self._readers.shutdown()

    def _open(self, seal: Seal) -> None:
        with translated(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            written = seal.broken()
            self._connection = duckdb.connect(str(self.path), config=dict(self._settings))
            seal.take(written)  # the file is ours now
            self._seal = seal
            self._connection.execute("set TimeZone = 'UTC'")
            noted = self._connection.execute(_FORMAT).fetchone()
            found = int((noted[0] if noted else "").removeprefix("format ") or 0)
            check_format(found, str(self.path))
            for statement in _BOOKKEEPING:
                self._connection.execute(statement)
            if found < FORMAT:
                self._connection.execute(_NOTE_FORMAT)
            row = self._connection.execute(_LOAD_CHECKPOINT, self.owner).fetchone()
        if row is not None:
            self._checkpoint = Checkpoint.of(row)

    def _close(self) -> None:
        for view in list(self.views):
            view.end()
        self.views.clear()
        if self._connection is not None:
            self.rollback()
            self._connection.close()
            self._connection = None
            if self._seal is not None:
                self._seal.put()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The one that was read when the file was opened, or written since."""
        return self._checkpoint

    def execute(self, statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """Runs one statement to its end. Raises DuckDB's own errors: see `translated`."""
        assert self._connection is not None
        return self._connection.execute(statement, parameters).fetchall()

    def changed(self, statement: str, parameters: object = None) -> int:
        """Runs an insert, update or delete; how many rows it touched."""
        return int(self.execute(statement, parameters)[0][0])

    def scan(self, statement: str, _walcast_in: object) -> list[tuple[Any, ...]]:
        """Runs a statement that selects from `_walcast_in`: an Arrow table, which DuckDB finds by its variable's name.
        (A registered view would be an entry in the catalog, made and dropped for each batch.)"""
        assert self._connection is not None
        return self._connection.execute(statement).fetchall()

    def begin(self) -> None:
        """Joins the open transaction, or starts one."""
        if not self.in_transaction:
            self.execute("begin transaction")
            self.in_transaction = True

    def commit(self, checkpoint: Checkpoint | None) -> None:
        """Makes the transaction durable, with the checkpoint, if the stored one is still what this store knows."""
        self.begin()
        if checkpoint is not None and checkpoint != self._checkpoint:
            self._save(checkpoint)
        self.execute("commit")
        self.in_transaction = False
        if checkpoint is not None:
            self._checkpoint = checkpoint

    def rollback(self) -> None:
        if self.in_transaction:
            self.in_transaction = False
            with suppress(duckdb.Error):  # it may have rolled back by itself
                self.execute("rollback")

    def _save(self, checkpoint: Checkpoint) -> None:
        values = [*self.owner, *checkpoint.numbers]
        if self._checkpoint is None:
            written = self.changed(_FIRST_CHECKPOINT, values)
        else:
            written = self.changed(_NEXT_CHECKPOINT, values + self._checkpoint.numbers)
        if written != 1:
            raise fenced(self.path)

    def set_aside(self, letters: Sequence[DeadLetter], gone: Sequence[int]) -> None:
        """Writes dead letters and forgets others, in the open transaction."""
        for number in [*(letter.number for letter in letters), *gone]:
            self.execute(_SETTLE_LETTER, [*self.owner, number])
        for letter in letters:
            about = [letter.number, *letter.table, str(letter.position), list(letter.keys), letter.kind]
            why = [letter.code, letter.message, letter.attempts, letter.since, json.dumps(letter.as_json())]
            self.execute(_SET_ASIDE, [*self.owner, *about, *why])

    async def read(self, statement: str, limit: int = _QUERY_ROWS) -> tuple[list[str], list[tuple[Any, ...]]]:
        """A query beside the writer: column names, and at most `limit` rows, with values as DuckDB's text. It sees
        committed data and cannot write."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, statement, limit)

    def _read(self, statement: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        if self._connection is None:
            raise OperatorError(f"{self.path} is not open")
        try:
            kinds = [part.type.name for part in duckdb.extract_statements(statement)]
        except duckdb.Error as error:
            raise OperatorError(f"DuckDB does not understand the query: {first_line(error)}") from None
        if kinds != ["SELECT"]:
            raise OperatorError(
                "only one SELECT can be asked here", hint="the file belongs to the running pipeline"
            )
        with self._connection.cursor() as cursor:
            try:
                cursor.execute("set TimeZone = 'UTC'; set python_enable_replacements = false")
                cursor.execute("begin transaction read only")
                text = f"select cast(columns(*) as varchar) from (\n{statement.strip().rstrip(';')}\n) limit {limit}"
                result = cursor.execute(text)
                return [column[0] for column in result.description or ()], result.fetchall()
            except duckdb.Error as error:
                raise OperatorError(f"the query failed: {first_line(error)}") from None

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A second connection, with transactions of its own."""
        assert self._connection is not None
        return self._connection.cursor()


def configuration(memory_limit: int, threads: int | None) -> dict[str, str]:
    """DuckDB's settings."""
    settings = {"memory_limit": f"{memory_limit}B"}
    if threads is not None:
        settings["threads"] = str(threads)
    return settings
