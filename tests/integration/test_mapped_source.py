"""Documents in step with a real source: every kind of change, restarts, and commits that are streamed before they are visible."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.flow_tools import running

from walcast import Pipeline
from walcast.engine import PipelineSettings
from walcast.mapping import (
    DataMapping,
    Document,
    Edge,
    End,
    Nested,
    Through,
    Vertex,
    assemble,
    compile_mapping,
    tables_of,
)
from walcast.model import SourceUnavailable
from walcast.model.secret import Secret
from walcast.postgres.rereader import PostgresReader
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.documents import DocumentsConfig
from walcast.testing.postgres import Database, PostgresServer

SCHEMA = """
create table users (id bigint generated always as identity primary key, name text not null unique, bio text);
create table post (id uuid primary key default gen_random_uuid(), author_id bigint references users on delete cascade,
    title varchar(40), body text, price numeric(10,2), created timestamptz not null default now());
create table comment (id int generated always as identity primary key, post_id uuid references post on delete cascade,
    author_id bigint references users on delete set null on update cascade, text text);
create table tag (label text primary key);
create table post_tag (post_id uuid references post on delete cascade, label text references tag on update cascade
    on delete cascade, primary key (post_id, label));
create table follows (a bigint references users on delete cascade, b bigint references users on delete cascade,
    primary key (a, b));
create index on comment (post_id); create index on comment (author_id); create index on post (author_id);
create index on post_tag (label);
alter table post alter column body set storage external;
create publication p for all tables;
"""
MAPPING = DataMapping(
    documents={
        "posts": Document(
            "post",
            nested={
                "author": Nested("users", on={"id": "author_id"}, many=False, fields={"name": "name"}),
                "comments": Nested(
                    "comment",
                    on={"post_id": "id"},
                    nested={
                        "by": Nested("users", on={"id": "author_id"}, many=False, fields={"name": "name"})
                    },
                ),
                "tags": Nested(
                    "tag", through=Through("post_tag", ours={"post_id": "id"}, theirs={"label": "label"})
                ),
            },
        ),
        "people": Document("users", id=("name",)),
    },
    vertices={"User": Vertex("users", fields={"name": "name"})},
    edges={"FOLLOWS": Edge("follows", End("User", ("a",)), End("User", ("b",)))},
)
STATEMENTS = (
    "insert into users (name, bio) select 'user ' || gen_random_uuid(), repeat('bio ', 800)",
    "insert into post (author_id, title, body, price) select id, 'title', repeat(md5(random()::text), 120), 1.50"
    " from users order by random() limit 1",
    "insert into comment (post_id, author_id, text) select p.id, u.id, 'text' from post p, users u order by random() limit 2",
    "insert into tag select 'tag ' || gen_random_uuid()",
    "insert into post_tag select p.id, t.label from post p, tag t order by random() limit 2 on conflict do nothing",
    "insert into follows select a.id, b.id from users a, users b order by random() limit 2 on conflict do nothing",
    "update users set name = name || '!' where id = (select id from users order by random() limit 1)",
    "update users set bio = 'short' where id = (select id from users order by random() limit 1)",
    "update post set title = 'title ' || random()::text::varchar(20) where id = (select id from post order by random() limit 1)",
    "update post set id = gen_random_uuid() where id = (select id from post where not exists (select from comment c"
    " where c.post_id = post.id) and not exists (select from post_tag t where t.post_id = post.id) limit 1)",
    "update comment set post_id = (select id from post order by random() limit 1) where id in"
    " (select id from comment order by random() limit 3)",
    "update tag set label = label || '+' where label = (select label from tag order by random() limit 1)",
    "delete from comment where id in (select id from comment order by random() limit 1)",
    "delete from post_tag where ctid in (select ctid from post_tag order by random() limit 1)",
    "delete from post where id in (select id from post order by random() limit 1) and random() < 0.4",
    "delete from users where id in (select id from users order by random() limit 1) and random() < 0.2",
)
SETTINGS = PipelineSettings(serve=False, retry_limit=20)


def work(database: Database, transactions: int, seed: int = 1) -> None:
    """A random history."""
    pick = random.Random(seed)
    with database.connect() as connection:
        for _ in range(transactions):
            with connection.transaction():
                for statement in pick.choices(STATEMENTS, k=pick.randint(1, 4)):
                    connection.execute(statement)
                if pick.random() < 0.1:
                    raise psycopg.Rollback


@asynccontextmanager
async def pipeline(
    database: Database, state: Path, mapping: DataMapping = MAPPING
) -> AsyncIterator[Pipeline]:
    """Documents in the source's own database, running."""
    # The copy's tables are not published: the publication names the tables of the mapping.
    source = SourceConfig(
        dsn=Secret(database.dsn()), slot=database.name, publication="p", exclude=("derived.*",)
    )
    sinks = {"documents": DocumentsConfig(Secret(database.dsn()))}
    flow = Pipeline(source, sinks, state, SETTINGS, mapping=mapping)
    async with running(flow):
        yield flow


async def caught_up(database: Database, flow: Pipeline) -> None:
    """Until the documents have everything."""
    position = await flow.source.position()
    async with asyncio.timeout(30):
        while True:
            flow.source.poke()
            (sink,) = flow.status().sinks
            assert sink.error is None, sink.error
            if sink.checkpoint is not None and sink.checkpoint.through >= position:
                return
            await asyncio.sleep(0.02)


