"""Batches without a server: pgoutput messages as a walsender would send them, through a real decoder.

    table = Table(16400, "app", "users", [("id", INT8, True), ("name", TEXT)])
    stream = Stream(table)
    stream.begin()
    stream.insert(table, [1, "ann"])
    stream.update(table, [1, UNCHANGED])
    stream.commit()
    (batch,) = stream.batches()

Values in a row: None is null, UNCHANGED a TOAST value that was not sent, str is sent as text, bytes as binary, and an
int as text. The functions below make single frames, for those who want to send them in a wrong order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from struct import pack
from typing import Any, Final, NamedTuple

from walcast import decode
from walcast.decode import StreamBatch
from walcast.decode.builtin import BUILTIN
from walcast.decode.frames import ColumnTuple, Delivery, Implementation, RelationTuple, TypeTuple
from walcast.model import (
    UNCHANGED,
    Checkpoint,
    Column,
    Lsn,
    Part,
    Position,
    Relation,
    TableId,
    TypeInfo,
    Unchanged,
)

BOOL: Final = 16
BYTEA: Final = 17
INT8: Final = 20
INT4: Final = 23
TEXT: Final = 25
JSONB: Final = 3802
NUMERIC: Final = 1700
TIMESTAMPTZ: Final = 1184

Value = bytes | str | int | Unchanged | None
Row = Sequence[Value]


class Table(NamedTuple):
    """A table as pgoutput announces it. Columns: (name, type oid, is key, typmod), the last two optional."""

    oid: int
    schema: str
    name: str
    columns: Sequence[tuple[Any, ...]]
    identity: str = "d"

    def column_tuples(self) -> list[ColumnTuple]:
        return [(name, oid, *_key_and_typmod(*rest)) for name, oid, *rest in self.columns]


def begin(commit_lsn: int, xid: int, time: int = 0) -> bytes:
    """`time`: microseconds since 2000."""
    return xlog(b"B" + pack(">QqI", commit_lsn, time, xid), commit_lsn)


def commit(commit_lsn: int, end_lsn: int, time: int = 0) -> bytes:
    return xlog(b"C" + pack(">BQQq", 0, commit_lsn, end_lsn, time), end_lsn)


def origin(name: str) -> bytes:
    return xlog(b"O" + pack(">Q", 0) + _string(name))


def relation(table: Table, xid: int | None = None) -> bytes:
    """`xid`, here and below: of the (sub)transaction, inside a stream block only."""
    columns = b"".join(
        pack(">B", key) + _string(name) + pack(">Ii", oid, typmod)
        for name, oid, typmod, key in table.column_tuples()
    )
    described = _string(table.schema) + _string(table.name) + table.identity.encode()
    return xlog(
        b"R" + _xid(xid) + pack(">I", table.oid) + described + pack(">H", len(table.columns)) + columns
    )


def insert(oid: int, row: Row, xid: int | None = None) -> bytes:
    return xlog(b"I" + _xid(xid) + pack(">I", oid) + b"N" + _tuple(row))


def update(
    oid: int, row: Row, *, key: Row | None = None, old: Row | None = None, xid: int | None = None
) -> bytes:
    """`key`: the old key, the other columns null; `old`: the whole old row (REPLICA IDENTITY FULL)."""
    return xlog(b"U" + _xid(xid) + pack(">I", oid) + _old(key, old) + b"N" + _tuple(row))


def delete(oid: int, *, key: Row | None = None, old: Row | None = None, xid: int | None = None) -> bytes:
    return xlog(b"D" + _xid(xid) + pack(">I", oid) + _old(key, old))


def truncate(
    oids: Sequence[int], *, cascade: bool = False, restart_identity: bool = False, xid: int | None = None
) -> bytes:
    options = cascade | restart_identity << 1
    return xlog(b"T" + _xid(xid) + pack(f">IB{len(oids)}I", len(oids), options, *oids))


def message(
    prefix: str, content: bytes, *, transactional: bool = True, lsn: int = 0, xid: int | None = None
) -> bytes:
    """A logical message (pg_logical_emit_message)."""
    body = pack(">BQ", transactional, lsn) + _string(prefix) + pack(">I", len(content)) + content
    return xlog(b"M" + _xid(xid) + body, lsn)


def stream_start(xid: int, *, first: bool) -> bytes:
    return xlog(b"S" + pack(">IB", xid, first))


def stream_stop() -> bytes:
    return xlog(b"E")


def stream_commit(xid: int, commit_lsn: int, end_lsn: int, time: int = 0) -> bytes:
    return xlog(b"c" + pack(">IBQQq", xid, 0, commit_lsn, end_lsn, time), end_lsn)


def stream_abort(xid: int, subxid: int) -> bytes:
    return xlog(b"A" + pack(">II", xid, subxid))


def keepalive(lsn: int, *, reply: bool = False) -> bytes:
    return b"k" + pack(">QqB", lsn, 0, reply)


def xlog(message: bytes, lsn: int = 0) -> bytes:
    """A pgoutput message in its XLogData frame."""
    return b"w" + pack(">QQq", lsn, lsn, 0) + message


class Stream:
    """Writes frames one after the other, and keeps count of LSNs and transaction numbers."""

    def __init__(self, *tables: Table, lsn: int = 0x1000, xid: int = 700) -> None:
        self.frames: list[bytes] = [relation(table) for table in tables]
        self.lsn = lsn
        self.xid = xid
        self._time = 0

    def begin(self, *, origin_name: str | None = None) -> None:
        self.lsn += 0x100
        self.xid += 1
        self._time += 1_000_000
        self.frames.append(begin(self.lsn, self.xid, self._time))
        if origin_name is not None:
            self.frames.append(origin(origin_name))

    def commit(self) -> None:
        self.frames.append(commit(self.lsn, self.lsn + 0x30, self._time))

    def announce(self, table: Table) -> None:
        """A new version of a table."""
        self.frames.append(relation(table))

    def insert(self, table: Table, row: Row) -> None:
        self.frames.append(insert(table.oid, row))

    def update(self, table: Table, row: Row, *, key: Row | None = None, old: Row | None = None) -> None:
        self.frames.append(update(table.oid, row, key=key, old=old))

    def delete(self, table: Table, *, key: Row | None = None, old: Row | None = None) -> None:
        self.frames.append(delete(table.oid, key=key, old=old))

    def truncate(self, *tables: Table, cascade: bool = False, restart_identity: bool = False) -> None:
        oids = [table.oid for table in tables]
        self.frames.append(truncate(oids, cascade=cascade, restart_identity=restart_identity))

    def message(self, prefix: str, content: bytes) -> None:
        self.frames.append(message(prefix, content, lsn=self.lsn))

    def batches(self, **settings: Any) -> list[StreamBatch]:
        """What was written since the last call, as batches. `settings`: see `batches_from`."""
        frames, self.frames = self.frames, []
        announced = [frame for frame in frames if frame[25:26] == b"R"]
        self.frames += announced
        return batches_from(frames, **settings)


def batches_from(
    frames: Iterable[bytes],
    *,
    types: Sequence[TypeTuple] = (),
    keys: dict[TableId, Sequence[str]] | None = None,
    epoch: int = 1,
    part_bytes: int = 64 << 20,
    batch_bytes: int = 64 << 20,
    implementation: Implementation | None = None,
) -> list[StreamBatch]:
    """Decodes CopyData payloads into batches, as a source would give them.

    Parameters
    ----------
    types
        types that are not built in
    keys
        key columns of tables under REPLICA IDENTITY FULL, where the catalog and not the stream tells them
    part_bytes, batch_bytes
        where transactions are cut into parts, and batches end
    implementation
        the decoder; by default the one that Walcast itself uses
    """
    chosen = implementation or decode.NATIVE or decode.TWIN
    with tempfile.TemporaryDirectory() as spool:
        assembler = chosen.Assembler(4, True, part_bytes, batch_bytes, spool, 1 << 20, 1 << 30)
        for frame in frames:
            assembler.feed(frame)
        deliveries = [Delivery(*item) for item in assembler.take(final=True)]
    catalog = chosen.Catalog(list(types))
    infos = {item[0]: item for item in types}
    return [
        batch_of(delivery, catalog, infos, keys or {}, epoch)
        for delivery in deliveries
        if delivery.kind == "changes"
    ]


def batch_of(
    delivery: Delivery,
    catalog: Any,
    types: dict[int, TypeTuple],
    keys: dict[TableId, Sequence[str]],
    epoch: int,
) -> StreamBatch:
    """One delivery's batch."""
    assert delivery.frames is not None
    part = None if delivery.part is None else Part(*delivery.part)
    checkpoint = None
    if part is None or part.last:
        position = Position(Lsn(delivery.commit_lsn), delivery.ordinal)
        checkpoint = Checkpoint(epoch, position, Lsn(delivery.through))
    relations = [model_relation(found, types, keys) for found in delivery.frames.relations()]
    return StreamBatch(delivery.frames, relations, catalog, epoch=epoch, checkpoint=checkpoint, part=part)


