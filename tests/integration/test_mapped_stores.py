"""One real source, every store beside the others: what texts, keys and references may be, and who goes on when one cannot."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.flow_tools import running

import walcast
from walcast.app.comparing import Comparison
from walcast.app.compose import connect_source
from walcast.engine import PipelineSettings
from walcast.mapping import DataMapping, Document, Edge, End, Field, Nested, Route, Vertex
from walcast.model.secret import Secret
from walcast.postgres.source import SourceConfig
from walcast.sinks.arangodb import ArangoDBConfig
from walcast.sinks.documents import DocumentsConfig
from walcast.sinks.graph import GraphConfig
from walcast.sinks.neo4j import Neo4jConfig
from walcast.sinks.search import SearchConfig
from walcast.testing.arangodb import ContractArangoDB
from walcast.testing.neo4j import Neo4jServer
from walcast.testing.postgres import Database, PostgresServer
from walcast.verify.report import Report, TableReport
from walcast.verify.run import Options

pytestmark = pytest.mark.xdist_group("neo4j")

SETTINGS = PipelineSettings(serve=False, backoff_first=0.05, backoff_most=0.2, retry_limit=60)
SCHEMA = """
create table person (id int primary key, shop text not null, name text not null unique, bio text, lang text, boss int,
    gone timestamptz, data json, more jsonb, score numeric, ratio float8);
