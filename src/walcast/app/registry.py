"""Which sinks there are. A new one is a file in `sinks/` and one line here; packages outside use an entry point."""

from __future__ import annotations

import difflib
import importlib
import typing
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from walcast.model import ConfigError, Sink, SinkContext

ENTRY_POINT_GROUP = "walcast.sinks"


@dataclass(frozen=True, slots=True)
class SinkEntry:
    """Where a sink's class is, what it promises, and which extra brings its client. Imported only when used."""

    target: str
    guarantee: str
    summary: str
    extra: str | None = None

    def load(self) -> type[Any]:
        """Imports the class. Raises ConfigError when its client is not installed."""
        module, _, name = self.target.partition(":")
        try:
            return typing.cast("type[Any]", getattr(importlib.import_module(module), name))
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("walcast"):
                raise
            extra = f"pip install 'walcast[{self.extra}]'" if self.extra else f"pip install {error.name}"
            raise ConfigError(f"this sink needs the Python package {error.name}", hint=extra) from error

    def config_type(self) -> type[Any]:
        """The frozen dataclass of its settings: the annotation of the constructor's `config`."""
        return typing.cast("type[Any]", typing.get_type_hints(self.load().__init__)["config"])

    @property
    def derived(self) -> bool:
        """Whether it holds what a mapping makes (`walcast.model.derived.DerivedStore`), not the tables themselves."""
        return hasattr(self.load(), "kinds")

    def build(self, config: Any, context: SinkContext) -> Sink:
        return typing.cast("Callable[[Any, SinkContext], Sink]", self.load())(config, context)


SINKS: dict[str, SinkEntry] = {
    "postgres": SinkEntry(
        "walcast.sinks.postgres:PostgresSink", "exactly once", "tables in another PostgreSQL"
    ),
    "duckdb": SinkEntry(
        "walcast.sinks.duckdb:DuckDBSink", "exactly once", "tables in a DuckDB file", "duckdb"
    ),
    "jsonl": SinkEntry("walcast.sinks.jsonl:JsonLinesSink", "exactly once", "JSON Lines files", "jsonl"),
    "documents": SinkEntry(
        "walcast.sinks.documents:DocumentsStore",
        "exactly once",
        "documents of a mapping as JSONB in a PostgreSQL",
    ),
    "graph": SinkEntry(
        "walcast.sinks.graph:GraphStore",
        "exactly once",
        "vertices and edges of a mapping in a LadybugDB file",
        "graph",
    ),
    "neo4j": SinkEntry(
        "walcast.sinks.neo4j:Neo4jStore",
        "exactly once",
        "vertices and edges of a mapping in Neo4j",
        "neo4j",
    ),
    "arangodb": SinkEntry(
        "walcast.sinks.arangodb:ArangoDBStore",
        "exactly once",
        "documents, vertices and edges of a mapping in ArangoDB",
    ),
    "search": SinkEntry(
        "walcast.sinks.search:SearchStore",
        "at least once",
        "documents of a mapping in tantivy indexes: full text",
        "search",
    ),
    "opensearch": SinkEntry(
        "walcast.sinks.opensearch:OpenSearchStore",
        "versioned",
        "documents of a mapping in OpenSearch 2 or 3",
        "opensearch",
    ),
    "elasticsearch": SinkEntry(
        "walcast.sinks.opensearch:ElasticsearchStore",
        "versioned",
        "documents of a mapping in Elasticsearch 8 or 9",
        "elasticsearch",
    ),
    "handlers": SinkEntry(
        "walcast.sinks.handlers:HandlerSink", "at least once", "functions in your own Python code"
    ),
}


def sinks() -> dict[str, SinkEntry]:
    """The built-in sinks and those that installed packages register."""
    found = dict(SINKS)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(
            point.name, SinkEntry(point.value, "see its documentation", f"from {point.value.split(':')[0]}")
        )
    return found


def sink(name: str) -> SinkEntry:
    """The sink of that type. Raises ConfigError naming the nearest one."""
    known = sinks()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"there is no sink of type {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"types: {', '.join(sorted(known))}",
    )
