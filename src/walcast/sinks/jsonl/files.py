"""The files of a directory: one open, the others closed for good."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from walcast.model import Checkpoint, FatalError, Fenced, OperatorError, Position, TableId
from walcast.sinks.jsonl.config import JsonLinesSinkConfig
from walcast.sinks.jsonl.encoders import SUFFIXES, encoder
from walcast.sinks.jsonl.state import State

log = logging.getLogger("walcast.sinks.jsonl")

_LOCK: Final = ".walcast.lock"
_OPEN: Final = ".part"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Files:
    """Appends lines and makes them durable. Runs in one thread. After an error only opening anew helps: it cuts the open
    file to what is durable."""

    def __init__(self, config: JsonLinesSinkConfig, owner: str) -> None:
        self._config = config
        self._directory = config.directory
        self._encoder = encoder(config.compress)
        self.durable = State(owner)
        self.reached: Checkpoint | None = None
        self.tables: set[TableId] = set()
        self.synced = True
        self.growing = False  # a transaction has parts to come
        self._lock = self._fd = -1
        self._number, self._name, self._opened, self._size = 0, "", 0.0, 0
        self._failed = False

    def open(self) -> None:
        """Takes the directory, and cuts the open file to what is known to be whole. Raises Fenced, OperatorError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fenced(
                f"{self._directory} is being written by another process",
                hint="one sink writes a directory: stop the other pipeline, or choose another directory",
            ) from None
        except OSError as error:
            raise self._error(error) from error
        try:
            self._resume()
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Lets go of the directory, without what was not flushed. (After a crash opening cuts it off.)"""
        if self._fd >= 0:
            with suppress(OSError):
                self._cut()
        for descriptor in (self._fd, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._fd = self._lock = -1

    def append(self, lines: bytes, first: Callable[[], Position]) -> None:
        """Adds lines, opening a file whose first change is `first()` where none is open."""
        self._usable()
        try:
            if self._fd < 0:
                self._start(first())
            self._put(self._encoder.encode(lines))
        except OSError as error:
            raise self._error(error) from error
        self.synced = False

    def whole(self, checkpoint: Checkpoint | None) -> None:
        """All that was added so far is whole transactions, up to this checkpoint. Rotates when it is time."""
        if checkpoint is not None and checkpoint != self.reached:
            self.reached = checkpoint
            self.synced = False
        if self._due():
            self.sync()

    def sync(self) -> None:
        """Makes what is whole durable, and the checkpoint with it. Does nothing while a transaction has parts to come."""
        self._usable()
        if self.growing:
            return
        if not self.synced:
            try:
                if self._fd >= 0:
                    self._put(self._encoder.finish())
                    os.fdatasync(self._fd)
                self._save()
            except OSError as error:
                raise self._error(error) from error
        if self._due():
            self._finish()

    def _due(self) -> bool:
        """Whether the open file is big or old enough to be closed."""
        old = 0 < self._config.rotate_seconds <= time.time() - self._opened
        return self._size > 0 and (old or self._size >= self._config.rotate_bytes)

    def _resume(self) -> None:
        state = State.load(self._directory, self.durable.owner)
        self.durable, self.reached, self.tables = state, state.checkpoint, set(state.tables)
        self._number = state.number
        for path in self._directory.glob("*" + _OPEN):
            if path.name != f"{state.file}{_OPEN}":
                path.unlink()  # begun after the checkpoint
        if state.file is not None:
            self._reopen(state, state.file)

    def _reopen(self, state: State, name: str) -> None:
        path = self._directory / (name + _OPEN)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            self._save()  # it was closed just before the crash
            return
        self._name, self._opened, self._size = name, state.opened, state.offset
        if os.fstat(self._fd).st_size < state.offset:
            raise OperatorError(
                f"{path} is shorter than its checkpoint says",
                hint="something else wrote it; move the directory's files away and run again",
            )
        os.ftruncate(self._fd, state.offset)
        if not name.endswith(SUFFIXES[self._config.compress]):
            self._finish()  # the setting changed: the next file has the new form

    def _start(self, first: Position) -> None:
        self._number += 1
        self._name = f"{self._number:08d}-{int(first.commit_lsn):016X}-{first.ordinal}{SUFFIXES[self._config.compress]}"
        self._opened, self._size = time.time(), 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._directory / (self._name + _OPEN), flags, 0o644)

    def _finish(self) -> None:
        """Closes the open file, all of which is durable: it gets its final name."""
        name = self._name
        try:
            os.close(self._fd)
            self._fd, self._name, self._size = -1, "", 0
            os.rename(self._directory / (name + _OPEN), self._directory / name)
            self._save()
        except OSError as error:
            raise self._error(error) from error
        log.info("file_closed", extra={"file": name})

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.durable.offset if self._name == self.durable.file else 0)

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            count = os.write(self._fd, rest)
            rest = rest[count:]
            self._size += count

    def _save(self) -> None:
        state = State(
            self.durable.owner,
            self.reached,
            self._number,
            self._name or None,
            self._size,
            self._opened,
            frozenset(self.tables),
        )
        state.save(self._directory)
        self.durable, self.synced = state, True

    def _usable(self) -> None:
        if self._failed:
            raise FatalError(f"{self._directory}: an earlier write failed; the sink has to be opened again")

    def _error(self, error: OSError) -> OperatorError:
        self._failed = True
        if error.errno in _FULL:
            with suppress(OSError):
                self._cut()
            return OperatorError(
                f"{self._directory}: the disk is full", hint="free some space; no transaction is half there"
            )
        return OperatorError(
            f"{self._directory} cannot be written: {error.strerror}",
            hint="check the path, its permissions and the disk",
        )
