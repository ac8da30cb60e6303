"""Settings of the PostgreSQL sink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from walcast.model.deadletter import LIMIT, RowPolicies, RowPolicy
from walcast.model.secret import Secret

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class PostgresSinkConfig:
    """A copy in another PostgreSQL (13 or later).

    The defaults suit a copy that Walcast makes and keeps. `auto` uses what the role is allowed to, and says in the
    log what it does without.
    """

    dsn: Secret = field(metadata={"help": "the target: a URI or key=value; PGSERVICE and .pgpass work"})
    schemas: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"help": "source schema -> schema of the copy; those not named keep their name"},
    )
    synchronous_commit: Literal["off", "on"] = field(
        default="off",
        metadata={
            "help": "off: batches are durable once the target's WAL is flushed, a moment later; on: at once"
        },
    )
    create_tables: bool = field(
        default=True, metadata={"help": "make missing schemas, types and tables, and follow schema changes"}
    )
    dropped_columns: Literal["keep", "drop"] = field(
        default="keep", metadata={"help": "what becomes of a column that the source dropped"}
    )
    replication_role: Switch = field(
        default="auto",
        metadata={
            "help": "session_replication_role=replica: ordinary triggers, rules and foreign keys do not act"
        },
    )
    origin: Switch = field(
        default="auto",
        metadata={"help": "mark what is written with a replication origin, so that loops can be prevented"},
    )
    direct_rows: int = field(
        default=48,
        metadata={
            "help": "batches up to this many changes are applied as single statements in one round trip"
        },
    )

    snapshot_connections: int = field(
        default=2,
        metadata={"help": "connections beside the sink's own over which a first copy is written; 0: none"},
    )

    foreign_writes: Literal["ignore", "notice", "refuse"] = field(
        default="notice",
        metadata={
            "help": "what somebody else writes to the copy's tables: by a trigger on each, noticed (see `walcast doctor`) or "
            "refused"
        },
    )
    on_data_error: RowPolicy = field(
        default="stop",
        metadata={
            "help": "what becomes of a row with a value that the copy cannot hold (SQLSTATE 22...): its table stops, or it is "
            "set aside as a dead letter, or skipped"
        },
    )
    on_integrity_error: RowPolicy = field(
        default="stop",
        metadata={"help": "the same of a row that a constraint of the copy refuses (SQLSTATE 23...)"},
    )
    dead_letter_limit: int = field(
        default=LIMIT,
        metadata={"help": "the table stops when more rows than this would be set aside"},
    )

    @property
    def policies(self) -> RowPolicies:
        return RowPolicies(
            data=self.on_data_error, integrity=self.on_integrity_error, limit=self.dead_letter_limit
        )

    def __post_init__(self) -> None:
        if self.dead_letter_limit < 0:
            raise ValueError("dead_letter_limit must not be negative")
        if self.snapshot_connections < 0:
            raise ValueError("snapshot_connections must not be negative")
        if self.direct_rows < 0:
            raise ValueError("direct_rows must not be negative")
        targets = list(self.schemas.values())
        if len(set(targets)) != len(targets):
            raise ValueError("schemas maps two schemas to the same one")
        if "walcast" in targets:
            raise ValueError("schemas: walcast is the sink's own schema")
