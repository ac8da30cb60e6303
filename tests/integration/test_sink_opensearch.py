"""OpenSearch and Elasticsearch: versions, what they refuse, and what becomes of a copy when they are in trouble."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import pytest
from aiohttp import ClientSession, web
from tests.search_tools import Place

from walcast.engine.aside import Aside
from walcast.engine.deadfile import FileDeadLetters
from walcast.engine.mapped import MappedSink, mapped_sink
from walcast.engine.metrics import Metrics
from walcast.mapping import DataMapping, Document
from walcast.model import (
    Checkpoint,
    Fenced,
    Lsn,
    OperatorError,
    Position,
    SinkUnavailable,
    TableStopped,
    Token,
)
from walcast.model.derived import Collection, Delete, Derived, ItemsRefused, Put, Row
from walcast.model.secret import Secret
from walcast.testing.conformance import World
from walcast.testing.conformance.world import Col, Tab
from walcast.testing.derived import MemoryReader
from walcast.testing.postgres import PostgresServer
from walcast.testing.search import Family, SearchServer

pytestmark = pytest.mark.xdist_group("search")

POSTS = Collection("posts", "document", (("title", "text"), ("n", "integer"), ("meta", "json")), "f1")
AT = Checkpoint(1, Position(Lsn(100), 1), Lsn(120))
LATER = Checkpoint(1, Position(Lsn(200), 1), Lsn(220))
_NUMBERS = count()


@pytest.fixture(params=["opensearch", "elasticsearch"])
def place(request: pytest.FixtureRequest, shared_search: Callable[[Family], SearchServer]) -> Place:
    return Place(shared_search(request.param), f"i{next(_NUMBERS)}-")


@pytest.fixture
def one_place(shared_search: Callable[[Family], SearchServer]) -> Place:
    """Where the two families do not differ."""
    return Place(shared_search("opensearch"), f"i{next(_NUMBERS)}-")


async def begun(store: Any, collection: Collection = POSTS) -> None:
    await store.begin(collection)
    await store.finish(collection)


def post(id_: str, **body: Any) -> Put:
    return Put("posts", id_, body or {"title": f"post {id_}", "n": 1, "meta": {"a": [1]}})


async def test_an_older_version_never_comes_back_though_the_cluster_forgets_what_it_deleted(
    place: Place,
) -> None:
    async with place.store(settings={"gc_deletes": "0ms"}) as store:
        await begun(store)
        await store.write(Derived(5, [post("1", title="new"), post("2")], checkpoint=AT))
        await store.flush()
        await store.write(Derived(3, [post("1", title="old")]))
        await store.write(Derived(6, deletes=[Delete("posts", "2")]))
        await store.flush()
        place.server.ask("POST", f"/{place.prefix}posts/_refresh")
        await store.write(Derived(5, [post("2", title="old")]))
        await store.flush()
        assert place.documents("posts") == {"1": {"title": "new"}}
        assert place.server.ask("GET", f"/{place.prefix}posts/_count")["count"] == 1
        await store.write(Derived(6, [post("2", title="again")]))  # of the same transaction
        await store.flush()
        assert sorted(place.documents("posts")) == ["1", "2"]


async def test_a_deleted_document_is_removed_for_good_after_its_time(place: Place) -> None:
    async with place.store(tombstones=0.001) as store:
        await begun(store)
        await store.write(Derived(5, [post("1"), post("2")]))
        await store.write(Derived(6, deletes=[Delete("posts", "2")], checkpoint=AT))
        await store.flush()
        (index,) = place.server.ask("GET", f"/{place.prefix}posts/_alias")
        while (
            place.server.ask("POST", f"/{index}/_refresh")
            and place.server.ask("GET", f"/{index}/_count")["count"] > 1
        ):
            await store.flush()
        assert sorted(place.documents("posts")) == ["1"]


async def test_the_position_in_the_cluster_is_of_what_can_be_found(place: Place) -> None:
    async with place.store() as store:
        await begun(store)
        await store.write(Derived(5, [post("1")], checkpoint=AT))
        await store.flush()
        found = place.server.ask(
            "POST", f"/{place.prefix}posts/_search", {"query": {"match": {"title": "post"}}}
        )
        assert [hit["_source"] for hit in found["hits"]["hits"]] == [
            {"title": "post 1", "n": 1, "meta": {"a": [1]}}
        ]
        state = place.server.ask("GET", f"/walcast-state/_doc/{place.prefix}%2Fs")["_source"]
        assert Token.parse(state["token"]) == Token(7_000_000_000, 1, AT.through)
    async with place.store() as store:
        assert await store.checkpoint() == AT
        assert await store.built() == {"posts": "f1"}
    async with place.store(properties={"posts": {"title": {"type": "keyword"}}}) as store:
        assert await store.built() == {"posts": ""}, "it is indexed otherwise now"


async def test_a_second_writer_is_told_so(place: Place) -> None:
    async with place.store() as store, place.store() as other:
        await begun(store)
        with pytest.raises(Fenced, match="somebody else writes"):
            await begun(other)


async def test_an_alias_that_somebody_else_has_is_left_alone(place: Place) -> None:
    theirs = f"{place.prefix}posts"
    place.server.ask("PUT", f"/{theirs}", {})
    async with place.store() as store:
        with pytest.raises(OperatorError, match="is there already: an index") as caught:
            await begun(store)
        assert "prefix" in (caught.value.hint or "")
    async with Place(place.server, f"{place.prefix}X").store() as store:
        with pytest.raises(OperatorError, match="cannot be an alias"):
            await begun(store)


# What a cluster refuses of a document.

THINGS = Tab("things", (Col("id", key=True), Col("doc", 114), Col("note")), oid=16440)
PLAIN = Tab("plain", (Col("id", key=True), Col("note")), oid=16441)


@asynccontextmanager
async def sifting(
    place: Place, world: World, folder: Any, table: Tab = THINGS, **options: Any
) -> AsyncIterator[tuple[MappedSink, Aside]]:
    """The sink and its dead letters, over the world as source."""

    def rows(table: Any) -> Sequence[Row]:
        return [
            {**row, **({"doc": json.loads(row["doc"] or "null")} if "doc" in row else {})}
            for row in world.rows[table]
        ]

    reader = MemoryReader({table.id: table.relation()}, rows)
    mapping = DataMapping(documents={table.name: Document(str(table.id))})
    store = place.store(**options)
    async with mapped_sink(store, mapping, reader, policies=store._config.policies) as sink:
        aside = Aside("copy", sink, sink.policies, FileDeadLetters(folder / "dead.jsonl"), {}, Metrics())
        await aside.load()
        yield sink, aside


def things(**documents: str) -> World:
    world = World()
    world.table(THINGS)
    with world.transaction():
        for id_, document in documents.items():
            world.insert(THINGS, id=id_, doc=document, note="note")
    return world


async def deliver(sink: MappedSink, aside: Aside, world: World) -> None:
    for batch in world.batches():
        await aside.write(batch)
        await sink.flush()


async def test_what_the_cluster_refuses_is_set_aside_and_the_rest_is_there(
    place: Place, tmp_path: Any
) -> None:
    documents = {
        "a-first": '{"a": {"b": 1}}',
        "k" * 513: "{}",
        "conflict": '{"a": 1}',
        "explodes": "{" + ", ".join(f'"f{n}": 1' for n in range(60)) + "}",
        "big": '{"text": "' + "x" * (8 << 20) + '"}',
        "deep": '{"d":' * 30 + "1" + "}" * 30,
        "nul": '{"t": "a\\u0000b\\ud800c"}',
        "é" * 200: '{"a": {"b": 2}}',
    }
    world = things(**documents)
    async with sifting(place, world, tmp_path, settings={"mapping.total_fields.limit": 40}) as (sink, aside):
        await deliver(sink, aside, world)
        letters = {letter.keys[0][2:12].rstrip('"]'): letter.message for letter in aside.letters.values()}
        assert set(letters) == {"k" * 10, "conflict", "explodes", "big", "deep"}
        assert "513 bytes" in letters["k" * 10]
        assert "doc.a" in letters["conflict"]
        assert "Limit of" in letters["explodes"]
        assert "it may have 8386560" in letters["big"]
        assert not any(value in text for text in letters.values() for value in ("xxx", "note"))
        assert set(place.documents("things")) == {"a-first", "nul", "é" * 200}
        assert place.documents("things")["nul"]["doc"] == {"t": "a\ufffdb\ufffdc"}
        with world.transaction():
            world.update(THINGS, {"id": "big"}, doc='{"text": "short"}')
            world.insert(THINGS, id="next", doc="{}", note="")
        await deliver(sink, aside, world)
        assert set(place.documents("things")) == {"a-first", "nul", "é" * 200, "next"}
        assert [letter.kind for letter in aside.letters.values()][-1] == "behind"


async def test_what_is_refused_of_a_first_copy_is_set_aside_though_the_next_chunk_is_on_its_way(
    place: Place, tmp_path: Any
) -> None:
    wrong = {"row3": "x", "row17": "y", "row18": "z", "k" * 513: "7"}
    world = World()
    world.table(PLAIN)
    with world.transaction():
        for id_ in [f"row{number}" for number in range(40)] + ["k" * 513]:
            world.insert(PLAIN, id=id_, note=wrong.get(id_, "7"))
    _, chunks = world.snapshot(PLAIN, 5)
    numbers = {"plain": {"note": {"type": "integer"}}}
    async with sifting(place, world, tmp_path, PLAIN, properties=numbers) as (sink, aside):
        for chunk in chunks:
            await aside.write(chunk)
        await sink.flush()
        keys = {letter.keys[0][:12] for letter in aside.letters.values()}  # a long one ends in a digest
        assert keys == {json.dumps([id_])[:12] for id_ in wrong}
        assert set(place.documents("plain")) == {f"row{number}" for number in range(40)} - wrong.keys()


async def test_a_table_stops_when_it_is_to(one_place: Place, tmp_path: Any) -> None:
    world = things(a='{"x": 1}', b="1")
    async with sifting(one_place, world, tmp_path, on_refused="stop") as (sink, aside):
        with pytest.raises(TableStopped, match=r"things: field doc, .* does not take the value") as caught:
            await deliver(sink, aside, world)
        assert caught.value.table == THINGS.id


# A cluster in trouble.


async def test_a_read_only_index_and_a_full_disk(place: Place) -> None:
    async with place.store(timeout=5.0) as store:
        await begun(store)
        (index,) = place.server.ask("GET", f"/{place.prefix}posts/_alias")
        for block, kind, says in (
            ("write", OperatorError, "read-only"),
            ("read_only", OperatorError, "read-only"),
            ("read_only_allow_delete", SinkUnavailable, "disk"),
        ):
            place.server.ask("PUT", f"/{index}/_settings", {f"index.blocks.{block}": True})
            await store.write(Derived(5, [post("1")], checkpoint=AT))
            with pytest.raises(kind, match=says):
                await store.flush()
            (finding,) = await store.examine()
            assert finding.level == "error"
            assert index in finding.message
            place.server.ask("PUT", f"/{index}/_settings", {f"index.blocks.{block}": None})
        assert await store.checkpoint() is None
        await store.write(Derived(5, [post("1")], checkpoint=AT))
        await store.flush()
        assert list(await store.examine()) == []
        assert sorted(place.documents("posts")) == ["1"]


async def test_a_deleted_index_is_noticed_and_filled_anew(place: Place, tmp_path: Any) -> None:
    world = things(a="{}", b="{}")
    async with sifting(place, world, tmp_path) as (sink, aside):
        await deliver(sink, aside, world)
        (index,) = place.server.ask("GET", f"/{place.prefix}things/_alias")
        place.server.ask("DELETE", f"/{index}")
        with world.transaction():
            world.insert(THINGS, id="c", doc="{}", note="")
        with pytest.raises(SinkUnavailable, match="deleted the index"):
            await deliver(sink, aside, world)
    async with sifting(place, world, tmp_path) as (sink, aside):
        await sink.filled()
    assert sorted(place.documents("things")) == ["a", "b", "c"]


async def test_readers_find_all_of_it_while_another_index_takes_its_place(
    place: Place, tmp_path: Any
) -> None:
    world = things(**{f"d{number}": "{}" for number in range(50)})
    async with sifting(place, world, tmp_path) as (sink, aside):
        await deliver(sink, aside, world)
    path = f"/{place.prefix}things"
    (old,) = place.server.ask("GET", f"{path}/_alias")
    counted, filled, begun_reading = [], asyncio.Event(), asyncio.Event()

    async def read() -> None:
        while not filled.is_set():
            counted.append((await asyncio.to_thread(place.server.ask, "GET", f"{path}/_count"))["count"])
            begun_reading.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        await begun_reading.wait()
        otherwise = {"things": {"note": {"type": "keyword"}}}
        async with sifting(place, world, tmp_path, properties=otherwise) as (sink, _):
            await sink.filled()
        filled.set()
    assert set(counted) == {50}
    (new,) = place.server.ask("GET", f"{path}/_alias")
    assert new != old
    assert (
        place.server.ask("GET", f"/{new}/_mapping")[new]["mappings"]["properties"]["note"]["type"]
        == "keyword"
    )


async def test_a_killed_server_loses_nothing_that_was_flushed(one_place: Place) -> None:
    store = one_place.store(timeout=3.0)
    server = one_place.server
    with suppress(SinkUnavailable):
        async with store:
            await begun(store)
            for n in range(20):
                await store.write(
                    Derived(
                        n,
                        [post(str(m)) for m in range(100 * n, 100 * n + 100)],
                        checkpoint=Checkpoint(1, Position(Lsn(n + 1), 1), Lsn(n + 1)),
                    )
                )
                if n == 15:
                    server.kill()
                await store.flush()
    held = await store.checkpoint()
    with pytest.raises(SinkUnavailable, match="cannot be reached") as caught:
        async with one_place.store():
            pass
    assert caught.value.hint
    (finding,) = await one_place.store().examine()
    assert "cannot be reached" in finding.message
    await asyncio.to_thread(server.start)
    async with one_place.store() as store:
        assert await store.checkpoint() == held == Checkpoint(1, Position(Lsn(15), 1), Lsn(15))
        assert set(one_place.documents("posts")) >= {str(n) for n in range(1500)}
        await store.write(Derived(20, [post("again")], checkpoint=LATER))
        await store.flush()
        assert "again" in one_place.documents("posts")


# What stands between us and a cluster.


@asynccontextmanager
async def before(
    server: SearchServer, answer: Callable[[web.Request], web.Response | None]
) -> AsyncIterator[str]:
    """A proxy before the real server, which answers some requests itself; its URL."""

    async def pass_on(request: web.Request) -> web.Response:
        own = answer(request)
        if own is not None:
            return own
        async with session.request(
            request.method,
            f"{server.url}{request.raw_path}",
            data=await request.read(),
            headers={"Content-Type": request.content_type},
        ) as found:
            kept = {
                name: value for name, value in found.headers.items() if name.lower() == "x-elastic-product"
            }
            return web.Response(
                status=found.status, body=await found.read(), headers=kept, content_type=found.content_type
            )

    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(app)
    async with ClientSession() as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield (
            str(site.name).replace("localhost", "127.0.0.1")
            if not runner.addresses
            else f"http://127.0.0.1:{runner.addresses[0][1]}"
        )
        await runner.cleanup()


async def test_credentials(one_place: Place) -> None:
    right = "Basic " + base64.b64encode("ann:sécret".encode()).decode()

    def guard(request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") in (right, "ApiKey k"):
            return None
        error = {"error": {"type": "security_exception", "reason": "no such user"}}
        return web.json_response(error, status=401)

    async with before(one_place.server, guard) as url:
        for wrong in ({}, {"user": "ann", "password": Secret("wrong")}, {"api_key": Secret("x")}):
            with pytest.raises(OperatorError, match="does not take the credentials") as caught:
                async with one_place.store(hosts=(url,), **wrong):
                    pass
            assert "wrong" not in str(caught.value)
        for given in ({"user": "ann", "password": Secret("sécret")}, {"api_key": Secret("k")}):
            async with one_place.store(hosts=(url,), **given) as store:
                assert list(await store.examine()) == []


async def test_a_busy_cluster_is_asked_again_and_each_request_once_more(one_place: Place) -> None:
    asked = count()

    def busy(request: web.Request) -> web.Response | None:
        if request.path == "/_bulk" and next(asked) % 3 < 2:
            return web.json_response(
                {"error": {"type": "es_rejected_execution_exception", "reason": ""}}, status=429
            )
        return None

    puts = [post(str(n), title="x" * 500) for n in range(1000)]
    async with before(one_place.server, busy) as url:
        hosts = ("http://127.0.0.1:1", url)
        async with one_place.store(hosts=hosts, bulk=256 << 10) as store:
            await begun(store)
            await store.write(Derived(1, puts, checkpoint=AT))
            await store.flush()
            assert len(one_place.documents("posts")) == 1000

    def always(request: web.Request) -> web.Response | None:
        error = {"error": {"type": "es_rejected_execution_exception", "reason": ""}}
        return web.json_response(error, status=429) if request.path == "/_bulk" else None

    async with before(one_place.server, always) as url, one_place.store(hosts=(url,), timeout=3.0) as store:
        await store.write(Derived(2, [post("1")]))
        with pytest.raises(SinkUnavailable, match="too busy"):
            await store.flush()


async def test_other_servers_and_other_versions_are_refused(
    place: Place, shared_search: Callable[[Family], SearchServer], postgres_server: PostgresServer
) -> None:
    family = place.server.family
    other = shared_search("elasticsearch" if family == "opensearch" else "opensearch")
    with pytest.raises(OperatorError, match=r"this is .*, not") as caught:
        async with Place(place.server, "x-").store(hosts=(other.url,)):
            pass
    assert caught.value.hint == f'write type = "{other.family}"'
    with pytest.raises((OperatorError, SinkUnavailable)) as told:
        async with place.store(hosts=(f"http://127.0.0.1:{postgres_server.port}",), timeout=3.0):
            pass
    assert told.value.hint

    def old(request: web.Request) -> web.Response | None:
        if not request.path.startswith("/_nodes"):
            return None
        kept = {"X-Elastic-Product": "Elasticsearch"} if family == "elasticsearch" else {}
        return web.json_response({"nodes": {"n": {"version": "1.3.20"}}}, headers=kept)

    async with before(place.server, old) as url:
        with pytest.raises(OperatorError, match=r"1\.3\.20; the sink needs"):
            async with place.store(hosts=(url,)):
                pass


def test_settings_that_contradict_each_other() -> None:
    from walcast.sinks.opensearch import SearchServerConfig

    for wrong, says in (
        ({"hosts": ()}, "at least one URL"),
        ({"hosts": ("search:9200",)}, "a URL such as"),
        ({"hosts": ("http://u:p@x",)}, "hold no password"),
        ({"hosts": ("http://x",), "user": "u"}, "go together"),
        ({"hosts": ("http://x",), "user": "u", "password": Secret("p"), "api_key": Secret("k")}, "either"),
    ):
        with pytest.raises(ValueError, match=says):
            SearchServerConfig(**wrong)  # type: ignore[arg-type]  # wrong on purpose


async def test_a_document_that_is_refused_is_told_without_its_values(place: Place) -> None:
    async with place.store() as store:
        await begun(store)
        await store.write(Derived(1, [post("1", title={"secret": "hush"})]))
        with pytest.raises(ItemsRefused) as caught:
            await store.flush()
        assert "title" in caught.value.message
        assert "hush" not in caught.value.message
