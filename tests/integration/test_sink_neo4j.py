"""Neo4j as an application asks it, and through kills, lost answers, other writers and refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from walcast.model import (
    Checkpoint,
    Fenced,
    Lsn,
    OperatorError,
    Position,
    SinkContext,
    SinkUnavailable,
    SourceIdentity,
    Token,
)
from walcast.model.derived import Collection, Delete, Derived, Put
from walcast.model.secret import Secret
from walcast.sinks.neo4j import Neo4jConfig, Neo4jStore
from walcast.sinks.neo4j.database import Database
from walcast.testing.neo4j import Neo4jServer
from walcast.testing.proxy import TcpProxy

pytestmark = pytest.mark.xdist_group("neo4j")

CONTEXT = SinkContext("p", "s", SourceIdentity(1, 1, 180000, "app"), ".")
USER = Collection("User", "vertex", (("name", "text"), ("tags", "json")), "f1")
FOLLOWS = Collection("FOLLOWS", "edge", (("since", "integer"),), "f1", ends=("User", "User"))
AT = Checkpoint(1, Position(Lsn(100), 1), Lsn(120))
LATER = Checkpoint(1, Position(Lsn(200), 1), Lsn(220))


@pytest.fixture
def server(neo4j_server: Neo4jServer) -> Iterator[Neo4jServer]:
    neo4j_server.wipe()
    return neo4j_server


def config(server: Neo4jServer, port: int | None = None) -> Neo4jConfig:
    return Neo4jConfig(f"bolt://127.0.0.1:{port or server.port}", Secret(server.password))


def store(server: Neo4jServer, port: int | None = None) -> Neo4jStore:
    return Neo4jStore(config(server, port), CONTEXT)


def person(id_: str) -> Put:
    return Put("User", id_, {"name": f"user {id_}", "tags": ["a"]})


def follows(*pairs: str) -> list[Put]:
    return [Put("FOLLOWS", pair, {"since": 7}, (), (pair[0], pair[2])) for pair in pairs]


async def made(target: Neo4jStore, *collections: Collection) -> None:
    for collection in collections or (USER, FOLLOWS):
        await target.begin(collection)
        await target.finish(collection)


async def write(target: Neo4jStore, *written: Derived) -> None:
    for derived in written:
        await target.write(derived)
    await target.flush()


async def test_friends_of_friends_cycles_self_edges_and_edges_before_their_vertices(
    server: Neo4jServer,
) -> None:
    edges = follows("1:2", "2:3", "3:1", "3:4", "4:4")
    async with store(server) as target:
        await made(target)
        await write(target, Derived(1, edges), Derived(2, [person(id_) for id_ in "123"], checkpoint=AT))
        found = server.run(
            "match p = shortestPath((a:User {_key: '1'})-[:FOLLOWS*..5]->(b:User))"
            " where a <> b and not b._ghost return b.name, length(p)"
        )
        assert sorted(found) == [["user 2", 1], ["user 3", 2]]
        assert server.run("match (n:User) where n._ghost return n._key") == [["4"]]
        gone = [Delete("FOLLOWS", pair) for pair in ("3:4", "4:4")]
        await write(target, Derived(3, deletes=[*gone, Delete("User", "2")]))
        found = server.run("match (n:User) return n._key, n._ghost order by n._key")
        assert found == [["1", False], ["2", True], ["3", False]]
        await write(target, Derived(4, [edges[0]._replace(ends=("1", "3"))]))
        assert server.run("match (a)-[:FOLLOWS {_key: '1:2'}]->(b) return a._key, b._key") == [["1", "3"]]
    async with store(server) as target:
        assert await target.checkpoint() == AT


async def test_what_a_transaction_held_is_gone_with_the_server_and_comes_again(server: Neo4jServer) -> None:
    """And a server that is read-only meanwhile is told, by the doctor as well."""
    async with store(server) as target:
        await made(target)
        await write(target, Derived(1, [person("1")], checkpoint=AT))
        await target.write(Derived(2, [person("2"), *follows("1:2")], checkpoint=LATER))
        server.kill()
        with pytest.raises(SinkUnavailable):
            await target.flush()
    with pytest.raises(SinkUnavailable, match="reached"):
        await store(server).__aenter__()
    server.settings["server.databases.default_to_read_only"] = "true"
    try:
        server.start()
        (finding,) = await store(server).examine()
        assert finding.name == "target_read_only"
        async with store(server) as target:
            assert await target.checkpoint() == AT
            with pytest.raises(OperatorError, match="read-only"):
                await write(target, Derived(1, [person("1")]))
    finally:
        server.settings.clear()
        server.kill()
        server.start()
    async with store(server) as target:
        assert await target.checkpoint() == AT
        assert server.run("match (n:User) return n._key") == [["1"]]
        await write(target, Derived(2, [person("2"), *follows("1:2")], checkpoint=LATER))
        assert server.run("match (a)-[:FOLLOWS]->(b) return a._key, b._key") == [["1", "2"]]


async def test_a_commit_whose_answer_is_lost_counts_when_the_position_says_so(
    server: Neo4jServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Database.commit

    def unanswered(database: Database) -> None:
        proxy.stall("to_client")
        commit(database)

    with TcpProxy("127.0.0.1", server.port) as proxy:
        async with store(server, proxy.port) as target:
            await made(target)
            await target.write(Derived(2, [person("2")], checkpoint=LATER))
            monkeypatch.setattr(Database, "commit", unanswered)
            flushing = asyncio.ensure_future(target.flush())
            async with asyncio.timeout(30):
                while server.run("match (n:User) return n._key") != [["2"]]:  # noqa: ASYNC110  # no event
                    await asyncio.sleep(0.02)
            proxy.cut()
            with pytest.raises(SinkUnavailable):
                await flushing
            proxy.restore()
    async with store(server) as target:
        assert await target.checkpoint() == LATER


async def test_two_writers_of_one_pipeline_do_not_both_go_on(server: Neo4jServer) -> None:
    async with store(server) as first, store(server) as second:
        await made(first)
        await write(first, Derived(1, [person("1")], checkpoint=AT))
        with pytest.raises(Fenced, match="somebody else"):
            await made(second)
        with pytest.raises(Fenced, match="somebody else"):
            await write(second, Derived(2, [person("2")], checkpoint=LATER))
    assert server.run("match (n:User) return n._key") == [["1"]]


async def test_a_label_belongs_to_one_sink(server: Neo4jServer) -> None:
    async with store(server) as target:
        await made(target)
    other = Neo4jStore(config(server), replace(CONTEXT, sink="other"))
    async with other:
        assert await other.built() == {}
        with pytest.raises(OperatorError, match="belongs to p/s"):
            await other.begin(USER)


async def test_what_an_unfinished_copy_left_does_not_outlive_the_next_one(server: Neo4jServer) -> None:
    async with store(server) as target:
        await made(target)
        await target.begin(USER)
        await write(target, Derived(1, [person("1"), person("2")]))
    async with store(server) as target:
        await target.begin(USER)
        await target.write(Derived(2, [person("2")]))
        await target.finish(USER)
        assert server.run("match (n:User) return n._key") == [["2"]]


async def test_a_deadlock_with_somebody_else_is_tried_again(server: Neo4jServer) -> None:
    from neo4j import GraphDatabase

    async with store(server) as target:
        await made(target)
        await write(target, Derived(1, [person("1"), person("2")]))
        await target.write(Derived(2, [person("1")]))  # holds 1
        with (
            GraphDatabase.driver(server.uri, auth=(server.user, server.password)) as driver,
            driver.session() as s,
        ):
            theirs = s.begin_transaction()
            theirs.run("match (n:User {_key: '2'}) set n.x = 1").consume()  # holds 2
            ours = asyncio.ensure_future(target.write(Derived(3, [person("2")])))

            def cross() -> None:
                theirs.run("match (n:User {_key: '1'}) set n.x = 1").consume()
                theirs.rollback()

            results = await asyncio.gather(ours, asyncio.to_thread(cross), return_exceptions=True)
        failed = [result for result in results if isinstance(result, Exception)]
        assert failed, "one of the two has to give way"
        if isinstance(results[0], Exception):
            assert isinstance(results[0], SinkUnavailable), results[0]


@pytest.mark.parametrize("wanted", ["user", "port", "uri", "database"])
async def test_a_server_that_cannot_be_used_as_configured_says_why(server: Neo4jServer, wanted: str) -> None:
    changed, kind, says = {
        "user": ({"password": Secret("wrong")}, OperatorError, "refuses the user"),
        "port": ({"uri": "bolt://127.0.0.1:1"}, SinkUnavailable, "cannot be reached"),
        "uri": ({"uri": "bolt://:x"}, OperatorError, "as configured"),
        "database": ({"database": "nowhere"}, OperatorError, "no such database"),
    }[wanted]
    target = Neo4jStore(replace(config(server), **changed), CONTEXT)  # type: ignore[arg-type]  # as the table says
    with pytest.raises(kind, match=says) as caught:
        await target.__aenter__()
    assert caught.value.hint
    (finding,) = await target.examine()
    assert finding.level == "error"
    assert says in finding.message
    assert await store(server).examine() == []


async def test_labels_that_hold_others_and_names_that_cannot_be_are_refused(server: Neo4jServer) -> None:
    async with store(server) as target:
        server.run("create (:Other {_key: '1'}), (:Other {_key: '1'})")
        with pytest.raises(OperatorError, match="refuses the constraint"):
            await target.begin(replace(USER, name="Other"))
        with pytest.raises(OperatorError, match="cannot be a name"):
            await target.begin(replace(USER, name="a`b"))
        with pytest.raises(OperatorError, match="keeps its own"):
            await target.begin(replace(USER, fields=(("_key", "text"),)))


async def test_a_transaction_is_committed_when_it_is_big_but_not_between_parts(server: Neo4jServer) -> None:
    target = Neo4jStore(replace(config(server), commit_rows=3), CONTEXT)
    many: Sequence[Put] = [person(str(number)) for number in range(5)]

    def visible() -> int:
        return int(server.run("match (n:User) return count(n)")[0][0])

    async with target:
        await made(target)
        await target.write(Derived(1, many, done=False))
        assert visible() == 0
        await target.write(Derived(1, checkpoint=AT))
        assert visible() == 5
        assert await target.checkpoint() == AT


async def test_it_tells_how_far_it_is_as_a_token(server: Neo4jServer) -> None:
    async with store(server) as target:
        await made(target)
        await write(target, Derived(1, [person("1")], checkpoint=AT))
    asked = "match (m:_Walcast) where m.id starts with 'token:' return m.value"  # docs/how-to/map.md
    assert [[Token.parse(json.loads(value)) for value in row] for row in server.run(asked)] == [
        [Token(1, 1, AT.through)]
    ]
