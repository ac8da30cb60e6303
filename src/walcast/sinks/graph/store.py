"""Vertices and edges in a LadybugDB file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from walcast.model import Finding, SinkContext, WalcastError, finding_of
from walcast.model.derived import Collection
from walcast.sinks.graph.config import GraphConfig
from walcast.sinks.graph.database import Database, readable
from walcast.sinks.graph.edges import edges
from walcast.sinks.graph.labels import Vertices
from walcast.sinks.inplace.store import InPlaceStore, Label


class GraphStore(InPlaceStore[Database]):
    """Implements `walcast.model.derived.DerivedStore` and `KeepsJournal`."""

    longest_key = 1 << 20

    def __init__(self, config: GraphConfig, context: SinkContext) -> None:
        super().__init__(context, str(config.path))
        self._config = config

    def connect(self) -> Database:
        return Database(self._config.path, self._config.memory, self._config.threads)

    def label(self, database: Database, collection: Collection) -> Label:
        return edges(database, collection) if collection.kind == "edge" else Vertices(database, collection)

    async def examine(self) -> Sequence[Finding]:
        """Whether the file, if there is one, is a graph of this version. The pipeline may have it open."""
        try:
            await asyncio.to_thread(readable, self._config.path)
        except WalcastError as error:
            return [finding_of(error, "target")]
        return []
