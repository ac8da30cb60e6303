"""Settings of OpenSearch and Elasticsearch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from walcast.model.derived import DerivedSettings
from walcast.model.secret import Secret


@dataclass(frozen=True, slots=True)
class SearchServerConfig(DerivedSettings):
    """Documents of the mapping in indexes, each behind an alias that has the collection's name. Whole documents are written
    with external versions: what comes again, late or out of order changes nothing."""

    hosts: tuple[str, ...] = field(
        metadata={
            "help": "URLs of the cluster's nodes: https://search:9200; the next one is tried when one is away",
            "place": True,
        }
    )
    user: str | None = field(default=None, metadata={"help": "for basic authentication"})
    password: Secret | None = field(default=None, metadata={"help": "the user's", "password": True})
    api_key: Secret | None = field(
        default=None, metadata={"help": "instead of user and password; the encoded form", "password": True}
    )
    ca: str | None = field(
        default=None, metadata={"help": "a PEM file of authorities to trust, instead of the system's"}
    )
    prefix: str = field(
        default="",
        metadata={
            "help": "put before each alias: shop- makes shop-posts of the collection posts",
            "place": True,
        },
    )
    settings: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "of every index: { number_of_replicas = 2 }; the indexes are made anew when they change"
        },
    )
    properties: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict,
        metadata={
            "help": 'how fields are indexed, by collection: { posts = { body = { type = "text", analyzer = "english" } } }; '
            "the index is made anew when it changes"
        },
    )
    refresh: bool = field(
        default=True,
        metadata={
            "help": "what is written can be found when the position says so; false leaves that to index.refresh_interval"
        },
    )
    concurrency: int = field(
        default=2, metadata={"help": "bulk requests that are on their way beside each other"}
    )
    bulk: int = field(
        default=4 << 20,
        metadata={"unit": "bytes", "help": "how big a bulk request gets, unless a document is bigger"},
    )
    timeout: float = field(
        default=60.0,
        metadata={"unit": "seconds", "help": "how long a request may take, its repetitions included"},
    )
    tombstones: float = field(
        default=3600.0,
        metadata={
            "unit": "seconds",
            "help": "how long a deleted document's version is kept, hidden, so that an older one cannot come back",
        },
    )
    targets: tuple[str, ...] = field(
        default=(), metadata={"help": "which targets of the mapping it holds; by default all documents"}
    )

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("hosts must name at least one URL")
        for host in self.hosts:
            parts = urlsplit(host)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("each of hosts is a URL such as https://search:9200")
            if parts.username or parts.password:
                raise ValueError("hosts hold no password: write it as user and password")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.user is not None and self.api_key is not None:
            raise ValueError("either user and password, or api_key")
        if not 1 <= self.concurrency <= 32:
            raise ValueError("concurrency must be 1 to 32")
        if not 64 << 10 <= self.bulk <= 64 << 20:
            raise ValueError("bulk must be 64kB to 64MB")