def model_relation(
    found: RelationTuple, types: dict[int, TypeTuple], keys: dict[TableId, Sequence[str]]
) -> Relation:
    """A relation as a source would complete it. Under REPLICA IDENTITY FULL it has the key that `keys` names, or none."""
    oid, schema, name, identity, columns = found
    table = TableId(schema, name)

    def is_key(column: str, flag: bool) -> bool:
        return column in keys.get(table, ()) if identity == "f" else flag

    def column(number: int, item: ColumnTuple) -> Column:
        name, type_oid, typmod, flag = item
        info, key = type_info(type_oid, types), is_key(name, flag)
        return Column(name, info, typmod, _sql_type(info, typmod), number, key, nullable=not key)

    return Relation(
        oid,
        table,
        tuple(column(number, item) for number, item in enumerate(columns, 1)),
        identity,  # type: ignore[arg-type]  # the decoders let only these pass
    )


def type_info(oid: int, types: dict[int, TypeTuple]) -> TypeInfo:
    """A type by oid, from the built-in ones and from `types`."""
    if oid in BUILTIN or oid not in types:
        return BUILTIN.get(oid) or TypeInfo(oid, "", f"type {oid}", has_binary=False)
    _, name, kind, element, fields, delimiter = types[oid]
    return TypeInfo(
        oid,
        "app",
        name,
        kind,  # type: ignore[arg-type]  # as in model.TypeKind
        type_info(element, types) if element else None,
        tuple((field, type_info(field_oid, types)) for field, field_oid in fields),
        delimiter=delimiter,
    )


