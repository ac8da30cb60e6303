"""The embedded graph and search as an application asks them, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from psycopg import sql

from walcast.model import (
    Checkpoint,
    Lsn,
    OperatorError,
    Position,
    SinkContext,
    SourceIdentity,
    Token,
    WalcastError,
)
from walcast.model.derived import Collection, Delete, Derived, Put
from walcast.model.secret import Secret
from walcast.sinks.documents import DocumentsConfig, DocumentsStore
from walcast.sinks.graph import GraphConfig, GraphStore
from walcast.sinks.search import SearchConfig, SearchIndex, SearchStore
from walcast.testing.postgres import Database

CONTEXT = SinkContext("p", "s", SourceIdentity(1, 1, 180000, "app"), ".")
POSTS = Collection(
    "posts", "document", (("title", "text"), ("body", "text"), ("tags", "json"), ("n", "integer")), "f1"
)
USER = Collection("User", "vertex", (("name", "text"),), "f1")
FOLLOWS = Collection("FOLLOWS", "edge", (("since", "integer"),), "f1", ends=("User", "User"))
AT = Checkpoint(1, Position(Lsn(100), 1), Lsn(120))


async def filled(
    store: GraphStore | SearchStore, collections: Sequence[Collection], *written: Derived
) -> None:
    for made in collections:
        await store.begin(made)
        await store.finish(made)
    for derived in written:
        await store.write(derived)
    await store.flush()


def post(id_: str, title: str, body: str, n: object = 1) -> Put:
    return Put("posts", id_, {"title": title, "body": body, "tags": [{"label": f"tag{id_}"}], "n": n})


async def test_search_finds_words_likes_and_marks_them(tmp_path: Path) -> None:
    posts = [
        post("1", "Whales", "Whales swim in the deep sea and sing to other whales"),
        post("2", "The sea", "Ships sail the sea where whales swim and sing", 1 << 70),
        post("3", "Bread", "Flour, water and salt are mixed and baked"),
    ]
    async with SearchStore(SearchConfig(tmp_path / "i"), CONTEXT) as store:
        await filled(store, [POSTS], Derived(5, posts, checkpoint=AT))
        index = SearchIndex(tmp_path / "i", "posts")  # beside the writer, as another process
        first, second = index.search("swimming whale", ["body"])
        assert {first.id, second.id} == {"1", "2"}
        assert first.score >= second.score
        assert "<b>swim</b>" in first.highlights["body"]
        assert [hit.id for hit in index.search("tags.label:tag3")] == ["3"]
        assert [hit.id for hit in index.search('title:"bre')] == []
        likes = index.more_like("1", ["title", "body"])
        assert [hit.id for hit in likes] == ["2", "3"]  # "and" is all that the last one shares
        assert likes[0].score > 3 * likes[1].score
        assert index.more_like("none") == []
        assert index.checkpoint == AT
        await store.write(Derived(6, deletes=[Delete("posts", "2")]))
        assert len(index.search("whales")) == 2, "nothing is seen before it is committed"
        await store.flush()
        assert [hit.id for hit in index.search("whales")] == ["1"]


async def test_an_index_has_one_writer_and_a_folder_one_owner(tmp_path: Path) -> None:
    config = SearchConfig(tmp_path / "i")
    other = SinkContext("p", "other", CONTEXT.source, ".")
    async with SearchStore(config, CONTEXT) as store:
        await filled(store, [POSTS])
        with pytest.raises(WalcastError, match="written by another process"):
            async with SearchStore(config, CONTEXT):
                pass
        with pytest.raises(OperatorError, match="belongs to p/s"):
            async with SearchStore(config, other):
                pass
    (tmp_path / "i" / "walcast.json").write_text("{")
    with pytest.raises(OperatorError, match="damaged"):
        async with SearchStore(config, CONTEXT):
            pass


async def test_friends_of_friends_cycles_and_edges_before_their_vertices(tmp_path: Path) -> None:
    pairs = ["1:2", "2:3", "3:1", "3:4", "4:4"]
    edges = [Put("FOLLOWS", pair, {"since": int(pair[0])}, (), (pair[0], pair[2])) for pair in pairs]
    people = [Put("User", id_, {"name": f"user {id_}"}) for id_ in "123"]
    async with GraphStore(GraphConfig(tmp_path / "g.lbug"), CONTEXT) as store:
        await filled(store, [USER, FOLLOWS], Derived(1, edges), Derived(2, people, checkpoint=AT))
        _, rows = await store.query(
            "match (a:User {_key: '1'})-[e:FOLLOWS* shortest 1..5]->(b:User) where not b._ghost return b.name, length(e)"
        )
        assert sorted(rows) == [["user 2", 1], ["user 3", 2]]
        _, rows = await store.query("match (n:User) where n._ghost return n._key")
        assert rows == [["4"]]
        gone = [Delete("FOLLOWS", pair) for pair in ("3:4", "4:4")]
        await filled(store, [], Derived(3, deletes=[*gone, Delete("User", "2")]))
        _, rows = await store.query("match (n:User) return n._key, n._ghost order by n._key")
        assert rows == [["1", False], ["2", True], ["3", False]]
    async with GraphStore(GraphConfig(tmp_path / "g.lbug"), CONTEXT) as store:
        assert await store.checkpoint() == AT


async def test_a_graph_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    config = GraphConfig(tmp_path / "g.lbug")
    async with GraphStore(config, CONTEXT):
        with pytest.raises(OperatorError, match="open in another process"):
            async with GraphStore(config, CONTEXT):
                pass
    async with GraphStore(config, CONTEXT) as store:
        with pytest.raises(OperatorError, match="cannot be a name"):
            await store.begin(Collection("a`b", "vertex", (), "f"))
    (tmp_path / "x.lbug").write_bytes(b"no graph" * 1000)
    with pytest.raises(OperatorError) as caught:
        async with GraphStore(GraphConfig(tmp_path / "x.lbug"), CONTEXT):
            pass
    assert "x.lbug" in caught.value.message
    assert caught.value.hint


async def test_what_is_in_the_way_is_found_without_opening_it(tmp_path: Path, database: Database) -> None:
    graph, search = GraphConfig(tmp_path / "g.lbug"), SearchConfig(tmp_path / "i")
    documents = DocumentsConfig(Secret(database.dsn()))
    stores = (GraphStore(graph, CONTEXT), SearchStore(search, CONTEXT), DocumentsStore(documents, CONTEXT))
    for store in stores:
        assert await store.examine() == [], "nothing is there yet"
    async with GraphStore(graph, CONTEXT) as one, SearchStore(search, CONTEXT) as two:
        await filled(one, [USER], Derived(1, [Put("User", "1", {"name": "n"})], checkpoint=AT))
        await filled(two, [POSTS], Derived(1, [post("1", "t", "b")], checkpoint=AT))
        _, ((value,),) = await one.query("match (m:_walcast {name: 'token:p/s'}) return m.value")
        assert value == f'"{Token(1, 1, Lsn(120))}"'
    for store in stores:
        assert await store.examine() == []
    (folder,) = (tmp_path / "i").glob("index*")
    shutil.rmtree(folder)
    graph.path.write_bytes(b"no graph" * 1000)
    read_only = sql.SQL("alter database {} set default_transaction_read_only = on")
    database.execute(read_only.format(sql.Identifier(database.name)))
    for store in stores:
        (finding,) = await store.examine()
        assert finding.level == "error", store
        assert finding.hint


async def test_a_query_of_the_graph_disturbs_nothing(tmp_path: Path) -> None:
    """What was accepted and is not durable yet survives every question, and is not shown before it is."""
    config = GraphConfig(tmp_path / "g.lbug")
    names = "match (n:User) where n._key in $keys return n.name order by n.name"
    async with GraphStore(config, CONTEXT) as store:
        await filled(store, [USER, FOLLOWS], Derived(1, [Put("User", "1", {"name": "one"})], checkpoint=AT))
        after = Checkpoint(1, Position(Lsn(200), 1), Lsn(220))
        await store.write(Derived(2, [Put("User", "2", {"name": "two"})], checkpoint=after))
        assert await store.query(names, {"keys": ["1", "2"]}) == (["n.name"], [["one"]])
        for wrong, says in (
            ("match nonsense", "Parser"),
            ("match (n:User) return n.nothing", "Binder"),
            ("create (n:User {_key: 'x'})", "read-only"),
            ("match (n:User) set n.name = 'x'", "read-only"),
            ("return 1; return 2", "several"),
            ("commit; create (n:User {_key: 'x'})", "several"),
        ):
            with pytest.raises(OperatorError, match=says):
                await store.query(wrong)
        assert (await store.query("return ';';"))[1] == [[";"]]
        await store.flush()
        assert await store.query(names, {"keys": ["1", "2"]}) == (["n.name"], [["one"], ["two"]])
        long = [Put("User", str(n), {"name": str(n)}) for n in range(60)]
        steps = [Put("FOLLOWS", f"{n}", {"since": n}, (), (str(n), str(n + 1))) for n in range(59)]
        await filled(store, [], Derived(3, long), Derived(4, steps))
        far = "match (a:User {_key: '0'})-[e:FOLLOWS* shortest 1..1000]->(b:User) return max(length(e))"
        assert (await store.query(far))[1] == [[59]]
    async with GraphStore(config, CONTEXT) as store:
        assert await store.checkpoint() == after


async def test_a_graph_is_written_for_long_in_little_memory(tmp_path: Path) -> None:
    """LadybugDB keeps the tables of statements that it is given as text: a quarter of a megabyte of its pool each."""
    async with GraphStore(GraphConfig(tmp_path / "g.lbug", memory=64 << 20, threads=1), CONTEXT) as store:
        await filled(store, [USER, FOLLOWS])
        for n in range(120):
            edge = Put("FOLLOWS", str(n), {"since": n}, (), (str(n), str(n + 1)))
            await filled(store, [], Derived(n, [Put("User", str(n), {"name": "x"}), edge]))
        count = "match (a:User)-[e:FOLLOWS]->(b:User) return count(e)"
        assert (await store.query(count))[1] == [[120]]


async def test_likes_are_marked_by_the_words_that_tell_most(tmp_path: Path) -> None:
    common = "and then there were others"
    posts = [
        post("1", "Whales", f"Whales swim in the deep sea {common}"),
        post("2", "Ships", f"A ship in the deep met whales {common} <b>&"),
        post("3", "Bread", f"Flour is baked {common}"),
        *(post(str(n), "Other", f"Number {n} {common}") for n in range(4, 10)),
    ]
    async with SearchStore(SearchConfig(tmp_path / "i"), CONTEXT) as store:
        await filled(store, [POSTS], Derived(5, posts, checkpoint=AT))
        index = SearchIndex(tmp_path / "i", "posts")
        best = index.more_like("1", ["title", "body"])[0]
        assert best.id == "2"
        assert "<b>deep</b>" in best.highlights["body"]
        assert "<b>whales</b>" in best.highlights["body"]
        assert "<b>others</b>" not in best.highlights["body"]
        assert {id_: body["title"] for id_, body in index.documents()}["3"] == "Bread"


async def test_a_graph_tells_how_far_it_is_as_a_token(tmp_path: Path) -> None:
    asked = "match (m:_walcast) where m.name starts with 'token:' return m.value"  # docs/how-to/map.md
    async with GraphStore(GraphConfig(tmp_path / "g.lbug"), CONTEXT) as store:
        await filled(store, [USER], Derived(5, [Put("User", "1", {"name": "a"})], checkpoint=AT))
        _, rows = await store.query(asked)
        assert [[Token.parse(json.loads(value)) for value in row] for row in rows] == [
            [Token(1, 1, AT.through)]
        ]