async def expected(database: Database, mapping: DataMapping = MAPPING) -> dict[str, dict[str, Any]]:
    """A rebuild from scratch."""
    found: dict[str, dict[str, Any]] = {}
    async with PostgresReader(Secret(database.dsn()), "test") as reader:
        plan = compile_mapping(mapping, await reader.relations(tables_of(mapping)))
        for target in plan.targets:
            async with reader.view(()) as view:
                root = target.root
                rows = await view.page(root.table, root.columns, root.key, None, 100_000)
                found[target.name] = {put.id: put.body for put in await assemble(view, target, rows)}
    return found


def content(database: Database, mapping: DataMapping = MAPPING) -> dict[str, dict[str, Any]]:
    names = [*mapping.documents, *mapping.vertices, *mapping.edges]
    return {name: dict(database.execute(f'select id, body from derived."{name}"')) for name in names}  # type: ignore[arg-type]


async def test_documents_equal_a_rebuild_after_a_random_history_with_restarts(
    database: Database, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    work(database, 30)
    for seed in range(3):
        async with pipeline(database, tmp_path) as flow:
            await asyncio.to_thread(work, database, 40, seed)
            if seed:
                await caught_up(database, flow)
                assert content(database) == await expected(database)
                assert len(content(database)["posts"]) > 3


async def test_another_mapping_is_filled_beside_the_stream(database: Database, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    work(database, 60)
    async with pipeline(database, tmp_path) as flow:
        await caught_up(database, flow)
    changed = DataMapping(
        documents={"posts": Document("post", fields={"heading": "title"}), "tags": Document("tag")}
    )
    async with pipeline(database, tmp_path, changed) as flow:
        work(database, 30, seed=9)
        await caught_up(database, flow)
        async with asyncio.timeout(20):
            while content(database, changed) != await expected(database, changed):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)
    assert database.execute("select to_regclass('derived.people')") == [(None,)]


async def test_the_connection_that_reads_again_may_be_lost(database: Database, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    async with pipeline(database, tmp_path) as flow:
        ended = 0
        for seed in range(4):
            await asyncio.to_thread(work, database, 10, seed)
            ended += len(
                database.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name like 'walcast:%:read' and datname = current_database()"
                )
            )
            await asyncio.to_thread(work, database, 10, seed + 10)
        assert ended
        async with asyncio.timeout(20):
            while content(database) != await expected(database):  # no event
                flow.source.poke()
                await asyncio.sleep(0.05)
        assert flow.status().sinks[0].retries


async def test_a_server_of_another_history_is_not_read(database: Database) -> None:
    async with PostgresSource(database.dsn()) as source:
        here = source.identity
    for other in (replace(here, timeline=2), replace(here, system_id=1)):
        with pytest.raises(SourceUnavailable, match="another history"):
            await PostgresReader(Secret(database.dsn()), "test", other).__aenter__()
    async with PostgresReader(Secret(database.dsn()), "test", here) as reader:
        before = reader.shown
        database.execute("select pg_logical_emit_message(true, 'x', 'x')")
        async with reader.view(()):
            assert reader.shown > before


@pytest.fixture
def waiting_server(postgres_factory: Callable[..., PostgresServer]) -> PostgresServer:
    """Whoever sets synchronous_commit to on waits for a standby that is not there."""
    settings = {"synchronous_standby_names": "ghost", "synchronous_commit": "local"}
    return postgres_factory(18, settings=settings)


@contextlib.contextmanager
def committing(database: Database, statement: str) -> Iterator[None]:
    """A session whose commit waits until nobody waits any longer."""

    def run() -> None:
        with database.connect() as connection:
            connection.execute("set synchronous_commit = on")
            connection.execute(statement)  # type: ignore[call-overload]  # a test's own

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        database.server.execute("alter system set synchronous_standby_names = ''")
        database.server.execute("select pg_reload_conf()")
        thread.join()


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_child_that_is_streamed_before_it_is_visible_reaches_its_document(
    waiting_server: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
    tmp_path: Path,
    restarted: bool,
) -> None:
    database = make_database(waiting_server)
    database.execute(SCHEMA)
    database.execute("insert into users (name) values ('ann')")
    database.execute("insert into post (author_id, title) values (1, 'one')")
    async with contextlib.AsyncExitStack() as stack:
        flow = await stack.enter_async_context(pipeline(database, tmp_path))
        await caught_up(database, flow)
        with committing(database, "insert into comment (post_id, text) select id, 'late' from post"):
            (before,) = content(database)["posts"].values()
            assert before["comments"] == []
            await _streamed(database)
            if restarted:
                await stack.aclose()
                flow = await stack.enter_async_context(pipeline(database, tmp_path))
            await asyncio.sleep(0.3)
            (still,) = content(database)["posts"].values()
            assert still["comments"] == [], "nothing may be written of what is not visible"
        await caught_up(database, flow)
        assert content(database) == await expected(database)
        (after,) = content(database)["posts"].values()
        assert [comment["text"] for comment in after["comments"]] == ["late"]


async def _streamed(database: Database) -> None:
    """Until the walsender has sent all that there is."""
    async with asyncio.timeout(10):
        query = "select sent_lsn < pg_current_wal_insert_lsn() from pg_stat_replication"
        while database.execute(query) != [(False,)]:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.02)
