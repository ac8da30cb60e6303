"""ArangoDB through faults, on a double that keeps its HTTP API's contract, or on WALCAST_TEST_ARANGODB_URL where that is said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
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
)
from walcast.model.derived import Collection, Delete, Derived, ItemsRefused, Put
from walcast.model.secret import Secret
from walcast.sinks.arangodb import ArangoDBConfig, ArangoDBStore
from walcast.testing.arangodb import ContractArangoDB

CONTEXT = SinkContext("p", "s", SourceIdentity(1, 1, 180000, "app"), ".")
USER = Collection("User", "vertex", (("name", "text"),), "f1")
FOLLOWS = Collection("FOLLOWS", "edge", (("since", "integer"),), "f1", ends=("User", "User"))
POSTS = Collection("posts", "document", (("title", "text"),), "f1", tracked=True)
AT = Checkpoint(1, Position(Lsn(100), 1), Lsn(120))
LATER = Checkpoint(1, Position(Lsn(200), 1), Lsn(220))


@pytest.fixture
def server() -> Iterator[ContractArangoDB]:
    with ContractArangoDB() as started:
        yield started


def config(server: ContractArangoDB) -> ArangoDBConfig:
    return ArangoDBConfig(server.url, Secret(server.password), timeout=20)


def store(server: ContractArangoDB) -> ArangoDBStore:
    return ArangoDBStore(config(server), CONTEXT)


async def made(target: ArangoDBStore, *collections: Collection) -> None:
    for collection in collections or (USER, FOLLOWS, POSTS):
        await target.begin(collection)
        await target.finish(collection)


async def write(target: ArangoDBStore, *written: Derived) -> None:
    for derived in written:
        await target.write(derived)
    await target.flush()


def person(id_: str) -> Put:
    return Put("User", id_, {"name": f"user {id_}"})


async def test_edges_before_their_vertices_self_edges_and_keys_that_need_escapes(
    server: ContractArangoDB,
) -> None:
    odd = "a/b c%ü"
    edges = [Put("FOLLOWS", "1:1", {"since": 1}, (), ("1", "1")), Put("FOLLOWS", odd, {}, (), ("1", odd))]
    async with store(server) as target:
        await made(target)
        await write(target, Derived(1, edges), Derived(2, [person("1")], checkpoint=AT))
        docs = server.collections["FOLLOWS"][1]
        assert docs["1:1"]["_from"] == docs["1:1"]["_to"] == "User/1"
        assert await target.ids(FOLLOWS, None) == ["1:1", odd]
        assert await target.held(FOLLOWS, [odd]) == {odd: ["1", odd, {}]}
        (edge,) = server.graphs["walcast"]["edgeDefinitions"]
        assert edge == {"collection": "FOLLOWS", "from": ["User"], "to": ["User"]}
        await write(target, Derived(3, deletes=[Delete("User", "1"), Delete("User", "none")]))
        assert server.collections["User"][1] == {}
        await made(target, replace(FOLLOWS, ends=("User", "posts"), fingerprint="f2"))
        (edge,) = server.graphs["walcast"]["edgeDefinitions"]
        assert edge["to"] == ["posts"]
    async with store(server) as target:
        assert await target.checkpoint() == AT


async def test_what_a_transaction_held_is_gone_with_the_server(server: ContractArangoDB) -> None:
    async with store(server) as target:
        await made(target)
        await write(target, Derived(1, [person("1")], checkpoint=AT))
        await target.write(Derived(2, [person("2")], checkpoint=LATER))
        server.kill()
        with pytest.raises(SinkUnavailable):
            await target.flush()
    with pytest.raises(SinkUnavailable, match="reached"):
        await store(server).__aenter__()
    server.start()
    async with store(server) as target:
        assert await target.checkpoint() == AT
        assert list(server.collections["User"][1]) == ["1"]


async def test_a_commit_whose_answer_is_lost_counts_when_the_position_says_so(
    server: ContractArangoDB,
) -> None:
    async with store(server) as target:
        await made(target)
        await target.write(Derived(2, [person("2")], checkpoint=LATER))
        server.lose_commits = True
        with pytest.raises(SinkUnavailable):
            await target.flush()
    async with store(server) as target:
        assert await target.checkpoint() == LATER
        assert list(server.collections["User"][1]) == ["2"]


async def test_what_a_killed_process_left_open_is_ended_by_the_next(server: ContractArangoDB) -> None:
    async with store(server) as target:
        await made(target)
        await write(target, Derived(1, [person("1")], checkpoint=AT))
        await target.write(Derived(2, [person("2")], checkpoint=LATER))
        abandoned, target._database = target._database, None  # nobody says goodbye
    async with asyncio.timeout(4), store(server) as target:  # no lock is waited for
        assert await target.checkpoint() == AT
        await write(target, Derived(2, [person("3")], checkpoint=LATER))
    assert list(server.collections["User"][1]) == ["1", "3"]
    assert abandoned is not None
    abandoned.close()


async def test_two_writers_of_one_pipeline_do_not_both_go_on(server: ContractArangoDB) -> None:
    async with store(server) as first, store(server) as second:
        await made(first)
        await write(first, Derived(1, [person("1")], checkpoint=AT))
        with pytest.raises(Fenced, match="somebody else"):
            await made(second)
        with pytest.raises(Fenced, match="somebody else"):
            await write(second, Derived(2, [person("2")], checkpoint=LATER))
    assert list(server.collections["User"][1]) == ["1"]


async def test_a_collection_that_is_made_amid_a_transaction_comes_with_the_next(
    server: ContractArangoDB,
) -> None:
    async with store(server) as target:
        await made(target, USER)
        await target.write(Derived(1, [person("1")], done=False))
        with pytest.raises(SinkUnavailable, match="new, and a transaction is open"):
            await target.begin(POSTS)
    async with store(server) as target:
        await made(target, POSTS)
        await write(target, Derived(1, [Put("posts", "1", {"title": "t"}, ("0:1", "2:7"))]))
        assert await target.holders(POSTS, ["2:7"]) == [("1", "0:1")]


async def test_the_journal_is_durable_whatever_becomes_of_the_transaction(server: ContractArangoDB) -> None:
    async with store(server) as target:
        await made(target, USER)
        await target.write(Derived(1, [person("1")], done=False))
        await target.save_journal("table", {"state": "done"})
        assert await target.load_journal() == {"table": {"state": "done"}}
    async with store(server) as target:
        assert await target.load_journal() == {"table": {"state": "done"}}
        await target.save_journal("table", None)
        assert await target.load_journal() == {}


@pytest.mark.parametrize("wanted", ["user", "database", "version", "port", "mode"])
async def test_a_server_that_cannot_be_used_says_why(server: ContractArangoDB, wanted: str) -> None:
    chosen = config(server)
    if wanted == "user":
        chosen, says = replace(chosen, password=Secret("wrong")), "refuses the user"
    elif wanted == "database":
        chosen, says = replace(chosen, database="nowhere"), "no such database"
    elif wanted == "version":
        server.version, says = "3.10.2", "needs ArangoDB 3.11"
    elif wanted == "port":
        chosen, says = replace(chosen, url="http://127.0.0.1:1"), "cannot be reached"
    else:
        server.read_only, says = True, "read-only"
    target = ArangoDBStore(chosen, CONTEXT)
    with pytest.raises((OperatorError, SinkUnavailable), match=says) as caught:
        await target.__aenter__()
    assert caught.value.hint
    (finding,) = await target.examine()
    assert says in finding.message
    server.version, server.read_only = "3.12.4", False
    assert await store(server).examine() == []


async def test_keys_and_names_that_cannot_be_are_refused(server: ContractArangoDB) -> None:
    async with store(server) as target:
        await made(target)
        await target.write(Derived(1, [person("1")]))
        with pytest.raises(ItemsRefused, match="more than 254 bytes"):
            await target.write(Derived(2, [person("ü" * 43)]))
        await target.flush()
        assert list(server.collections["User"][1]) == ["1"], "what came before is as it was"
        with pytest.raises(OperatorError, match="keeps its own"):
            await target.begin(replace(USER, name="Other", fields=(("_from", "text"),)))
        with pytest.raises(OperatorError, match="cannot be a collection's name"):
            await target.begin(replace(USER, name="walcast_x"))
