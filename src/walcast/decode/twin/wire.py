"""pgoutput, protocol versions 1 to 4, and the replication frames around it."""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

from walcast.decode.twin.fault import DecodeFault
from walcast.decode.twin.index import NO_TUPLE, Column, Relation, Tuple

_U8, _U16, _U32, _I32, _U64, _I64 = (Struct(">" + code) for code in "BHIiQq")
_MAX_VALUE = 1 << 30
"""PostgreSQL's own limit for a value, bytes."""
_MAX_FRAME = (1 << 30) + 64
XLOG_HEADER = 25
"""Where pgoutput's message begins in an XLogData payload."""
_WITH_XID = frozenset(b"RYIUDTM")
_TWO_PHASE = frozenset(b"bPKrp")


class Keepalive(NamedTuple):
    end: int
    reply: bool


class Data(NamedTuple):
    lsn: int
    sent: int
    message: Cursor


class Begin(NamedTuple):
    commit_lsn: int
    time: int
    xid: int


class Commit(NamedTuple):
    commit_lsn: int
    end_lsn: int
    time: int


class Origin(NamedTuple):
    name: str


class TypeName(NamedTuple):
    """Announces a type; the catalog knows more."""


class Change(NamedTuple):
    """An insert, update or delete whose tuples are not read yet: their width is the relation's."""

    op: bytes
    oid: int
    rest: Cursor


class Truncate(NamedTuple):
    cascade: bool
    restart_identity: bool
    oids: tuple[int, ...]


class LogicalMessage(NamedTuple):
    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class StreamStart(NamedTuple):
    xid: int
    first: bool


class StreamStop(NamedTuple):
    pass


class StreamCommit(NamedTuple):
    xid: int
    commit_lsn: int
    end_lsn: int
    time: int


class StreamAbort(NamedTuple):
    xid: int
    subxid: int


Message = (
    Begin
    | Commit
    | Origin
    | Relation
    | TypeName
    | Change
    | Truncate
    | LogicalMessage
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
)


