"""Settings of the PostgreSQL sink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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

    def __post_init__(self) -> None:
        if self.direct_rows < 0:
            raise ValueError("direct_rows must not be negative")
        targets = list(self.schemas.values())
        if len(set(targets)) != len(targets):
            raise ValueError("schemas maps two schemas to the same one")
        if "walcast" in targets:
            raise ValueError("schemas: walcast is the sink's own schema")
