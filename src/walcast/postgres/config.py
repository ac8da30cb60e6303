"""The settings of a source: frozen, parsed once at the edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from walcast.model.secret import Secret

_MB = 1 << 20


def _about(help: str, unit: str | None = None) -> dict[str, str]:
    """What the reference page and `walcast init` say of a field, and how it reads (`64MB`, `5s`)."""
    return {"help": help} | ({"unit": unit} if unit else {})


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """How a PostgreSQL source is read. Sizes are bytes, times seconds.

    `filters` and `columns` belong to the publication: they are used when Walcast creates or changes it, and read back
    from the server when tables are copied.
    """

    dsn: Secret = field(
        default=Secret(""),
        metadata=_about("connection string of the source, URI or key=value; PG* variables count"),
    )
    name: str = field(default="walcast", metadata={"internal": True})
    """The pipeline's name, seen in application_name as walcast:<name>; also of its temporary slots."""
    slot: str = field(
        default="walcast", metadata=_about("logical replication slot; created when it is not there")
    )
    publication: str = field(default="walcast", metadata=_about("publication; created when it is not there"))
    include: tuple[str, ...] = field(
        default=(), metadata=_about("tables to copy: schema.table, with * and ?; empty: all published")
    )
    exclude: tuple[str, ...] = field(default=(), metadata=_about("tables to leave out, after include"))
    filters: Mapping[str, str] = field(
        default_factory=dict, metadata=_about("row filters by table, as SQL conditions (PostgreSQL 15+)")
    )
    columns: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict, metadata=_about("column lists by table (PostgreSQL 15+)")
    )
    publish_via_partition_root: bool = field(
        default=False, metadata=_about("publish partitions' changes under their root's name, not their own")
    )
    origin: Literal["any", "none"] = field(
        default="any",
        metadata=_about("none: leave out what was replicated to the source itself (PostgreSQL 16+)"),
    )
    failover: bool = field(
        default=False,
        metadata=_about("create the slot so that it is carried over to standbys (PostgreSQL 17+)"),
    )
    binary: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata=_about("values in binary; auto: text when a published type has no binary form"),
    )
    streaming: Literal["auto", "on", "off"] = field(
        default="auto", metadata=_about("receive big transactions before they commit (PostgreSQL 14+)")
    )
    ddl_capture: bool = field(
        default=False,
        metadata=_about(
            "use schema changes that the event trigger recorded (walcast.postgres.ddl; PostgreSQL 14+)"
        ),
    )
    allow_synchronous: bool = field(
        default=False,
        metadata=_about(
            "let this reader be a synchronous standby, so that commits at the source wait for it"
        ),
    )
    snapshot_workers: int = field(default=2, metadata=_about("connections that read tables at the same time"))
    snapshot_chunk_bytes: int = field(
        default=4 * _MB, metadata=_about("size of a batch of a snapshot", "bytes")
    )
    snapshot_chunk_rows: int = field(default=200_000, metadata=_about("most rows in a batch of a snapshot"))
    snapshot_split_bytes: int = field(
        default=128 * _MB,
        metadata=_about("larger tables are read in ranges of this size (PostgreSQL 14+)", "bytes"),
    )
    snapshot_lock_timeout: float = field(
        default=30.0, metadata=_about("how long to wait for a table that somebody is altering", "seconds")
    )
    budget_bytes: int = field(default=64 * _MB, metadata={"internal": True})
    """Memory for batches read ahead; the pipeline's."""
    part_bytes: int = field(
        default=16 * _MB, metadata=_about("a transaction beyond this size is handed over in parts", "bytes")
    )
    batch_bytes: int = field(
        default=4 * _MB, metadata=_about("batches of many transactions grow up to this size", "bytes")
    )
    linger_us: int = field(
        default=200,
        metadata=_about("how long the reader spins before it sleeps while data flow, microseconds"),
    )
    busy_wait_ms: int = field(
        default=5, metadata=_about("longest wait to fill a batch under load, milliseconds")
    )
    spool_dir: str | None = field(
        default=None,
        metadata=_about(
            "folder for transactions that were not committed yet; default: the system's temporary folder"
        ),
    )
    spool_memory: int = field(
        default=16 * _MB, metadata=_about("kept in memory before the spool goes to disk", "bytes")
    )
    spool_limit: int = field(
        default=8 << 30,
        metadata=_about(
            "disk budget of the spool; beyond it the server keeps big transactions itself", "bytes"
        ),
    )
    logical_decoding_work_mem: int | None = field(
        default=None,
        metadata=_about(
            "memory at the server before it streams or spills; default: 64MB, without streaming 256MB",
            "bytes",
        ),
    )
    idle_interval: float = field(default=10.0, metadata=_about("how often an idle slot moves on", "seconds"))
    status_interval: float = field(
        default=5.0, metadata=_about("how often the confirmed position is sent at least", "seconds")
    )
    receive_timeout: float = field(
        default=60.0,
        metadata=_about("silence of the server after which the connection counts as lost", "seconds"),
    )
    wal_disk: int | None = field(
        default=None,
        metadata=_about(
            "how large pg_wal may grow on the source's disk; `walcast doctor` reckons with it where it cannot see the disk",
            "bytes",
        ),
    )

    temporary_slot: bool = field(default=False, metadata={"internal": True})
    """The slot is made when the stream opens and goes with its connection: `walcast tail`."""

    def __post_init__(self) -> None:
        for name in (
            "snapshot_workers",
            "snapshot_chunk_bytes",
            "snapshot_chunk_rows",
            "snapshot_split_bytes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("budget_bytes", "part_bytes", "batch_bytes", "spool_memory"):
            if getattr(self, name) < 1 << 16:
                raise ValueError(f"{name} must be at least 64kB")
        for name in ("idle_interval", "status_interval", "receive_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
