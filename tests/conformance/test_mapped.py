"""Stores of documents and vertices as sinks: the suite of every sink, with each table mapped to a collection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from walcast.engine.mapped import MappedSink, mapped_sink
from walcast.mapping import DataMapping, Document, Vertex
from walcast.model import SinkContext, TableId
from walcast.model.derived import DerivedStore, Row
from walcast.model.secret import Secret
from walcast.sinks.documents import DocumentsConfig, DocumentsStore
from walcast.sinks.graph import GraphConfig, GraphStore
from walcast.sinks.search import SearchConfig, SearchIndex, SearchStore
from walcast.testing.batches import INT4, INT8
from walcast.testing.conformance import Row as Texts
from walcast.testing.conformance import SinkConformance, World
from walcast.testing.derived import MemoryReader
from walcast.testing.postgres import Database


class MappedConformance(SinkConformance):
    """The world of the test at hand is the source that is read again: it is ahead of every batch."""

    guarantee = "exactly once"
    follows_schema = False
    keyless = False

    @pytest.fixture(autouse=True)
    def _remember(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = World.__post_init__
        worlds: list[World] = []

        def remember(world: World) -> None:
            made(world)
            worlds.append(world)

        monkeypatch.setattr(World, "__post_init__", remember)
        self.worlds = worlds

    def make_store(self, place: Any, context: SinkContext) -> DerivedStore:
        raise NotImplementedError

    def collection(self, table: TableId) -> str:
        """What its rows go to."""
        return table.name

    def make_sink(self, place: Any) -> MappedSink:
        world = self.worlds[-1]
        tables = {versions[-1].id: versions[-1] for versions in world._versions.values()}

        def rows(table: TableId) -> Sequence[Row]:
            numbers = {column.name for column in tables[table].columns if column.oid in (INT4, INT8)}
            return [
                {
                    name: int(value) if value is not None and name in numbers else value
                    for name, value in row.items()
                }
                for row in world.rows[table]
            ]

        reader = MemoryReader({id_: tab.relation() for id_, tab in tables.items()}, rows)
        store = self.make_store(place, self.context())
        names = {self.collection(table): str(table) for table in tables}
        if "document" in store.kinds:
            mapping = DataMapping(documents={name: Document(table) for name, table in names.items()})
        else:
            mapping = DataMapping(vertices={name: Vertex(table) for name, table in names.items()})
        return mapped_sink(store, mapping, reader)


def texts(body: dict[str, Any]) -> Texts:
    return {name: None if value is None else str(value) for name, value in body.items()}


class TestDocuments(MappedConformance):
    @pytest.fixture
    def place(self, database: Database) -> Database:
        return database

    def make_store(self, place: Database, context: SinkContext) -> DerivedStore:
        return DocumentsStore(DocumentsConfig(Secret(place.dsn())), context)

    async def read(self, place: Database, table: TableId) -> list[Texts]:
        query = sql.SQL("select body from {}").format(sql.Identifier("derived", table.name))
        with psycopg.connect(place.dsn()) as connection:
            return [texts(body) for (body,) in connection.execute(query).fetchall()]


class TestGraph(MappedConformance):
    def make_store(self, place: Path, context: SinkContext) -> DerivedStore:
        return GraphStore(GraphConfig(place / "g.lbug", memory=64 << 20, threads=1), context)

    async def read(self, place: Path, table: TableId) -> list[Texts]:
        async with GraphStore(
            GraphConfig(place / "g.lbug", memory=64 << 20, threads=1), self.context()
        ) as store:
            fields = [name for name, _ in store._labels[table.name].made.fields]
            columns = ", ".join(f"n.`{name}`" for name in fields)
            _, rows = await store.query(f"match (n:`{table.name}`) return {columns}")
        return [texts(dict(zip(fields, row, strict=True))) for row in rows]


class TestSearch(MappedConformance):
    guarantee = "versioned"

    def make_store(self, place: Path, context: SinkContext) -> DerivedStore:
        return SearchStore(SearchConfig(place / "search", memory=16 << 20), context)

    async def read(self, place: Path, table: TableId) -> list[Texts]:
        index = SearchIndex(place / "search", table.name)
        return [texts(index.get(id_) or {}) for id_ in index.ids()]
