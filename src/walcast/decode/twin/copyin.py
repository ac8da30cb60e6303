"""What COPY TO sent, as a batch of rows read."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any, Literal

from walcast.decode.frames import RelationTuple
from walcast.decode.twin.frames import PyFrames
from walcast.decode.twin.index import Column, Entry, Index, Relation, Transaction, Tuple, unix_time
from walcast.decode.twin.rowset import TRAILER
from walcast.model import DecodeError

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_FIXED_HEADER = 19
_UNESCAPED = {
    ord("b"): b"\b",
    ord("f"): b"\f",
    ord("n"): b"\n",
    ord("r"): b"\r",
    ord("t"): b"\t",
    ord("v"): b"\v",
}


def py_snapshot_frames(
    relation: RelationTuple, payload: list[bytes], format: Literal["binary", "text"], commit_lsn: int
) -> PyFrames:
    """Rows read by COPY TO; the header and the trailer of COPY BINARY may be there or not."""
    oid, schema, name, identity, columns = relation
    found = Relation(oid, schema, name, identity, tuple(Column(*column) for column in columns))
    data = b"".join(payload)
    if format not in ("binary", "text"):
        raise ValueError(f"unknown format: {format}")
    rows = _binary_rows(data, len(columns)) if format == "binary" else _text_rows(data, len(columns))
    index = Index([found], [Transaction(0, commit_lsn, unix_time(0), commit_lsn)])
    for row in rows:
        entry = Entry(b"R", 0, index.transactions[0], 0, row)
        index.entries.append(entry)
        index.nbytes += entry.nbytes
    return PyFrames(index, "snapshot")


class PyCopyReader:
    """See `walcast.decode.frames.CopyReader`. `pgconn` is psycopg's; `symbols` are the native reader's."""

    def __init__(
        self,
        pgconn: Any,
        symbols: dict[str, int],
        relation: RelationTuple,
        format: Literal["binary", "text"],
        commit_lsn: int,
    ) -> None:
        self._pgconn = pgconn
        self._relation = relation
        self._format: Literal["binary", "text"] = format
        self._lsn = commit_lsn

    def read(self, bytes: int, rows: int) -> tuple[PyFrames, int, bool]:
        payload: list[Any] = []
        size = 0
        row = self._wait()
        while row is not None:
            payload.append(row)
            size += len(row)
            if size >= bytes or len(payload) >= rows:
                break
            row = self._wait()
        frames = py_snapshot_frames(self._relation, payload, self._format, self._lsn)
        return frames, size, row is None

    def _wait(self) -> Any:
        """The next payload; None at the end. psycopg's blocking call would keep the interpreter to itself."""
        dry = 0
        while True:
            length, row = self._pgconn.get_copy_data(1)
            if length != 0:
                return row if length > 0 else None
            if dry == 2:  # not at once: what TLS has decrypted already does not make the socket readable
                select.select([self._pgconn.socket], [], [])
                dry = 0
            self._pgconn.consume_input()
            dry += 1


def _binary_rows(data: bytes, width: int) -> Iterator[Tuple]:
    at = _after_header(data)
    while at < len(data):
        count = int.from_bytes(_slice(data, at, 2), signed=True)
        if count == -1:
            if at + len(TRAILER) != len(data):
                raise DecodeError("a COPY that goes on after its trailer", offset=at)
            return
        if count != width:
            raise DecodeError(f"a COPY row of {count} columns, the relation has {width}", offset=at)
        at += 2
        kinds = bytearray()
        values: list[bytes | None] = []
        for _ in range(count):
            size = int.from_bytes(_slice(data, at, 4), signed=True)
            if size < -1:
                raise DecodeError("a length that no value can have", offset=at)
            at += 4
            kinds.append(ord("n") if size == -1 else ord("b"))
            values.append(None if size == -1 else _slice(data, at, size))
            at += max(size, 0)
        yield Tuple(bytes(kinds), tuple(values))


def _after_header(data: bytes) -> int:
    if not data.startswith(_SIGNATURE):
        return 0
    if int.from_bytes(_slice(data, len(_SIGNATURE), 4)) & 0xFFFF0000:
        raise DecodeError("a COPY header with an unknown critical flag", offset=len(_SIGNATURE))
    extension = int.from_bytes(_slice(data, _FIXED_HEADER - 4, 4))
    _slice(data, _FIXED_HEADER, extension)
    return _FIXED_HEADER + extension


def _slice(data: bytes, at: int, size: int) -> bytes:
    if size > len(data) - at:
        raise DecodeError("the data ends early", offset=len(data))
    return data[at : at + size]


def _text_rows(data: bytes, width: int) -> Iterator[Tuple]:
    lines = data.split(b"\n")
    if lines[-1] and lines[-1] != b"\\.":
        raise DecodeError("a COPY row without its end", offset=len(data))
    at = 0
    for number, line in enumerate(lines[: None if lines[-1] else -1]):
        if line == b"\\.":
            if any(lines[number + 1 :]):
                raise DecodeError("a COPY that goes on after its end", offset=at)
            return
        fields = line.split(b"\t") if width or line else []
        if len(fields) != width:
            raise DecodeError(f"a COPY row of {len(fields)} columns, the relation has {width}", offset=at)
        values = tuple(None if field == b"\\N" else _unescaped(field, at) for field in fields)
        yield Tuple(bytes(ord("n") if value is None else ord("t") for value in values), values)
        at += len(line) + 1


def _unescaped(field: bytes, at: int) -> bytes:
    if b"\\" not in field:
        return field
    pieces = bytearray()
    marks = iter(field)
    for mark in marks:
        if mark == ord("\\"):
            escaped = next(marks, None)
            if escaped is None:
                raise DecodeError("a COPY field that ends in a backslash", offset=at)
            pieces += _UNESCAPED.get(escaped, bytes([escaped]))
        else:
            pieces.append(mark)
    return bytes(pieces)