def _sql_type(info: TypeInfo, typmod: int) -> str:
    if info.kind == "array" and info.element is not None:
        return _sql_type(info.element, typmod) + "[]"
    if info.name == "numeric" and typmod >= 4:
        return f"numeric({(typmod - 4) >> 16},{(typmod - 4) & 0x7FF})"
    return info.name if info.oid in BUILTIN else f"{info.schema}.{info.name}"


def _key_and_typmod(key: bool = False, typmod: int = -1) -> tuple[int, bool]:
    return typmod, key


def _old(key: Row | None, old: Row | None) -> bytes:
    if key is not None:
        return b"K" + _tuple(key)
    return b"" if old is None else b"O" + _tuple(old)


def _tuple(row: Row) -> bytes:
    return pack(">H", len(row)) + b"".join(_value(value) for value in row)


def _value(value: Value) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    if isinstance(value, bytes):
        return b"b" + pack(">I", len(value)) + value
    text = str(value).encode()
    return b"t" + pack(">I", len(text)) + text


def _string(text: str) -> bytes:
    return text.encode() + b"\0"


def _xid(xid: int | None) -> bytes:
    return b"" if xid is None else pack(">I", xid)


__all__ = [
    "Stream",
    "Table",
    "batches_from",
    "begin",
    "commit",
    "delete",
    "insert",
    "keepalive",
    "message",
    "origin",
    "relation",
    "stream_abort",
    "stream_commit",
    "stream_start",
    "stream_stop",
    "truncate",
    "update",
]
