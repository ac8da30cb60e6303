"""What the tests of OpenSearch and Elasticsearch share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from walcast.model import SinkContext, SourceIdentity
from walcast.sinks.opensearch import ElasticsearchStore, OpenSearchStore, SearchServerConfig
from walcast.testing.search import SearchServer

STORES = {"opensearch": OpenSearchStore, "elasticsearch": ElasticsearchStore}


def context(pipeline: str = "p") -> SinkContext:
    return SinkContext(pipeline, "s", SourceIdentity(7_000_000_000, 1, 180000, "app"), ".")


@dataclass(frozen=True)
class Place:
    """A part of the server of one test: a prefix of its own, a pipeline of its own."""

    server: SearchServer
    prefix: str

    def store(self, **options: Any) -> OpenSearchStore | ElasticsearchStore:
        config = SearchServerConfig(**{"hosts": (self.server.url,), "prefix": self.prefix, **options})
        return STORES[self.server.family](config, context(self.prefix))

    def names(self) -> list[str]:
        """The collections' aliases, without the prefix."""
        found = self.server.ask("GET", "/_alias")
        aliases = {
            alias for item in found.values() for alias in item["aliases"] if not alias.endswith(".write")
        }
        return sorted(a.removeprefix(self.prefix) for a in aliases if a.startswith(self.prefix))

    def documents(self, name: str) -> dict[str, dict[str, Any]]:
        """Id -> document, of what can be found."""
        self.server.ask("POST", f"/{self.prefix}{name}/_refresh")
        found = self.server.ask("POST", f"/{self.prefix}{name}/_search", {"size": 10_000})
        hits = found["hits"]["hits"]
        assert len({hit["_id"] for hit in hits}) == len(hits)
        return {hit["_id"]: hit["_source"] for hit in hits}
