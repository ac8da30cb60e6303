"""Vertices and edges in Neo4j: what a batch becomes, and the checkpoint after it, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from walcast.model import Finding, SinkContext, WalcastError, finding_of
from walcast.model.derived import Collection
from walcast.sinks.inplace.store import InPlaceStore, Label
from walcast.sinks.neo4j.config import Neo4jConfig
from walcast.sinks.neo4j.database import Database, check_version, driver_of, translated
from walcast.sinks.neo4j.labels import Vertices, edges


class Neo4jStore(InPlaceStore[Database]):
    """Implements `walcast.model.derived.DerivedStore`, `KeepsJournal` and `Examinable`."""

    longest_key = 8000  # an index holds keys of 8167 bytes, with its own of them

    def __init__(self, config: Neo4jConfig, context: SinkContext) -> None:
        super().__init__(context, config.uri)
        self._config = config

    def connect(self) -> Database:
        return Database(self._config)

    def label(self, database: Database, collection: Collection) -> Label:
        return edges(database, collection) if collection.kind == "edge" else Vertices(database, collection)

    async def examine(self) -> Sequence[Finding]:
        try:
            return await asyncio.to_thread(self._examine)
        except WalcastError as error:
            return [finding_of(error, "target")]

    def _examine(self) -> list[Finding]:
        config = self._config
        with (
            translated(config.uri),
            driver_of(config) as driver,
            driver.session(database=config.database or None) as session,
        ):
            asked = session.run("call db.info() yield name return name")
            name = asked.single(strict=True)[0]
            check_version(asked.consume().server.agent)
            access = session.run("show database $name yield access", name=name).single(strict=True)[0]
        if access != "read-write":
            return [
                Finding(
                    "error",
                    "target_read_only",
                    f"the database {name} is read-only",
                    "see server.databases.read_only and server.databases.default_to_read_only",
                )
            ]
        return []

    def _check_alone(self) -> None:
        self._db.lock(self._at)
        super()._check_alone()

    def _save_journal(self, key: str, value: Any) -> None:
        self._db.save(f"journal:{self._owner}:{key}", value)
