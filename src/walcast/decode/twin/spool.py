"""In-progress transactions, kept until their outcome is known: in memory up to a limit, then in files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from struct import Struct
from typing import IO

from walcast.model import SpoolFull

_RECORD = Struct(">IQI")
"""xid, number of the last announcement, length of the payload that follows."""


class Spool:
    """All streamed transactions of a connection. `memory` and `limit` are bytes over all of them, in memory and in files."""

    def __init__(self, directory: str, memory: int, limit: int) -> None:
        self._directory = directory
        self._memory = memory
        self._limit = limit
        self._in_memory = 0
        self._in_files = 0
        self._transactions: dict[int, _Streamed] = {}

    @property
    def nbytes(self) -> int:
        return self._in_memory + self._in_files

    def start(self, xid: int, *, first: bool) -> bool:
        """A block of this transaction begins. False: its first block, though others came before, or the reverse."""
        if first == (xid in self._transactions):
            return False
        self._transactions.setdefault(xid, _Streamed())
        return True

    def add(self, top: int, xid: int, arrival: int, payload: bytes) -> None:
        """Keeps a message of the transaction `top`, made by its (sub)transaction `xid`. Raises SpoolFull."""
        self._in_memory += self._transactions[top].add(xid, arrival, payload)
        while self._in_memory > self._memory:
            self._spill(max(self._transactions.values(), key=lambda streamed: streamed.in_memory))

    def abort(self, top: int, xid: int) -> None:
        """The whole transaction, or one of its subtransactions, is undone."""
        if top == xid:
            self._forget(top)
        elif top in self._transactions:
            self._transactions[top].aborted.add(xid)

    def replay(self, top: int) -> Iterator[tuple[int, bytes]] | None:
        """(arrival, payload) of what was not undone, in order. None when there is no such transaction."""
        streamed = self._forget(top, keep=True)
        return None if streamed is None else streamed.kept()

    def close(self) -> None:
        """Lets all files go."""
        for xid in list(self._transactions):
            self._forget(xid)

    def _forget(self, xid: int, *, keep: bool = False) -> _Streamed | None:
        streamed = self._transactions.pop(xid, None)
        if streamed is not None:
            self._in_memory -= streamed.in_memory
            self._in_files -= streamed.in_file
            if not keep:
                streamed.close()
        return streamed

    def _spill(self, streamed: _Streamed) -> None:
        if self._in_files + streamed.in_memory > self._limit:
            raise SpoolFull(
                f"transactions in progress need more than the spool's {self._limit} bytes",
                hint="raise the spool's limit, or end the long transactions at the source",
            )
        self._in_files += streamed.in_memory
        self._in_memory -= streamed.in_memory
        try:
            streamed.spill(self._directory)
        except OSError as error:
            raise SpoolFull(f"the spool in {self._directory} cannot be written: {error.strerror}") from error


class _Streamed:
    """One transaction: records in a file, and behind them records in memory."""

    def __init__(self) -> None:
        self.aborted: set[int] = set()
        self.in_memory = 0
        self.in_file = 0
        self._records: list[bytes] = []
        self._file: IO[bytes] | None = None

    def add(self, xid: int, arrival: int, payload: bytes) -> int:
        record = _RECORD.pack(xid, arrival, len(payload)) + payload
        self._records.append(record)
        self.in_memory += len(record)
        return len(record)

    def spill(self, directory: str) -> None:
        if self._file is None:
            # Without a name, so that nothing is left behind whatever happens.
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # closed with the transaction
        self._file.writelines(self._records)
        self._records.clear()
        self.in_file += self.in_memory
        self.in_memory = 0

    def kept(self) -> Iterator[tuple[int, bytes]]:
        try:
            for xid, arrival, payload in self._all():
                if xid not in self.aborted:
                    yield arrival, payload
        finally:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _all(self) -> Iterator[tuple[int, int, bytes]]:
        if self._file is not None:
            self._file.seek(0)
            while header := self._file.read(_RECORD.size):
                xid, arrival, size = _RECORD.unpack(header)
                yield xid, arrival, self._file.read(size)
        for record in self._records:
            xid, arrival, _ = _RECORD.unpack_from(record)
            yield xid, arrival, record[_RECORD.size :]
