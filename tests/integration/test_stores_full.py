"""Stores whose disk is really full: they stop or are tried again, the others go on, and all are equal once there is room."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ladybug
import pytest
from psycopg import sql
from tests.chaos.disks import SmallDisk
from tests.flow_tools import ready

import walcast
from walcast.engine import PipelineSettings
from walcast.engine.status import SinkStatus
from walcast.mapping import DataMapping, Document, Vertex
from walcast.model import Checkpoint, Lsn, Position, SinkContext, SourceIdentity
from walcast.model.derived import Collection, Derived, Put
from walcast.model.secret import Secret
from walcast.postgres.source import SourceConfig
from walcast.sinks.documents import DocumentsConfig
from walcast.sinks.graph import GraphConfig, GraphStore
from walcast.sinks.search import SearchConfig, SearchIndex
from walcast.testing.postgres import Database, PostgresServer

MAPPING = DataMapping(
    documents={"post": Document("post"), "short": Document("post", fields={"n": "id"})},
    vertices={"Post": Vertex("post")},
)
SETTINGS = PipelineSettings(serve=False, backoff_first=0.05, backoff_most=0.2, retry_limit=60)
FILL = "insert into post select n, repeat(md5(n::text), 100) from generate_series({0}, {1}) n"


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    folder = Path(tempfile.mkdtemp(prefix="walcast-full-", dir="/tmp"))
    folder.chmod(0o755)  # the server's user must reach it
    try:
        with SmallDisk(folder / "disk", 96 << 20) as made:
            if not made.real:
                pytest.skip("only root may mount a file system")
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small(database: Database, disk: SmallDisk) -> Iterator[Database]:
    """A database on that disk."""
    place = disk.folder / "space"
    place.mkdir()
    shutil.chown(place, "nobody", "nogroup")
    made = Database.create(database.server)
    space, name = sql.Identifier(made.name), sql.Identifier(made.name)
    database.execute(sql.SQL("create tablespace {} location {}").format(space, str(place)))
    made.execute(sql.SQL("alter database {} set default_tablespace = {}").format(name, space))
    yield made
    disk.free()
    made.drop()
    database.server.execute(sql.SQL("drop tablespace {}").format(space))


async def test_full_stores_are_told_and_catch_up_when_there_is_room(
    database: Database,
    small: Database,
    disk: SmallDisk,
    make_database: Callable[[PostgresServer], Database],
    tmp_path: Path,
) -> None:
    other = make_database(database.server)
    database.execute("create table post (id int primary key, body text); create publication p for table post")
    fill(database, 1, 200)
    sinks = {
        "docs": DocumentsConfig(Secret(small.dsn())),
        "net": GraphConfig(disk.folder / "net.lbug"),
        "find": SearchConfig(disk.folder / "find", memory=16 << 20),
        "other": DocumentsConfig(Secret(other.dsn())),
    }
    source = SourceConfig(Secret(database.dsn()), slot=database.name, publication="p")
    flow = walcast.Pipeline(source, sinks, tmp_path, SETTINGS, mapping=MAPPING)
    running = asyncio.create_task(flow.run())
    try:
        await ready(flow, running, 30)
        await flow.wait_for(await flow.source.position(), timeout=20)
        disk.fill()
        fill(database, 1000, 2999)
        await flow.wait_for(await flow.source.position(), "other", timeout=30)
        told = await all_told(flow, ("docs", "net", "find"))
        for sink in told.values():
            assert sink.error is not None
            assert "full" in sink.error.message + sink.error.remedy, sink.error
        fill(database, 3000, 3999)
        await flow.wait_for(await flow.source.position(), "other", timeout=30)
        disk.free()
        await flow.reload()
        async with asyncio.timeout(30):
            while any(sink.state.value == "stopped" for sink in flow.status().sinks):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)
        await flow.wait_for(await flow.source.position(), timeout=60)
    finally:
        flow.stop()
        await running
    expected = dict(database.execute("select id::text, body from post"))
    assert len(expected) == 3200
    for copy in (small, other):
        assert dict(copy.execute("select id, body ->> 'body' from derived.post")) == expected
    found = SearchIndex(disk.folder / "find", "post").documents()
    assert {id_: body["body"] for id_, body in found} == expected
    assert dict(vertices(disk.folder / "net.lbug")) == expected


async def test_what_somebody_deleted_is_made_anew(
    database: Database, make_database: Callable[[PostgresServer], Database], tmp_path: Path
) -> None:
    copy = make_database(database.server)
    database.execute("create table post (id int primary key, body text); create publication p for table post")
    fill(database, 1, 20)
    search = SearchConfig(tmp_path / "find", memory=16 << 20)
    sinks = {"docs": DocumentsConfig(Secret(copy.dsn())), "find": search}
    source = SourceConfig(Secret(database.dsn()), slot=database.name, publication="p")

    @asynccontextmanager
    async def run() -> AsyncIterator[walcast.Pipeline]:
        flow = walcast.Pipeline(source, sinks, tmp_path / "state", SETTINGS, mapping=MAPPING)
        running = asyncio.create_task(flow.run())
        try:
            await ready(flow, running, 30)
            yield flow
        finally:
            flow.stop()
            await running

    def held() -> list[dict[str, str]]:
        index = SearchIndex(search.path, "post")
        there = copy.execute("select to_regclass('derived.post') is not null") == [(True,)]
        documents = dict(copy.execute("select id, body ->> 'body' from derived.post")) if there else {}
        return [documents, {id_: body["body"] for id_, body in index.documents()}]

    async def equal() -> None:
        expected = dict(database.execute("select id::text, body from post"))
        async with asyncio.timeout(30):
            while held() != [expected] * 2:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)

    async with run() as flow:
        await flow.wait_for(await flow.source.position(), timeout=20)
        await equal()
        copy.execute("drop table derived.post")
        fill(database, 21, 30)
        await equal()
    copy.execute("drop table derived.post")
    for folder in search.path.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    async with run():
        fill(database, 31, 40)
        await equal()


async def test_a_log_that_was_cut_off_costs_only_what_was_not_committed(tmp_path: Path) -> None:
    """As a crash of the machine leaves it."""
    context = SinkContext("p", "s", SourceIdentity(1, 1, 180000, "app"), ".")
    post = Collection("Post", "vertex", (("body", "text"),), "f")
    live, image = tmp_path / "g.lbug", tmp_path / "image.lbug"
    sizes = []
    async with GraphStore(GraphConfig(live), context) as store:
        await store.begin(post)
        await store.finish(post)
        for number in (1, 2):
            put = Put("Post", str(number), {"body": "x" * 20_000})
            at = Checkpoint(1, Position(Lsn(100 * number), 1), Lsn(100 * number + 50))
            await store.write(Derived(number, [put], checkpoint=at))
            await store.flush()
            sizes.append(Path(f"{live}.wal").stat().st_size)
        cuts = {sizes[1]: 2, sizes[1] - 1: 1, (sizes[0] + sizes[1]) // 2: 1, sizes[0] + 1: 1, sizes[0]: 1}
        logs = {cut: Path(f"{live}.wal").read_bytes()[:cut] for cut in cuts}
        data = live.read_bytes()
    for cut, last in cuts.items():
        image.write_bytes(data)
        Path(f"{image}.wal").write_bytes(logs[cut])
        async with GraphStore(GraphConfig(image), context) as store:
            held = await store.checkpoint()
            assert held is not None
            assert held.through == 100 * last + 50
            assert await store.ids(post, None) == ["1", "2"][:last]
            assert await store.examine() == []


def fill(database: Database, first: int, last: int) -> None:
    database.execute(sql.SQL(FILL).format(first, last))


async def all_told(flow: walcast.Pipeline, names: tuple[str, ...]) -> dict[str, SinkStatus]:
    """When each of these sinks has an error."""
    async with asyncio.timeout(30):
        while True:
            found = {sink.name: sink for sink in flow.status().sinks if sink.name in names and sink.error}
            if len(found) == len(names):
                return found
            await asyncio.sleep(0.05)


def vertices(path: Path) -> list[Any]:
    database = ladybug.Database(str(path), read_only=True)
    connection = ladybug.Connection(database)
    try:
        result = connection.execute("match (n:Post) where n._ghost = false return n._key, n.body")
        assert not isinstance(result, list)
        with result:
            return result.get_all()
    finally:
        connection.close()
        database.close()
