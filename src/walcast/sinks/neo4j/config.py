"""Settings of the Neo4j sink."""

from __future__ import annotations

from dataclasses import dataclass, field

from walcast.model.derived import DerivedSettings
from walcast.model.secret import Secret


@dataclass(frozen=True, slots=True)
class Neo4jConfig(DerivedSettings):
    """Vertices and edges of the mapping in Neo4j 5 (5.7 or later), asked in Cypher. `_key` is a vertex's or an edge's id;
    `_ghost` marks a vertex that only edges know of yet. The labels and types are the sink's own."""

    uri: str = field(
        metadata={"help": "bolt://host:7687, or neo4j+s://host for a cluster with TLS", "place": True}
    )
    password: Secret = field(default=Secret(""), metadata={"help": "the user's password", "password": True})
    user: str = field(default="neo4j", metadata={"help": "who writes; empty: no authentication"})
    database: str = field(default="", metadata={"help": "by default the user's home database", "place": True})
    commit_rows: int = field(
        default=10_000,
        metadata={
            "help": "a transaction is committed once it has so many vertices and edges, unless the source's own is larger"
        },
    )
    connect_timeout: float = field(
        default=5.0, metadata={"help": "how long a connection may take", "unit": "seconds"}
    )
    targets: tuple[str, ...] = field(
        default=(),
        metadata={"help": "which targets of the mapping it holds; by default all vertices and edges"},
    )

    def __post_init__(self) -> None:
        if self.commit_rows < 1:
            raise ValueError("commit_rows must be at least 1")
        scheme = self.uri.partition("://")[0]
        if scheme.removesuffix("+ssc").removesuffix("+s") not in ("bolt", "neo4j"):
            raise ValueError("uri must begin with bolt:// or neo4j://, or +s for TLS")
