"""A batch of changes that no stream sent: rows written again, to make a copy what its source is.

It is made of pgoutput messages through the decoder, so that sinks see what they always see.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from struct import pack
from typing import Literal, NamedTuple

from walcast import decode
from walcast.decode.batch import StreamBatch
from walcast.decode.frames import Catalog, Delivery, RelationTuple
from walcast.model import Relation

_NO_LIMIT = 1 << 40


class Rewrite(NamedTuple):
    """What is to be done to a row. `values` are the server's texts, one for each column of the relation.

    insert  a row whose key is not there
    change  a row whose key may be there: it is updated whole, or inserted
    remove  every row with this key: `values` need only have the key
    """

    action: Literal["insert", "change", "remove"]
    values: Sequence[bytes | None]


def rewritten(
    relation: Relation,
    announced: RelationTuple,
    catalog: Catalog,
    rows: Iterable[Rewrite],
    *,
    epoch: int,
    commit_lsn: int,
) -> StreamBatch:
    """One transaction of these changes, without a checkpoint: a sink that takes it stays where it is. `announced` is the
    relation as the stream would announce it. Its commit time is 2000: it is nobody's latency."""
    with tempfile.TemporaryDirectory() as spool:
        assembler = decode.Assembler(4, True, _NO_LIMIT, _NO_LIMIT, spool, 1 << 20, 1 << 30)
        assembler.feed(_frame(b"B" + pack(">QqI", commit_lsn, 0, 0), commit_lsn))
        assembler.feed(_frame(_relation(announced), 0))
        for action, values in rows:
            if action == "remove":
                sent = [
                    value if column.key else None
                    for value, column in zip(values, relation.columns, strict=True)
                ]
                change = b"D" + pack(">I", relation.oid) + b"K" + _row(sent)
            else:
                op = b"I" if action == "insert" else b"U"
                change = op + pack(">I", relation.oid) + b"N" + _row(values)
            assembler.feed(_frame(change, 0))
        assembler.feed(_frame(b"C" + pack(">BQQq", 0, commit_lsn, commit_lsn + 8, 0), commit_lsn))
        (item,) = assembler.take(final=True)
    frames = Delivery(*item).frames
    assert frames is not None
    return StreamBatch(frames, [relation], catalog, epoch=epoch)


def _frame(message: bytes, lsn: int) -> bytes:
    return b"w" + pack(">QQq", lsn, lsn, 0) + message


def _relation(announced: RelationTuple) -> bytes:
    oid, schema, name, identity, columns = announced
    described = b"".join(
        pack(">B", key) + column.encode() + b"\0" + pack(">Ii", type_oid, typmod)
        for column, type_oid, typmod, key in columns
    )
    names = schema.encode() + b"\0" + name.encode() + b"\0" + identity.encode()
    return b"R" + pack(">I", oid) + names + pack(">H", len(columns)) + described


def _row(values: Sequence[bytes | None]) -> bytes:
    return pack(">H", len(values)) + b"".join(
        b"n" if value is None else b"t" + pack(">I", len(value)) + value for value in values
    )
