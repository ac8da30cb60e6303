"""What a decoder gives: the surface that the native classes and the Python twin share.

A decoder turns pgoutput messages (or COPY data) into `Frames`: the server's bytes, and an index of them. Relations
are small numbers here (their place in `Frames.relations()`), types are oids. `walcast.decode.batch` puts the names
of `walcast.model` on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from walcast.model import ArrowTable, ValueFormat

ColumnTuple = tuple[str, int, int, bool]
"""(name, type oid, typmod, is key). Under REPLICA IDENTITY FULL every column is a key column."""

RelationTuple = tuple[int, str, str, str, list[ColumnTuple]]
"""(oid, schema, name, replica identity as one of "difn", columns)."""

TransactionTuple = tuple[int, int, int, int, str | None]
"""(xid, commit LSN, end LSN (0: it goes on in a later part), commit time in microseconds since 1970, origin)."""

EntryTuple = tuple[
    bytes,
    int,
    int,
    int,
    int,
    int,
    bytes,
    tuple[bytes | None, ...],
    bytes,
    bytes,
    tuple[bytes | None, ...],
    tuple[object, ...],
]
"""The fields of `walcast.model.RawChange`, in its order."""

TypeTuple = tuple[int, str, str, int, list[tuple[str, int]], str]
"""(oid, name, kind as in model.TypeKind, element oid, a composite's (field, oid), array delimiter)."""


class Catalog(Protocol):
    """The types that are not built in, by oid; made from a list of `TypeTuple`."""

    def has_binary(self, oid: int) -> bool:
        """Whether this implementation reads the type's binary form. If not, the connection should send text."""
        ...


class RowSet(Protocol):
    """Rows of one relation, as the server sent them."""

    def __len__(self) -> int: ...
    @property
    def format(self) -> ValueFormat: ...
    def copy(self, columns: list[int]) -> Sequence[bytes]:
        """COPY input of these columns: binary with header and trailer, or text. ValueError when `format` is mixed."""
        ...

    def arrow(
        self, columns: list[int], catalog: Any, numeric: str, temporal: str, arrays: str
    ) -> ArrowTable: ...
    def values(
        self, columns: list[tuple[int, str]], start: int, stop: int
    ) -> list[list[int | str | bool | None]] | None:
        """Of each of these columns the Python values from row `start` to `stop`. With each its type's letter: `i` integers,
        `s` text, `b` booleans. None: make them of the rows. The twin makes none."""
        ...

    def rows(self) -> Iterator[tuple[bytes, tuple[bytes | None, ...]]]:
        """(kinds, values) a row, over all columns of the relation."""
        ...


NetTuple = tuple[bool, bool, bool, bool, RowSet | None, Sequence[tuple[list[int], bool, RowSet]]]
"""The fields of `walcast.model.NetChanges`: truncate, cascade, restart identity, replay, deletes,
[(unchanged columns, fresh, rows)]."""


class Frames(Protocol):
    """An indexed batch. A catalog passed to its methods must come from the same implementation."""

    @property
    def kind(self) -> Literal["changes", "snapshot"]: ...
    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        ...

    def __len__(self) -> int:
        """Changes, truncates (one a relation) and messages."""
        ...

    def relations(self) -> list[RelationTuple]: ...
    def transactions(self) -> list[TransactionTuple]: ...
    def transaction_count(self) -> int: ...
    def last_transaction(self) -> TransactionTuple | None: ...
    def counts(self, relation: int) -> tuple[int, int, int, int, int]:
        """Inserts, updates, deletes, truncates, rows read by a snapshot."""
        ...

    def select(self, after_commit_lsn: int, drops: dict[int, int]) -> Frames | None:
        """A view without the transactions up to `after_commit_lsn`, and without changes of relation oid k that
        committed before `drops[k]`. None when no change is left."""
        ...

    def upto(self, before: int) -> Frames:
        """A view of only the transactions that committed before this LSN; it may be empty."""
        ...

    def end(self) -> tuple[int, int, int] | None:
        """(commit LSN, ordinal of the last change, end LSN) of the last transaction, also when its changes were dropped
        from this view."""
        ...

    def xids(self) -> list[int]:
        """The transactions' ids, 32 bits, in commit order; without messages outside transactions, which have none."""
        ...

    def join(self, later: list[Any]) -> Frames | None:
        """All that these frames show and then all that the later ones (of the same implementation) show, in memory of its
        own; relations in the order of their first appearance. None when two of them know a relation differently, or when
        it would be too big."""
        ...

    def without(self, places: list[int]) -> Frames:
        """A view without the entries at these places: from 0, in the order of `entries`."""
        ...

    def entries(self) -> Iterator[EntryTuple]:
        """Changes in commit order; a truncate of several relations is one item a relation."""
        ...

    def arrow(self, relation: int, catalog: Any, numeric: str, temporal: str, arrays: str) -> ArrowTable: ...
    def json_lines(self, catalog: Any, keys: list[list[int]]) -> bytes:
        """One line of JSON a change. `keys`: for each relation its key's column numbers."""
        ...

    def documents(
        self,
        relation: int,
        catalog: Any,
        fields: list[tuple[str, int]],
        id: list[int],
        places: tuple[int, int],
    ) -> tuple[list[str], list[bytes]] | None:
        """See `walcast.model.Batch.documents`; columns are numbers. The twin makes none."""
        ...

    def net(self, relation: int, key: list[int]) -> NetTuple: ...


class Delivery(NamedTuple):
    """What a reader hands over. The native one gives plain tuples of this shape: read it by `Delivery(*item)`.

    changes: `commit_lsn`, `ordinal` and `through` are of the last whole transaction in `frames`; `through` is 0 in
    a part of a transaction that goes on. idle: `through` is a keepalive's LSN with nothing outstanding. end:
    the stream is over, `error` is (reason, SQLSTATE or None, message); the reason is one of server, closed,
    done, protocol, spool_full, stopped.
    """

    kind: Literal["changes", "idle", "end"]
    frames: Frames | None
    commit_lsn: int
    ordinal: int
    through: int
    part: tuple[int, bool] | None
    error: tuple[str, str | None, str] | None


class Assembler(Protocol):
    """pgoutput messages in, batches out; what the reader uses, fed by hand in tests and fuzzing."""

    def feed(self, message: bytes) -> None:
        """Takes one CopyData payload (XLogData or keepalive). Raises DecodeFault(message, offset), a ValueError."""
        ...

    def take(self, final: bool = False) -> Sequence[Any]:
        """The sealed batches as Deliveries. `final` also seals the whole transactions that wait, and tells the position
        by an idle Delivery if it moved on since."""
        ...


class Reader(Protocol):
    """A thread that reads a connection in COPY BOTH, answers keepalives and confirms positions."""

    def start(self) -> None: ...
    def fileno(self) -> int:
        """A descriptor that is readable when `take` has something."""
        ...

    def take(self) -> Sequence[Any]:
        """Deliveries so far; never blocks."""
        ...

    def confirm(self, lsn: int) -> None:
        """The flush position to report; sent promptly."""
        ...

    def poke(self) -> None:
        """Asks the server where it is, and delivers an idle Delivery as soon as it answers."""
        ...

    def stop(self) -> None:
        """Ends the thread, within seconds. The connection stays the caller's to close."""
        ...

    def stats(self) -> dict[str, int]: ...


class CopyReader(Protocol):
    """Reads what one COPY TO STDOUT sends, on a connection that nobody else uses meanwhile."""

    def read(self, bytes: int, rows: int) -> tuple[Any, int, bool]:
        """(frames, bytes that the server sent for them, whether the copy is over): waits until so many bytes or rows are
        there, and lets other threads run. The connection's next result says how the copy ended."""
        ...


class Implementation(NamedTuple):
    """One decoder, whole: native or the Python twin."""

    name: Literal["native", "python"]
    Frames: type[Any]
    RowSet: type[Any]
    Catalog: type[Any]
    Assembler: type[Any]
    Reader: type[Any]
    CopyReader: type[Any]
    snapshot_frames: Callable[..., Any]
    DecodeFault: type[ValueError]