create table follows (a int, b int, note text, primary key (a, b));
create index on person (boss);
alter table person alter column bio set storage external;
create publication p for table person, follows;
"""
_BOSS = {"name": "name", "data": "data"}
MAPPING = DataMapping(
    documents={
        "people": Document(
            "person",
            route=Route("lang", {"en": "people_en", "de": "people_de"}, otherwise="people"),
            tenant="shop",
            deleted="gone",
            nested={
                "boss_of": Nested("person", on={"boss": "id"}, fields={"name": "name"}, deleted="gone"),
                "above": Nested(
                    "person",
                    on={"id": "boss"},
                    many=False,
                    fields=_BOSS,
                    nested={"above": Nested("person", on={"id": "boss"}, many=False, fields=_BOSS)},
                ),
            },
        ),
        "names": Document(
            "person", id=("name",), fields={"bio": "bio", "shout": Field(template="{name}! {data}")}
        ),
    },
    vertices={
        "Person": Vertex("person", tenant="shop", deleted="gone"),
        "Named": Vertex("person", id=("name",), fields={"bio": "bio", "data": "data"}),
    },
    edges={
        "FOLLOWS": Edge("follows", End("Plain", ("a",)), End("Plain", ("b",)), fields={"note": "note"}),
        "UNDER": Edge(
            "person", End("Plain", ("id",)), End("Plain", ("boss",)), fields={"bio": "bio"}, deleted="gone"
        ),
    },
)
MAPPING.vertices["Plain"] = Vertex("person", fields={"data": "data", "more": "more"})  # type: ignore[index]

TEXTS = (
    "plain",
    "",
    " ",
    "quotes ' \" ` ´ \\ \\n",
    "{braces} $dollar %s %25 @at; -- /* #",
    "a:b%3Ac/d?e#f[0]",
    "line\nfeed\ttab\rreturn\x01\x1f\x7f\x85",
    "\u200b\u202e\ufeff zero width, right to left",
    "\ufffd\ufffe\uffff",
    "e\u0301 é ﬀ İ ß 𝔘 😀 \U0010ffff",
    "null",
    "true",
    "_key",
    "../..",
    "word " * 3000,
    "x" * 40_000,
)
JSON = (
    None,
    "null",
    '"text"',
    r'"nul \u0000, lone \ud800 and \udfff"',
    r'{"nul\u0000": "\udc00\ud800", "pair": "\ud83d\ude00"}',
    '{"": 1, "a.b": 2, "a": {"b": 3}, "$where": "_id", "_key": [], "_body": {}}',
    '[1, [2, [3, {}]], {"a": [null, true, 1.5, "x"]}, []]',
    '{"n": 123456789012345678901234567890, "e": 1e400, "i": 9223372036854775808, "m": -9223372036854775809}',
    '{"same": 1, "same": "2"}',
    '[{"a": 1}, {"a": "text"}, {"a": {"b": [1]}}, {"b": null}]',
    '{"when": "2020-01-01T00:00:00Z", "v": true}',
    '{"when": 5, "v": {"deep": 1}}',
    '{"a":' * 60 + "1" + "}" * 60,
    "[" * 500 + "]" * 500,
)
STATEMENTS = (
    "update person set data = %(json)s::json, more = %(jsonb)s::jsonb where id = %(one)s",
    "update person set lang = %(lang)s where id = %(one)s",
    "update person set shop = %(shop)s where id = %(one)s",
    "update person set boss = %(two)s where id = %(one)s",
    "update person set boss = id where id = %(one)s",
    "update person set gone = case when gone is null then now() end where id = %(one)s",
    "update person set id = %(free)s where id = %(one)s",
    "update person set name = left(%(text)s, 18) || %(free)s where id = %(one)s",
    "update person set bio = %(text)s where id = %(one)s",
    "update person set score = %(one)s / 7.0, ratio = (array['NaN', 'Infinity', '-Infinity', '1e-300', '-0'])[1 + %(two)s %% 5]::float8 where id = %(one)s",
    "delete from person where id = %(one)s",
    "insert into person (id, shop, name, bio, lang, boss, data) values (%(free)s, %(shop)s, left(%(text)s, 18) || %(free)s, %(text)s,"
    " %(lang)s, %(two)s, %(json)s::json) on conflict do nothing",
    "insert into follows values (%(one)s, %(two)s, %(text)s) on conflict (a, b) do update set note = excluded.note",
    "insert into follows values (%(one)s, %(one)s, 'self') on conflict do nothing",
    "insert into follows values (%(one)s, 9000 + %(two)s, 'to nobody yet') on conflict do nothing",
    "update follows set b = %(two)s where a = %(one)s and not exists (select from follows o where o.a = %(one)s and o.b = %(two)s)"
    " and b = (select min(b) from follows o where o.a = %(one)s)",
    "delete from follows where a = %(one)s",
)


@pytest.fixture
def arangodb() -> Iterator[ContractArangoDB]:
    with ContractArangoDB() as double:
        yield double


@pytest.fixture
def copies(database: Database, make_database: Callable[[PostgresServer], Database]) -> Database:
    return make_database(database.server)


def every_store(
    copies: Database, neo4j: Neo4jServer, arangodb: ContractArangoDB, folder: Path
) -> dict[str, Any]:
    neo4j.wipe()
    return {
        "documents": DocumentsConfig(Secret(copies.dsn())),
        "search": SearchConfig(folder / "search", memory=16 << 20),
        "graph": GraphConfig(folder / "graph.lbug"),
        "neo4j": Neo4jConfig(neo4j.uri, Secret(neo4j.password)),
        "arangodb": ArangoDBConfig(arangodb.url, Secret(arangodb.password), timeout=20),
    }


@asynccontextmanager
async def copying(
    database: Database, sinks: dict[str, Any], state: Path, mapping: DataMapping
) -> AsyncIterator[walcast.Pipeline]:
    source = SourceConfig(Secret(database.dsn()), slot=database.name, publication="p")
    flow = walcast.Pipeline(source, sinks, state, SETTINGS, mapping=mapping)
    async with running(flow, 40):
        yield flow


async def caught_up(flow: walcast.Pipeline) -> None:
    await flow.wait_for(await flow.source.position(), timeout=60)


async def compared(flow: walcast.Pipeline, sink: str) -> list[TableReport]:
    """Each collection of this sink beside what the source makes of it."""
    source = flow.source
    report = Report(sink, "", "", "", 1, 0.0)
    async with await connect_source(source.config, "verify") as connection:  # type: ignore[attr-defined]  # PostgreSQL's
        await Comparison(connection, partial(flow.hold, sink), Options(), report).run()
    return report.tables


def history(database: Database, steps: int, seed: int) -> None:
    pick = random.Random(seed)
    with database.connect() as connection:
        for _ in range(steps):
            with connection.transaction():
                for statement in pick.choices(STATEMENTS, k=pick.randint(1, 3)):
                    values = {
                        "one": pick.randint(1, 12),
                        "two": pick.randint(1, 12),
                        "free": pick.randint(1, 30),
                        "text": pick.choice(TEXTS),
                        "json": pick.choice(JSON),
                        "jsonb": pick.choice([text for text in JSON if text is None or "\\u" not in text]),
                        "lang": pick.choice(("en", "de", "fr", None)),
                        "shop": pick.choice(("s1", "s:2", "")),
                    }
                    with contextlib.suppress(psycopg.errors.UniqueViolation), connection.transaction():
                        connection.execute(statement, values)  # type: ignore[call-overload]  # a constant


async def test_any_text_and_any_reference_reaches_every_store(
    database: Database,
    copies: Database,
    neo4j_server: Neo4jServer,
    arangodb: ContractArangoDB,
    tmp_path: Path,
) -> None:
    database.execute(SCHEMA)
    with database.connect() as connection:
        for number, text in enumerate(TEXTS):
            connection.execute(
                "insert into person (id, shop, name, bio, lang, boss, data) values (%s, 's1', %s, %s, 'en', %s, %s)",
                [number + 1, text[:18], text, (number + 1) % 12, JSON[number % len(JSON)]],
            )
    sinks = every_store(copies, neo4j_server, arangodb, tmp_path)
    async with copying(database, sinks, tmp_path / "state", MAPPING) as flow:
        for seed in range(2):
            await asyncio.to_thread(history, database, 60, seed)
            await caught_up(flow)
            assert {sink.name: sink.dead_letters for sink in flow.status().sinks} == dict.fromkeys(sinks, 0)
            for name in sinks:
                for table in await compared(flow, name):
                    assert table.state == "equal", (name, table)
                    assert table.rows, (name, table)
