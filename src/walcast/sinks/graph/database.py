"""The LadybugDB file: one connection, its transaction, its bookkeeping, and its errors in our terms. Runs in one thread."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ladybug

from walcast.model import OperatorError, SinkUnavailable, WalcastError

_READ_LIMIT = 20_000
"""Milliseconds that a query of somebody else's may take: the writer waits for it."""
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`|//[^\n]*|/\*.*?\*/""", re.DOTALL)
_TABLES = re.compile(r"load from \$")
"""How a query of an Arrow table begins."""
_CHECKPOINT = 64 << 20
"""Bytes of its log after which LadybugDB brings its file up to date: each time it writes the edges of all vertices anew that
got one."""
_DEEPEST = 1000
"""Steps that a path in such a query may have."""
_IO = "IO exception"
_DESCRIPTORS = "/proc/self/fd"
_META = "create node table if not exists _walcast (name string primary key, value string)"


class Database:
    """An open file. What was run since `begin` is there after `commit`, or not at all."""

    full = False
    """Its transactions may be as large as they like."""

    def __init__(self, path: Path, memory: int, threads: int) -> None:
        self.path = path
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            try:
                self._database = _opened(path, buffer_pool_size=memory, max_num_threads=threads)
                self._connection = ladybug.Connection(self._database)
                self._connection.execute(f"call checkpoint_threshold={_CHECKPOINT}")
                self._reader = ladybug.Connection(self._database)
                self._reader.set_query_timeout(_READ_LIMIT)
                self._reader.execute(f"call var_length_extend_max_depth={_DEEPEST}")
            except BaseException:
                os.close(self._lock)
                raise
        self.in_transaction = False
        self._torn = False
        """A write to its files has failed."""
        self.run(_META)

    def close(self) -> None:
        self.rollback()
        if self._torn:
            self._leave_as_it_is()
        self._reader.close()
        self._connection.close()
        self._database.close()
        os.close(self._lock)

    def begin(self) -> None:
        """Joins the open transaction, or starts one."""
        if not self.in_transaction:
            self.run("begin transaction")
            self.in_transaction = True

    def commit(self) -> None:
        if self.in_transaction:
            self.run("commit")
            self.in_transaction = False

    def rollback(self) -> None:
        if self.in_transaction:
            self.in_transaction = False
            with suppress(RuntimeError):  # it rolls back by itself after some errors
                self._connection.execute("rollback")

    def run(self, query: str, **parameters: Any) -> list[list[Any]]:
        """All rows of one query."""
        with translated(self.path):
            try:
                return _rows(self._connection, query, parameters)[1]
            except RuntimeError as error:
                self._torn |= _IO in str(error)
                raise

    def read(self, query: str, parameters: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
        """Names and rows of a query of what is committed, on a connection of its own that cannot write: what is open is
        not disturbed, whatever the query is."""
        if ";" in _QUOTED.sub("", query).rstrip("; \n"):
            raise OperatorError(
                "several queries at once", hint="ask one at a time"
            )  # one could end the transaction
        with translated(self.path):
            self._reader.execute("begin transaction read only")
            try:
                return _rows(self._reader, query, parameters)
            finally:
                with suppress(RuntimeError):  # after an error it has rolled back by itself
                    self._reader.execute("rollback")

    def _leave_as_it_is(self) -> None:
        """After a failed write LadybugDB writes the rest of its log when it is closed, and ends the process when that fails,
        too. So the log gets nothing more, as if the process had been killed; the next opening goes on from there."""
        with suppress(RuntimeError):
            self._connection.execute("call force_checkpoint_on_close=false")
        log = f"{self.path.resolve()}.wal"
        nowhere = os.open(os.devnull, os.O_RDWR)
        try:
            for name in os.listdir(_DESCRIPTORS) if os.path.isdir(_DESCRIPTORS) else ():
                with suppress(OSError):  # the listing's own is closed by now
                    if os.readlink(f"{_DESCRIPTORS}/{name}") == log:
                        os.dup2(nowhere, int(name), inheritable=False)
        finally:
            os.close(nowhere)

    def columns(self, table: str) -> dict[str, str]:
        """A table's columns and their types; none when there is no such table."""
        names = [row[1] for row in self.run("call show_tables() return *")]
        if table not in names:
            return {}
        return {row[1]: row[2] for row in self.run(f"call table_info({_text(table)}) return *")}

    def get(self, name: str) -> Any:
        """A value of the bookkeeping; None when it is not there."""
        rows = self.run("match (m:_walcast {name: $name}) return m.value", name=name)
        return json.loads(rows[0][0]) if rows else None

    def put(self, name: str, value: Any) -> None:
        if value is None:
            self.run("match (m:_walcast {name: $name}) delete m", name=name)
        else:
            self.run(
                "merge (m:_walcast {name: $name}) set m.value = $value", name=name, value=json.dumps(value)
            )

    def named(self, prefix: str) -> dict[str, Any]:
        """The bookkeeping whose names begin so, without the prefix."""
        rows = self.run(
            "match (m:_walcast) where starts_with(m.name, $prefix) return m.name, m.value", prefix=prefix
        )
        return {name.removeprefix(prefix): json.loads(value) for name, value in rows}


def readable(path: Path) -> None:
    """Raises OperatorError for a file that cannot be read; one that is not there yet can."""
    if not path.exists():
        return
    with translated(path):
        database = _opened(path, read_only=True, buffer_pool_size=64 << 20)
        database.close()


def _opened(path: Path, **settings: Any) -> ladybug.Database:
    """What a crash or a full disk cut off at the end of the log is left out: it was not committed."""
    return ladybug.Database(str(path), throw_on_wal_replay_failure=False, **settings)


def _rows(
    connection: ladybug.Connection, query: str, parameters: dict[str, Any]
) -> tuple[list[str], list[list[Any]]]:
    if _TABLES.match(query):
        # Run as text, it would be kept with its table's memory, of the pool, for as long as the connection lives.
        result = connection.execute(connection.prepare(query, parameters), parameters)
    else:
        result = connection.execute(query, parameters=parameters)
    assert not isinstance(result, list), "one query at a time"
    try:
        rows: list[list[Any]] = []
        while result.has_next():
            row = result.get_next()
            assert isinstance(row, list)
            rows.append(row)
        return result.get_column_names(), rows
    finally:
        result.close()


def _locked(path: Path) -> int:
    """LadybugDB's own lock keeps other processes out; this one also a second writer in this process."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _in_use(path) from None
    return descriptor


def _in_use(path: Path) -> OperatorError:
    return OperatorError(
        f"{path} is open in another process",
        hint="a graph file has one writer: close the other program, or read it through `walcast` while it runs",
    )


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns LadybugDB's errors, which are all RuntimeError, into ours."""
    try:
        yield
    except RuntimeError as error:
        raise _translate(str(error).partition("\n")[0], path) from error
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be used: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _translate(text: str, path: Path) -> WalcastError:
    if "ould not set lock" in text:
        return _in_use(path)
    if "not a valid" in text or "storage version" in text.lower():
        return OperatorError(
            f"{path} is damaged, of another version, or no LadybugDB file",
            hint="move it away and run again: the copy is made anew from a snapshot",
        )
    if _IO in text and "annot write" in text:  # it tells no reason, or a wrong one
        return OperatorError(
            f"{path} cannot be written: the disk is full, or broken", hint="free some space there"
        )
    if "post-commit checkpoint failed" in text and "uffer pool is full" not in text:
        return SinkUnavailable(f"{path}: a checkpoint failed after a commit", hint="it is opened again")
    if "o space left" in text or "uffer manager exception" in text or "uffer pool is full" in text:
        return OperatorError(
            f"{path}: the disk or the memory is full", hint="free some, or raise the sink's memory"
        )
    return OperatorError(f"{path}: {text[:200]}")
