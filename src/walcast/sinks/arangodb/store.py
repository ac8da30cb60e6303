"""Documents, vertices and edges in ArangoDB: what a batch becomes, and the checkpoint after it, in one stream transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from walcast.model import Finding, SinkContext, WalcastError, finding_of
from walcast.model.derived import Collection, Kind, Put, Unfit
from walcast.sinks.arangodb.client import Client
from walcast.sinks.arangodb.config import ArangoDBConfig
from walcast.sinks.arangodb.database import Database, key_of
from walcast.sinks.arangodb.items import Items
from walcast.sinks.inplace.store import InPlaceStore, Label

_LONGEST: Final = 254
"""Bytes of a `_key`."""


class ArangoDBStore(InPlaceStore[Database]):
    """Implements `walcast.model.derived.DerivedStore`, `KeepsJournal`, `Shows` and `Examinable`."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"document", "vertex", "edge"})
    longest_key = _LONGEST

    def __init__(self, config: ArangoDBConfig, context: SinkContext) -> None:
        super().__init__(context, config.url)
        self._config = config

    def connect(self) -> Database:
        return Database(self._config, self._owner)

    def label(self, database: Database, collection: Collection) -> Label:
        items = Items(database, collection)
        database.known(collection.name)
        return items

    def form(self, collection: Collection, put: Put) -> Any:
        return [*(put.ends or (None, None)), put.body]

    async def examine(self) -> Sequence[Finding]:
        try:
            return await asyncio.to_thread(self._examine)
        except WalcastError as error:
            return [finding_of(error, "target")]

    def _examine(self) -> list[Finding]:
        client = Client(self._config)
        try:
            client.version()
            if client.read_only():
                hint = "see its mode: /_admin/server/mode"
                return [Finding("error", "target_read_only", f"{self._config.url} is read-only", hint)]
            client.call("GET", "/_api/database/current")
        finally:
            client.close()
        return []

    def _begin(self, collection: Collection) -> None:
        """What is new is made between two transactions."""
        self._commit()
        Items(self._db, collection)  # its names are checked first
        self._db.ensure(collection.name, collection.ends, vertex=collection.kind == "vertex")
        if collection.tracked:
            self._db.index(collection.name, "_members[*]")
        super()._begin(collection)

    def _unfit(self, put: Put) -> Unfit | None:
        if max(len(key_of(key)) for key in (put.id, *(put.ends or ()))) > _LONGEST:
            return "KeyTooLong", f"a key of more than {_LONGEST} bytes, percent-encoded"
        return super()._unfit(put)

    def _save_journal(self, key: str, value: Any) -> None:
        self._db.save(f"journal:{self._owner}:{key}", value)
