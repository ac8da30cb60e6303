"""pgoutput and COPY to batches: the native decoder, and the Python twin that is its fallback and its oracle.

```
CopyData -> Reader (a thread; Assembler inside) -> Delivery with Frames -> StreamBatch (walcast.model.Batch)
COPY TO  -> CopyReader, snapshot_frames ------------------------> Frames --^
```
Which of the two it is was chosen once, in `walcast.accel`; `NATIVE` and `TWIN` are both, for the suite that holds
them equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from walcast import accel
from walcast.decode.batch import IdleBatch, StreamBatch
from walcast.decode.frames import Delivery, Implementation, RelationTuple
from walcast.decode.reader import PyReader
from walcast.decode.rows import Rows
from walcast.decode.twin import DecodeFault as PyDecodeFault
from walcast.decode.twin import (
    PyAssembler,
    PyCatalog,
    PyCopyReader,
    PyFrames,
    PyRowSet,
    py_snapshot_frames,
)

__all__ = [
    "IMPLEMENTATION",
    "NATIVE",
    "TWIN",
    "Assembler",
    "Catalog",
    "CopyReader",
    "DecodeFault",
    "Delivery",
    "Frames",
    "IdleBatch",
    "Implementation",
    "Reader",
    "RowSet",
    "Rows",
    "StreamBatch",
    "make_copy_reader",
    "make_reader",
    "snapshot_frames",
]

TWIN: Final = Implementation(
    "python",
    PyFrames,
    PyRowSet,
    PyCatalog,
    PyAssembler,
    PyReader,
    PyCopyReader,
    py_snapshot_frames,
    PyDecodeFault,
)
NATIVE: Final = (
    None
    if accel.NATIVE is None
    else Implementation(
        "native",
        accel.NATIVE.Frames,
        accel.NATIVE.RowSet,
        accel.NATIVE.Catalog,
        accel.NATIVE.Assembler,
        accel.NATIVE.Reader,
        accel.NATIVE.CopyReader,
        accel.NATIVE.snapshot_frames,
        accel.NATIVE.DecodeFault,
    )
)
_CHOSEN = TWIN if NATIVE is None else NATIVE
IMPLEMENTATION: Final = _CHOSEN.name

if TYPE_CHECKING:
    from walcast.decode.frames import Frames, RowSet
    from walcast.decode.reader import PyReader as Reader
    from walcast.decode.twin import DecodeFault
    from walcast.decode.twin import PyAssembler as Assembler
    from walcast.decode.twin import PyCatalog as Catalog
    from walcast.decode.twin import PyCopyReader as CopyReader
    from walcast.decode.twin import py_snapshot_frames as snapshot_frames
else:
    _, Frames, RowSet, Catalog, Assembler, Reader, CopyReader, snapshot_frames, DecodeFault = _CHOSEN


def make_reader(pgconn: Any, **settings: Any) -> Reader:
    """A reader over psycopg's `PGconn`, which is in COPY BOTH. `settings`: see `PyReader`."""
    if NATIVE is None:
        return PyReader(pgconn, {}, **settings)
    from walcast.accel.libpq import symbols

    return Reader(pgconn.pgconn_ptr, symbols(), **settings)


def make_copy_reader(
    pgconn: Any, relation: RelationTuple, format: Literal["binary", "text"], commit_lsn: int
) -> CopyReader:
    """A reader of rows over psycopg's `PGconn`, which is in COPY OUT."""
    if NATIVE is None:
        return PyCopyReader(pgconn, {}, relation, format, commit_lsn)
    from walcast.accel.libpq import symbols

    return CopyReader(pgconn.pgconn_ptr, symbols(), relation, format, commit_lsn)
