"""The native module: what `walcast.decode.frames` describes, in Rust."""

from collections.abc import Iterator
from typing import Literal, final

from walcast.decode.frames import EntryTuple, NetTuple, RelationTuple, TransactionTuple, TypeTuple
from walcast.model import ValueFormat

class DecodeFault(ValueError):
    """Bytes that are not the protocol's: (message, offset)."""

@final
class Catalog:
    """Types that are not built in. Extension types are known by name: hstore, vector, citext."""

    def __init__(self, types: list[TypeTuple]) -> None: ...
    def has_binary(self, oid: int) -> bool: ...

@final
class ArrowTable:
    """Rows as Arrow record batches; may be exported more than once. pyarrow, DuckDB and polars read it as it is."""

    def __len__(self) -> int: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...
    def __arrow_c_schema__(self) -> object: ...

@final
class RowSet:
    def __len__(self) -> int: ...
    @property
    def format(self) -> ValueFormat: ...
    def copy(self, columns: list[int]) -> list[bytes]: ...
    def arrow(
        self, columns: list[int], catalog: Catalog, numeric: str, temporal: str, arrays: str
    ) -> ArrowTable: ...
    def values(
        self, columns: list[tuple[int, str]], start: int, stop: int
    ) -> list[list[int | str | bool | None]] | None: ...
    def rows(self) -> Iterator[tuple[bytes, tuple[bytes | None, ...]]]: ...

@final
class Frames:
    @property
    def kind(self) -> Literal["changes", "snapshot"]: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def relations(self) -> list[RelationTuple]: ...
    def transactions(self) -> list[TransactionTuple]: ...
    def transaction_count(self) -> int: ...
    def last_transaction(self) -> TransactionTuple | None: ...
    def counts(self, relation: int) -> tuple[int, int, int, int, int]: ...
    def select(self, after_commit_lsn: int, drops: dict[int, int]) -> Frames | None: ...
    def join(self, later: list[Frames]) -> Frames | None: ...
    def without(self, places: list[int]) -> Frames: ...
    def entries(self) -> Iterator[EntryTuple]: ...
    def arrow(self, relation: int, catalog: Catalog, numeric: str, temporal: str, arrays: str) -> ArrowTable:
        """Columns before the relation's own: `_op` utf8 (I, U, D, T, R), `_commit_lsn` uint64, `_ordinal` uint64, `_xid`
        uint32, `_commit_time` timestamp[us, UTC] (null in a snapshot), `_unchanged` list<int32> (never null), `_old`
        struct of the relation's columns (null when nothing was sent; only its key columns when only those were)."""

    def json_lines(self, catalog: Catalog, keys: list[list[int]]) -> bytes: ...
    def documents(
        self,
        relation: int,
        catalog: Catalog,
        fields: list[tuple[str, int]],
        id: list[int],
        places: tuple[int, int],
    ) -> tuple[list[str], list[bytes]] | None: ...
    def net(self, relation: int, key: list[int]) -> NetTuple:
        """Keys are compared by their bytes. A key that was inserted and deleted again is among the deletes: a redelivered batch
        must remove what an earlier one left. Rows of a snapshot are one fresh group, with a key or without."""

@final
class CopyReader:
    """`walcast.decode.frames.CopyReader`; `pgconn` is the address of a PGconn in COPY OUT."""

    def __init__(
        self,
        pgconn: int,
        symbols: dict[str, int],
        relation: RelationTuple,
        format: Literal["binary", "text"],
        commit_lsn: int,
    ) -> None: ...
    def read(self, bytes: int, rows: int) -> tuple[Frames, int, bool]: ...

def snapshot_frames(
    relation: RelationTuple, payload: list[bytes], format: Literal["binary", "text"], commit_lsn: int
) -> Frames:
    """Rows read by COPY TO, binary or text. Raises DecodeError with the offset in the joined payload."""

Item = tuple[
    Literal["changes", "idle", "end"],
    Frames | None,
    int,
    int,
    int,
    tuple[int, bool] | None,
    tuple[str, str | None, str] | None,
]
"""The fields of `walcast.decode.frames.Delivery`. (A name for this stub; the module has no such attribute.)"""

@final
class Assembler:
    def __init__(
        self,
        protocol: int,
        streaming: bool,
        part_bytes: int,
        batch_bytes: int,
        spool_dir: str,
        spool_memory: int,
        spool_limit: int,
    ) -> None: ...
    def feed(self, message: bytes) -> None: ...
    def take(self, final: bool = False) -> list[Item]: ...

@final
class Reader:
    """`pgconn` is the address of a PGconn in COPY BOTH, the reader's alone until `stop`; `symbols` holds the addresses of
    libpq's functions by name (see `walcast.accel.libpq`). Sizes in bytes."""

    def __init__(
        self,
        pgconn: int,
        symbols: dict[str, int],
        *,
        protocol: int,
        streaming: bool,
        after_through: int,
        budget_bytes: int,
        part_bytes: int,
        batch_bytes: int,
        linger_us: int,
        busy_wait_ms: int,
        spool_dir: str,
        spool_memory: int,
        spool_limit: int,
        status_interval_ms: int,
        idle_interval_ms: int,
    ) -> None: ...
    def start(self) -> None: ...
    def fileno(self) -> int: ...
    def take(self) -> list[Item]: ...
    def confirm(self, lsn: int) -> None: ...
    def poke(self) -> None: ...
    def stop(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
