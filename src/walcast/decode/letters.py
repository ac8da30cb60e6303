"""A dead letter as a batch again: its change is written as pgoutput would send it, and decoded as everything is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from struct import pack
from typing import Any, cast

from walcast.decode.batch import StreamBatch
from walcast.decode.builtin import type_tuples
from walcast.decode.frames import Delivery, Implementation
from walcast.model import DeadLetter, Relation

_POSTGRES_EPOCH = 946_684_800_000_000
_ROOM = 1 << 30


def letter_batch(letter: DeadLetter, relation: Relation, implementation: Implementation) -> StreamBatch:
    """One transaction with the letter's change, and no checkpoint. A row that a snapshot read comes as an insert."""
    raw = letter.raw
    lsn, time = raw.commit_lsn, max(0, raw.commit_time - _POSTGRES_EPOCH)
    messages = (
        b"B" + pack(">QqI", lsn, time, raw.xid),
        _announced(relation),
        _change(letter, relation.oid),
        b"C" + pack(">BQQq", 0, lsn, lsn + 1, time),
    )
    with tempfile.TemporaryDirectory() as spool:
        assembler = implementation.Assembler(4, True, _ROOM, _ROOM, spool, _ROOM, _ROOM)
        for message in messages:
            assembler.feed(b"w" + pack(">QQq", lsn, lsn, 0) + message)
        delivery = Delivery(*next(iter(assembler.take(final=True))))
    assert delivery.frames is not None
    catalog = implementation.Catalog(type_tuples(column.type for column in relation.columns))
    return StreamBatch(delivery.frames, [relation], cast("Any", catalog))


def _announced(relation: Relation) -> bytes:
    columns = b"".join(
        pack(">B", column.key or relation.identity == "f")
        + _string(column.name)
        + pack(">Ii", column.type.oid, column.typmod)
        for column in relation.columns
    )
    names = _string(relation.table.schema) + _string(relation.table.name) + relation.identity.encode()
    return b"R" + pack(">I", relation.oid) + names + pack(">H", len(relation.columns)) + columns


def _change(letter: DeadLetter, oid: int) -> bytes:
    raw = letter.raw
    new = b"N" + _tuple(raw.kinds, raw.values)
    old = raw.old_kind + _tuple(raw.old_kinds, raw.old_values) if raw.old_kind else b""
    if raw.op == b"D":
        return b"D" + pack(">I", oid) + old
    if raw.op == b"U":
        return b"U" + pack(">I", oid) + old + new
    return b"I" + pack(">I", oid) + new


def _tuple(kinds: bytes, values: Sequence[bytes | None]) -> bytes:
    fields = b"".join(
        bytes([kind]) + (b"" if value is None else pack(">I", len(value)) + value)
        for kind, value in zip(kinds, values, strict=True)
    )
    return pack(">H", len(kinds)) + fields


def _string(text: str) -> bytes:
    return text.encode() + b"\0"
