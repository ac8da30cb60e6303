"""The social network over stores that are servers: Neo4j and OpenSearch, ArangoDB and Elasticsearch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from social import CONFIG, create_app
from social.seeding import fill
from social.stage import stage
from social.stores import Circle, Graph, Search, StoreDown, Suggestion, arangodb
from social.stores.arangodb import ArangoDBGraph
from social.stores.clusters import ClusterSearch
from social.stores.embedded import EmbeddedGraph, EmbeddedSearch
from social.stores.neo4j import Neo4jGraph
from social.tour import tour
from walcast.app.settings import SinkSettings
from walcast.integrations.copies import Copies
from walcast.model import Checkpoint, Lsn, Position, SinkContext, SourceIdentity
from walcast.model.derived import Collection, Derived, DerivedStore, Put
from walcast.model.secret import Secret
from walcast.postgres.local import ServerMissing
from walcast.sinks.arangodb import ArangoDBConfig, ArangoDBStore
from walcast.sinks.graph import GraphConfig, GraphStore
from walcast.sinks.graph.database import Database as LadybugDB
from walcast.sinks.neo4j import Neo4jConfig, Neo4jStore
from walcast.sinks.opensearch import ElasticsearchStore, OpenSearchStore, SearchServerConfig
from walcast.sinks.search import SearchConfig, SearchStore
from walcast.testing.arangodb import ContractArangoDB
from walcast.testing.neo4j import Neo4jServer
from walcast.testing.postgres import Database
from walcast.testing.search import Family, SearchServer

ROOT = Path(__file__).parents[2]
CONTEXT = SinkContext("social", "copy", SourceIdentity(1, 1, 180000, "app"), ".")
AT = Checkpoint(1, Position(Lsn(100), 1), Lsn(120))
USER = Collection("User", "vertex", (("username", "text"), ("email", "text")), "f1")
FOLLOWING = Collection("Following", "edge", (("since", "text"),), "f1", ends=("User", "User"))
POST = Collection("post", "document", (("title", "text"), ("body", "text"), ("author", "json")), "f1")
NAMES = {1: "alice", 2: "bob", 3: "carol", 4: "dave", 5: "erin", 6: "frank"}
FOLLOWS = [(1, 2), (1, 3), (2, 1), (2, 4), (3, 4), (3, 5), (4, 6), (5, 99)]
"""With a way back, two ways to dave, and an edge to somebody who is not there."""
POSTS = {
    1: ("Whales <sing>", "The humpback whale sings & listens. A whale song travels far."),
    2: ("Bread", "Flour and water, and patience: sourdough needs no hurry."),
    3: ("Songs of the sea", "Sailors sang about the humpback, who sang about them."),
}


@pytest.fixture
def arango() -> Iterator[ContractArangoDB]:
    with ContractArangoDB(answers=ANSWERS) as started:
        yield started


@asynccontextmanager
async def filled(store: DerivedStore, *collections: Collection, puts: list[Put]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(store)
        for collection in collections:
            await store.begin(collection)
            await store.finish(collection)
        await store.write(Derived(1, puts, checkpoint=AT))
        await store.flush()
        yield


def people() -> list[Put]:
    users = [
        Put("User", str(id_), {"username": name, "email": f"{name}@example.org"})
        for id_, name in NAMES.items()
    ]
    edges = [
        Put("Following", f"{ours}:{theirs}", {"since": "2026-01-01"}, (), (str(ours), str(theirs)))
        for ours, theirs in FOLLOWS
    ]
    return [*users, *edges]


def look_around(graph: Graph) -> None:
    """What every graph has to answer."""
    everybody = graph.friends_of_friends(1)
    assert [(friend.username, friend.distance) for friend in everybody.friends] == [
        ("bob", 1),
        ("carol", 1),
        ("dave", 2),
        ("erin", 2),
        ("frank", 3),
    ]
    paths = {friend.username: friend.path for friend in everybody.friends}
    assert paths["erin"] == ("alice", "carol", "erin")
    assert paths["dave"] in (("alice", "bob", "dave"), ("alice", "carol", "dave"))
    assert paths["frank"][-2:] == ("dave", "frank")
    assert sorted(everybody.edges) == sorted(
        (NAMES[ours], NAMES[theirs]) for ours, theirs in FOLLOWS if theirs in NAMES
    )
    assert {friend.username for friend in graph.friends_of_friends(1, depth=1).friends} == {"bob", "carol"}
    assert graph.friends_of_friends(6) == graph.friends_of_friends(12345) == Circle([], [])
    assert graph.suggestions(1) == [Suggestion("dave", 2), Suggestion("erin", 1)]
    assert graph.suggestions(1, limit=1) == [Suggestion("dave", 2)]
    held = graph.contents()
    assert held["user 4"] == ("dave", "dave@example.org")
    assert held["follow 3 to 5"] == "2026-01-01"
    assert len(held) == len(NAMES) + len(FOLLOWS)


async def test_friends_of_friends_in_ladybugdb(tmp_path: Path) -> None:
    config = GraphConfig(tmp_path / "graph.lbug")
    store = GraphStore(config, CONTEXT)
    async with filled(store, USER, FOLLOWING, puts=people()):
        pass

    class File(Copies):
        """What the pipeline does that has the file open."""

        def query(self, sink: str, statement: str, parameters: Any = None) -> list[list[Any]]:
            return opened.read(statement, dict(parameters or {}))[1]

    opened = LadybugDB(config.path, config.memory, config.threads)
    look_around(EmbeddedGraph(SinkSettings("graph", "graph", config), File(tmp_path)))
    opened.close()


@pytest.mark.xdist_group("neo4j")
async def test_friends_of_friends_in_neo4j(neo4j_server: Neo4jServer) -> None:
    neo4j_server.wipe()
    config = Neo4jConfig(neo4j_server.uri, Secret(neo4j_server.password))
    async with filled(Neo4jStore(config, CONTEXT), USER, FOLLOWING, puts=people()):
        graph = asked(Neo4jGraph, "neo4j", config)
        look_around(graph)
        graph.close()
    wrong = asked(Neo4jGraph, "neo4j", Neo4jConfig(neo4j_server.uri, Secret("wrong")))
    with pytest.raises(StoreDown, match="Unauthorized"):
        wrong.suggestions(1)
    wrong.close()


async def test_friends_of_friends_in_arangodb(arango: ContractArangoDB) -> None:
    """The requests and what becomes of the answers: the AQL itself is answered by this test."""
    config = ArangoDBConfig(arango.url, Secret(arango.password))
    async with filled(ArangoDBStore(config, CONTEXT), USER, FOLLOWING, puts=people()):
        look_around(asked(ArangoDBGraph, "arangodb", config))
    refused = asked(ArangoDBGraph, "arangodb", ArangoDBConfig(arango.url, Secret("wrong")))
    with pytest.raises(StoreDown, match="ArangoDB refuses it"):
        refused.suggestions(1)


def writings() -> list[Put]:
    return [
        Put("post", str(id_), {"title": title, "body": body, "author": {"username": NAMES[id_]}})
        for id_, (title, body) in POSTS.items()
    ]


def look_something_up(search: Search) -> None:
    """What every search has to answer."""
    (best, *_) = search.search("humpback song")
    assert best.id == 1
    assert best.username == "alice"
    assert "<b>humpback</b>" in best.excerpt.lower()
    assert best.title.startswith("Whales &lt;sing&gt;")
    assert "&amp;" in next(hit for hit in search.search("listens")).excerpt
    both = search.search("humpback")
    assert {hit.id for hit in both} == {1, 3}
    assert [hit.id for hit in search.search("humpback", limit=1, offset=1)] == [both[1].id]
    assert search.search("humpback", offset=2) == []
    (like, *_) = search.more_like_this(1)
    assert like.id == 3
    assert like.score > 0
    assert "<b>humpback</b>" in like.excerpt.lower()
    assert 1 not in {hit.id for hit in search.more_like_this(1)}
    assert search.more_like_this(12345) == []
    for strange in ('"', "a AND", "(((", "*", "title:", "\\", "x" * 200, "/re(/", "~~ + -"):
        search.search(strange)
    assert search.contents() == {
        f"post {id_}": (title, body, NAMES[id_]) for id_, (title, body) in POSTS.items()
    }


async def test_search_in_tantivy(tmp_path: Path) -> None:
    config = SearchConfig(tmp_path / "search")
    async with filled(SearchStore(config, CONTEXT), POST, puts=writings()):
        look_something_up(EmbeddedSearch(SinkSettings("search", "search", config), Copies(tmp_path)))


@pytest.mark.xdist_group("search")
@pytest.mark.parametrize("family", ["opensearch", "elasticsearch"])
async def test_search_in(family: Family, shared_search: Callable[[Family], SearchServer]) -> None:
    config = SearchServerConfig((shared_search(family).url,), prefix=f"s{next(_NUMBERS)}-")
    search = asked(ClusterSearch, family, config)
    with pytest.raises(StoreDown, match="has not been filled yet"):
        search.search("humpback")
    store = (ElasticsearchStore if family == "elasticsearch" else OpenSearchStore)(config, CONTEXT)
    async with filled(store, POST, puts=writings()):
        look_something_up(search)


def test_a_store_that_does_not_answer_says_where_it_was_asked() -> None:
    nowhere = "127.0.0.1:1"
    graph = asked(Neo4jGraph, "neo4j", Neo4jConfig(f"bolt://{nowhere}"))
    for ask in (
        lambda: graph.friends_of_friends(1),
        lambda: asked(ArangoDBGraph, "arangodb", ArangoDBConfig(f"http://{nowhere}")).suggestions(1),
        lambda: asked(ClusterSearch, "opensearch", SearchServerConfig((f"http://{nowhere}",))).search("x"),
    ):
        with pytest.raises(StoreDown, match=f"{nowhere} does not answer"):
            ask()
    graph.close()


def test_every_page_over_neo4j_and_opensearch_which_are_killed() -> None:
    """`make social STORES=servers CHECK=1`, without the killed pipeline, which is the same with any store."""
    said: list[str] = []
    with servers_or_skip(), stage(0, with_servers=True, say=said.append) as running:
        summary = tour(running, said.append, without=["a_killed_pipeline_loses_nothing"])
    assert summary["ok"], json.dumps(summary)
    assert [store["equal"] for store in summary["stores"]] == [True, True]
    assert "killed servers come back" in said
    assert any(line.startswith("neo4j answers") for line in said)


@pytest.mark.xdist_group("search")
def test_pages_over_arangodb_and_elasticsearch(
    arango: ContractArangoDB,
    shared_search: Callable[[Family], SearchServer],
    database: Database,
    tmp_path: Path,
) -> None:
    """With the configuration of deploy/compose/social.yml."""
    uri = database.dsn()
    places = {
        "SQLALCHEMY_DATABASE_URI": uri,
        "ARANGODB_DATABASE_URI": arango.url,
        "ARANGODB_PASSWORD": arango.password,
        "ELASTICSEARCH_DATABASE_URI": shared_search("elasticsearch").url,
        "WALCAST_PIPELINE__STATE_DIR": str(tmp_path / "state"),
        "WALCAST_SINKS__SEARCH__PREFIX": f"s{next(_NUMBERS)}-",
        # From plain jars there is no analyzer `english`.
        "WALCAST_SINKS__SEARCH__PROPERTIES__POST__TITLE__ANALYZER": "standard",
        "WALCAST_SINKS__SEARCH__PROPERTIES__POST__BODY__ANALYZER": "standard",
    }
    config = CONFIG.with_name("arangodb-elasticsearch.toml")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in places.items():
            patch.setenv(name, value)
        app = create_app(SQLALCHEMY_DATABASE_URI=uri, WALCAST_CONFIG=str(config))
    try:
        with app.extensions["social.router"].write() as lease:
            assert fill(lease.connection)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "walcast",
                "--config",
                str(config),
                "run",
                "--until",
                "now",
                "--no-progress",
            ],
            env=os.environ | places,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert set(arango.graphs) == {"users-following"}
        visitor = app.test_client()
        friends = visitor.get("/user/alice/friends-of-friends").text
        assert "alice → bob → charlie → dave" in friends
        assert "<svg" in friends
        like = visitor.get("/post/5/more-like-this").text
        assert 'class="score"' in like
        assert "<b>" in like
        assert "How <b>whales</b> sing" in visitor.get("/search?q=whales").text
        copies = {copy["name"]: copy["kind"] for copy in visitor.get("/lags.json").json["copies"]}
        assert copies == {"graph": "ArangoDB", "search": "Elasticsearch"}
        assert "Kill" not in visitor.get("/replication").text
        arango.kill()
        down = visitor.get("/user/alice/friends-of-friends")
        assert down.status_code == 503
        assert "does not answer" in down.text
        assert visitor.get("/search?q=whales").status_code == 200
    finally:
        app.extensions["social.router"].close()
        app.extensions["social.stores"].close()


_NUMBERS = count()


def asked(kind: type[Any], type_: str, config: Any) -> Any:
    name = "search" if kind is ClusterSearch else "graph"
    return kind(SinkSettings(name, type_, config), Copies("."))


@contextmanager
def servers_or_skip() -> Iterator[None]:
    try:
        yield
    except ServerMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{missing.message}; hint: {missing.hint}")


# What ArangoDB would answer to the application's AQL.

Docs = dict[str, dict[str, dict[str, Any]]]


def _next(docs: Docs, id_: str) -> list[str]:
    """Whom that vertex has edges to, if they are there, in an order of its own."""
    ends = [edge["_to"] for edge in docs["Following"].values() if edge["_from"] == id_]
    return [end for end in ends if end.partition("/")[2] in docs["User"]]


def _name(docs: Docs, id_: str) -> str:
    return str(docs["User"][id_.partition("/")[2]]["username"])


def _reached(docs: Docs, bound: dict[str, Any]) -> list[Any]:
    assert bound["graph"] in ("walcast", "users-following")
    paths, ring = {bound["start"]: [bound["start"]]}, [bound["start"]]
    for _ in range(bound["depth"]):
        following = []
        for id_ in ring:
            for other in _next(docs, id_):
                if other not in paths:
                    paths[other] = [*paths[id_], other]
                    following.append(other)
        ring = following
    rows = [
        [_name(docs, id_), len(path) - 1, [_name(docs, step) for step in path], id_]
        for id_, path in paths.items()
        if len(path) > 1
    ]
    return sorted(rows, key=lambda row: (row[1], row[0]))[: bound["most"]]


def _between(docs: Docs, bound: dict[str, Any]) -> list[Any]:
    ids = bound["ids"]
    return sorted([_name(docs, a), _name(docs, b)] for a in ids for b in _next(docs, a) if b in ids)


def _suggested(docs: Docs, bound: dict[str, Any]) -> list[Any]:
    near = _next(docs, bound["start"])
    far = Counter(
        _name(docs, b) for m in near for b in _next(docs, m) if b != bound["start"] and b not in near
    )
    return [list(item) for item in sorted(far.items(), key=lambda item: (-item[1], item[0]))][
        : bound["limit"]
    ]


def _people(docs: Docs, _: dict[str, Any]) -> list[Any]:
    return [[key, d["username"], d["email"]] for key, d in docs["User"].items()]


def _follows(docs: Docs, _: dict[str, Any]) -> list[Any]:
    edges = docs["Following"].values()
    return [[d["_from"].partition("/")[2], d["_to"].partition("/")[2], d["since"]] for d in edges]


ANSWERS = {
    arangodb.REACHED: _reached,
    arangodb.BETWEEN: _between,
    arangodb.SUGGESTED: _suggested,
    arangodb.PEOPLE: _people,
    arangodb.FOLLOWS: _follows,
}
