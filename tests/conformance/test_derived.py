"""Every store of documents, vertices and edges through one suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from walcast.model import SinkContext, SourceIdentity
from walcast.model.derived import DerivedStore
from walcast.model.secret import Secret
from walcast.sinks.arangodb import ArangoDBConfig, ArangoDBStore
from walcast.sinks.arangodb.client import Client
from walcast.sinks.documents import DocumentsConfig, DocumentsStore
from walcast.sinks.graph import GraphConfig, GraphStore
from walcast.sinks.neo4j import Neo4jConfig, Neo4jStore
from walcast.sinks.search import SearchConfig, SearchIndex, SearchStore
from walcast.testing.arangodb import ContractArangoDB
from walcast.testing.conformance import Content, DerivedConformance
from walcast.testing.derived import DerivedState, MemoryDerivedStore
from walcast.testing.neo4j import Neo4jServer
from walcast.testing.postgres import Database


def context() -> SinkContext:
    return SinkContext("conformance", "copy", SourceIdentity(7_000_000_000, 1, 180000, "app"), ".")


class TestMemoryStore(DerivedConformance):
    seeds = 15

    @pytest.fixture
    def make_place(self) -> Any:
        return DerivedState

    def make_store(self, place: DerivedState) -> DerivedStore:
        return MemoryDerivedStore(place)

    async def content(self, place: DerivedState) -> Content:
        return {
            name: {id_: (put.body, put.ends) for id_, (_, put) in there.items()}
            for name, there in place.collections.items()
        }


class TestVersionedMemoryStore(TestMemoryStore):
    """It keeps versions and no checkpoint: batches come again."""

    def make_store(self, place: DerivedState) -> DerivedStore:
        return MemoryDerivedStore(place, forgets=True)


class TestDocumentsStore(DerivedConformance):
    too_long = 2700

    @pytest.fixture
    def make_place(self, database: Database) -> Any:
        numbers = count()
        return lambda: (database, f"derived_{next(numbers)}")

    def make_store(self, place: tuple[Database, str]) -> DerivedStore:
        database, schema = place
        return DocumentsStore(DocumentsConfig(Secret(database.dsn()), schema), context())

    async def content(self, place: tuple[Database, str]) -> Content:
        database, schema = place
        with psycopg.connect(database.dsn()) as connection:
            names = connection.execute(
                sql.SQL("select name from {}._walcast_collection").format(sql.Identifier(schema))
            ).fetchall()
            found: Content = {}
            for (name,) in names:
                rows = connection.execute(
                    sql.SQL("select id, body, source, target from {}").format(sql.Identifier(schema, name))
                ).fetchall()
                found[name] = {
                    id_: (body, None if source is None else (source, target))
                    for id_, body, source, target in rows
                }
        return found


class TestGraphStore(DerivedConformance):
    in_place = True
    seeds = 3
    too_long = (1 << 20) + 1

    def make_store(self, place: Path) -> DerivedStore:
        return GraphStore(GraphConfig(place / "graph.lbug", memory=64 << 20, threads=1), context())

    async def content(self, place: Path) -> Content:
        store = GraphStore(GraphConfig(place / "graph.lbug", memory=64 << 20, threads=1), context())
        found: Content = {}
        async with store:
            for name in await store.built():
                made = store._labels[name].made
                fields = "".join(f", n.`{field}`" for field, _ in made.fields)
                ends = made.kind == "edge"
                what = f"(a)-[n:`{name}`]->(b)" if ends else f"(n:`{name}`)"
                where = "" if ends else " where n._ghost = false"
                told = made.told is not None and made.told.both_ways
                key_of = "0" if told else "n._key"
                _, rows = await store.query(
                    f"match {what}{where} return {'a._key, b._key' if ends else '0, 0'}, {key_of}{fields}"
                )
                if told:
                    assert made.told is not None
                    rows = [[a, b, made.told.id_of(a, b), *values] for a, b, _, *values in rows]
                assert len({row[2] for row in rows}) == len(rows)
                found[name] = {
                    key: (
                        dict(zip([field for field, _ in made.fields], values, strict=True)),
                        (a, b) if ends else None,
                    )
                    for a, b, key, *values in rows
                }
            _, ghosts = await store.query(
                "match (n) where n._ghost = true and not exists { match (n)-[]-() } return n._key"
            )
            assert ghosts == []
        return found


@pytest.mark.xdist_group("neo4j")
class TestNeo4jStore(DerivedConformance):
    in_place = True
    seeds = 2
    too_long = 8100

    @pytest.fixture
    def make_place(self, neo4j_server: Neo4jServer) -> Any:
        def make() -> Neo4jServer:
            neo4j_server.wipe()
            return neo4j_server

        return make

    def make_store(self, place: Neo4jServer) -> DerivedStore:
        return Neo4jStore(Neo4jConfig(place.uri, Secret(place.password)), context())

    async def content(self, place: Neo4jServer) -> Content:
        store = self.make_store(place)
        assert isinstance(store, Neo4jStore)
        found: Content = {}
        async with store:
            made = {name: store._labels[name].made for name in await store.built()}
        for name, collection in made.items():
            ends = collection.kind == "edge"
            what = f"(a)-[n:`{name}`]->(b)" if ends else f"(n:`{name}`)"
            where = "" if ends else " where n._ghost = false"
            rows = place.run(f"match {what}{where} return {'a._key, b._key' if ends else '0, 1'}, n")
            assert len({n["_key"] for _, _, n in rows}) == len(rows)
            found[name] = {
                n["_key"]: ({field: n.get(field) for field, _ in collection.fields}, (a, b) if ends else None)
                for a, b, n in rows
            }
        assert place.run("match (n) where n._ghost and not exists { (n)--() } return n._key") == []
        return found


class TestArangoDBStore(DerivedConformance):
    """On a double of the server, or on the real one of WALCAST_TEST_ARANGODB_URL (http://user:password@host:port/database)."""

    in_place = True
    seeds = 3
    too_long = 300

    @pytest.fixture
    def make_place(self) -> Iterator[Any]:
        given = os.environ.get("WALCAST_TEST_ARANGODB_URL")
        with ContractArangoDB() as double:
            yield lambda: emptied(_config_of(given)) if given else renewed(double)

    def make_store(self, place: ArangoDBConfig) -> DerivedStore:
        return ArangoDBStore(place, context())

    async def content(self, place: ArangoDBConfig) -> Content:
        found: Content = {}
        store = ArangoDBStore(place, context())
        async with store:
            for name in await store.built():
                made = store._labels[name].made
                held = await store.held(made, await store.ids(made, None))
                found[name] = {
                    id_: (body, None if source is None else (source, target))
                    for id_, (source, target, body) in held.items()
                }
        return found


def renewed(double: ContractArangoDB) -> ArangoDBConfig:
    double.collections.clear()
    double.graphs.clear()
    return ArangoDBConfig(double.url, Secret(double.password))


def _config_of(url: str) -> ArangoDBConfig:
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.hostname}:{parts.port or 8529}"
    database = parts.path.strip("/") or "_system"
    return ArangoDBConfig(
        where, Secret(parts.password or ""), user=parts.username or "root", database=database
    )


def emptied(config: ArangoDBConfig) -> ArangoDBConfig:
    """Without any collection or graph of ours: the database is the tests' own."""
    client = Client(config)
    try:
        client.call("DELETE", f"/_api/gharial/{config.graph}", allowed=(1924,))
        for item in client.call("GET", "/_api/collection", excludeSystem="true")["result"]:
            client.call("DELETE", f"/_api/collection/{item['name']}")
    finally:
        client.close()
    return config


class TestSearchStore(DerivedConformance):
    seeds = 2
    too_long = 65600

    def make_store(self, place: Path) -> DerivedStore:
        return SearchStore(SearchConfig(place / "search", memory=16 << 20), context())

    async def content(self, place: Path) -> Content:
        found: Content = {}
        store = self.make_store(place)
        async with store:
            names = list(await store.built())
        for name in names:
            index = SearchIndex(place / "search", name)
            ids = index.ids()
            assert len(set(ids)) == len(ids)
            found[name] = {id_: (index.get(id_) or {}, None) for id_ in ids}
        return found