class Cursor:
    """A place in a payload. Every read checks that the bytes are there."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def number(self, layout: Struct) -> int:
        return int(layout.unpack(self.take(layout.size))[0])

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise DecodeFault("the message ends early", len(self.data))
        self.at += size
        return self.data[self.at - size : self.at]

    def length(self) -> int:
        start = self.at
        size = self.number(_U32)
        if size >= _MAX_VALUE:
            raise DecodeFault("a length that no value can have", start)
        return size

    def string(self) -> str:
        start = self.at
        end = self.data.find(b"\0", start)
        if end < 0:
            raise DecodeFault("a string without end", start)
        self.at = end + 1
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            raise DecodeFault("a name that is not UTF-8", start + error.start) from None

    def finish(self) -> None:
        if self.left:
            raise DecodeFault(f"{self.left} bytes too many", self.at)


def frame(payload: bytes) -> Data | Keepalive:
    """Splits a CopyData payload into its frame."""
    if len(payload) > _MAX_FRAME:
        raise DecodeFault("a frame longer than PostgreSQL can send", _MAX_FRAME)
    cursor = Cursor(payload)
    tag = cursor.number(_U8)
    if tag == ord("w"):
        start, end, sent = cursor.number(_U64), cursor.number(_U64), cursor.number(_I64)
        return Data(max(start, end), sent, cursor)
    if tag == ord("k"):
        end = cursor.number(_U64)
        cursor.number(_I64)
        reply = cursor.number(_U8) != 0
        cursor.finish()
        return Keepalive(end, reply)
    raise DecodeFault(f"unknown frame {_shown(tag)}", 0)


def streamed(cursor: Cursor) -> tuple[int, int | None]:
    """The tag of a message inside a stream block, and the xid of the (sub)transaction that made it."""
    ahead = Cursor(cursor.data, cursor.at)
    tag = ahead.number(_U8)
    return tag, ahead.number(_U32) if tag in _WITH_XID else None


def message(cursor: Cursor, *, in_stream: bool) -> Message:
    """Reads one message. In a stream, data messages carry the xid of their (sub)transaction."""
    begin = cursor.at
    tag = cursor.number(_U8)
    if in_stream and tag in _WITH_XID:
        cursor.number(_U32)
    if tag in b"IUD":
        return Change(bytes([tag]), cursor.number(_U32), cursor)
    if tag in _TWO_PHASE:
        raise DecodeFault(
            f"two-phase message {_shown(tag)}: the slot was created with TWO_PHASE, which is not supported",
            begin,
        )
    read = _READERS.get(tag)
    if read is None:
        raise DecodeFault(f"unknown message {_shown(tag)}", begin)
    found: Message = read(cursor)
    cursor.finish()
    return found


def tuples(change: Change, width: int) -> tuple[Tuple, Tuple, bytes]:
    """A change's new tuple, old tuple and the old one's kind (K, O or nothing)."""
    cursor = change.rest
    new, old, old_kind = NO_TUPLE, NO_TUPLE, b""
    start = cursor.at
    tag = cursor.take(1)
    if change.op != b"I" and tag in (b"K", b"O"):
        old, old_kind = _tuple(cursor, width), tag
        if change.op == b"U":
            start = cursor.at
            tag = cursor.take(1)
    if change.op != b"D" and tag == b"N":
        new = _tuple(cursor, width)
    elif change.op != b"D" or not old_kind:
        raise DecodeFault(f"unexpected tuple {_shown(tag[0])}", start)
    cursor.finish()
    return new, old, old_kind


def _tuple(cursor: Cursor, width: int) -> Tuple:
    start = cursor.at
    count = cursor.number(_U16)
    if count != width:
        raise DecodeFault(f"a tuple of {count} columns, the relation has {width}", start)
    if count > cursor.left:
        raise DecodeFault("the message ends early", len(cursor.data))
    kinds = bytearray()
    values: list[bytes | None] = []
    for _ in range(count):
        at = cursor.at
        kind = cursor.number(_U8)
        if kind in b"nu":
            values.append(None)
        elif kind in b"tb":
            values.append(cursor.take(cursor.length()))
        else:
            raise DecodeFault(f"unknown kind of value {_shown(kind)}", at)
        kinds.append(kind)
    return Tuple(bytes(kinds), tuple(values))


def _begin(cursor: Cursor) -> Begin:
    return Begin(cursor.number(_U64), cursor.number(_I64), cursor.number(_U32))


def _commit(cursor: Cursor) -> Commit:
    cursor.number(_U8)
    return Commit(cursor.number(_U64), cursor.number(_U64), cursor.number(_I64))


def _origin(cursor: Cursor) -> Origin:
    cursor.number(_U64)
    return Origin(cursor.string())


def _relation(cursor: Cursor) -> Relation:
    oid = cursor.number(_U32)
    # An empty schema stands for pg_catalog.
    schema = cursor.string() or "pg_catalog"
    name = cursor.string()
    at = cursor.at
    identity = cursor.number(_U8)
    if identity not in b"difn":
        raise DecodeFault(f"unknown replica identity {_shown(identity)}", at)
    columns = []
    for _ in range(cursor.number(_U16)):
        key = cursor.number(_U8) & 1 != 0
        columns.append(Column(cursor.string(), cursor.number(_U32), cursor.number(_I32), key))
    return Relation(oid, schema, name, chr(identity), tuple(columns))


def _type(cursor: Cursor) -> TypeName:
    cursor.number(_U32)
    cursor.string()
    cursor.string()
    return TypeName()


def _truncate(cursor: Cursor) -> Truncate:
    start = cursor.at
    count, flags = cursor.number(_U32), cursor.number(_U8)
    if cursor.left != 4 * count:
        raise DecodeFault("a truncate whose count of relations is not what follows", start)
    oids = tuple(cursor.number(_U32) for _ in range(count))
    return Truncate(flags & 1 != 0, flags & 2 != 0, oids)


def _logical(cursor: Cursor) -> LogicalMessage:
    flags, lsn, prefix = cursor.number(_U8), cursor.number(_U64), cursor.string()
    return LogicalMessage(flags & 1 != 0, lsn, prefix, cursor.take(cursor.length()))


def _stream_start(cursor: Cursor) -> StreamStart:
    return StreamStart(cursor.number(_U32), cursor.number(_U8) != 0)


def _stream_stop(cursor: Cursor) -> StreamStop:
    return StreamStop()


def _stream_commit(cursor: Cursor) -> StreamCommit:
    xid = cursor.number(_U32)
    cursor.number(_U8)
    return StreamCommit(xid, cursor.number(_U64), cursor.number(_U64), cursor.number(_I64))


def _stream_abort(cursor: Cursor) -> StreamAbort:
    found = StreamAbort(cursor.number(_U32), cursor.number(_U32))
    # Version 4 with streaming 'parallel' adds the abort's LSN and time.
    if cursor.left == 16:
        cursor.take(16)
    return found


_READERS: dict[int, Any] = {
    ord("B"): _begin,
    ord("C"): _commit,
    ord("O"): _origin,
    ord("R"): _relation,
    ord("Y"): _type,
    ord("T"): _truncate,
    ord("M"): _logical,
    ord("S"): _stream_start,
    ord("E"): _stream_stop,
    ord("c"): _stream_commit,
    ord("A"): _stream_abort,
}


def _shown(tag: int) -> str:
    return f"'{chr(tag)}'" if 32 < tag < 127 else f"0x{tag:02x}"
