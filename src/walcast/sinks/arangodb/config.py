"""Settings of the ArangoDB sink."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from walcast.model.derived import DerivedSettings
from walcast.model.secret import Secret


@dataclass(frozen=True, slots=True)
class ArangoDBConfig(DerivedSettings):
    """Documents, vertices and edges of the mapping in ArangoDB (3.11 or 3.12): a collection each, edges and vertices in a named
    graph. What a key may not hold is percent-encoded in `_key`. The collections are the sink's own."""

    url: str = field(metadata={"help": "http://host:8529 or https://host:8529", "place": True})
    password: Secret = field(default=Secret(""), metadata={"help": "the user's password", "password": True})
    user: str = field(default="root", metadata={"help": "who writes"})
    database: str = field(
        default="_system", metadata={"help": "the database, which must be there", "place": True}
    )
    graph: str = field(default="walcast", metadata={"help": "the named graph of its vertices and edges"})
    commit_rows: int = field(
        default=10_000,
        metadata={
            "help": "a transaction is committed once it has so many items, unless the source's own is larger"
        },
    )
    timeout: float = field(default=60.0, metadata={"help": "how long an answer may take", "unit": "seconds"})
    targets: tuple[str, ...] = field(
        default=(), metadata={"help": "which targets of the mapping it holds; by default all that it can"}
    )

    def __post_init__(self) -> None:
        if self.commit_rows < 1:
            raise ValueError("commit_rows must be at least 1")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be http://host:port or https://host:port")
        if parts.username or parts.password:
            raise ValueError("url: user and password are settings of their own")
