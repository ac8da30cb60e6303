"""Both decoders show the same of what real servers sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import PGconn
from tests.property import samples as sampled
from tests.property.equality import assert_equal_changes, assert_equal_frames, flattened, taken

from walcast.decode import NATIVE, TWIN
from walcast.testing.postgres import Database, PostgresServer

pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native module is not there")

SLOT = "captured"
WORKLOAD: list[LiteralString] = [
    "create table app.orders (id int primary key, body text, amount numeric(10,2))",
    "alter table app.orders alter column body set storage external",
    "create table app.lines (a int, b text, unique (a, b))",
    "alter table app.lines replica identity full",
    "insert into app.orders select n, repeat(md5(n::text), 100), n / 7.0 from generate_series(1, 50) n",
    "update app.orders set amount = amount + 1 where id <= 20",
    "update app.orders set id = id + 1000 where id <= 5",
    "delete from app.orders where id % 10 = 0",
    "insert into app.lines values (1, 'x'), (2, null)",
    "update app.lines set b = 'y' where a = 2",
    "delete from app.lines where a = 1",
    "alter table app.orders add column extra jsonb default '{}'",
    "insert into app.orders values (2000, '', 0, '[1, 2]')",
    "truncate app.lines, app.orders restart identity cascade",
    """do $$ begin
        insert into app.lines select n, repeat(md5(n::text), 3) from generate_series(1, 700) n;
        begin
            insert into app.lines select n, 'gone' from generate_series(1, 700) n;
            raise exception 'undone';
        exception when others then null;
        end;
        insert into app.lines select n, 'kept' from generate_series(1, 700) n;
    end $$""",
    "begin; alter table app.lines add column c timestamptz; insert into app.lines values (9, 'z', 'infinity'); commit",
]
MESSAGES: list[LiteralString] = [
    "select pg_logical_emit_message(true, 'greeting', 'hello')",
    "select pg_logical_emit_message(false, 'greeting', 'outside')",
]
LAST: LiteralString = "insert into app.orders values (7777, 'the last one', 0)"


@pytest.fixture(scope="module", params=(13, 18), ids=lambda version: f"pg{version}")
def published(
    request: pytest.FixtureRequest, shared_postgres: Callable[[int], PostgresServer]
) -> Iterator[tuple[Database, list[Any]]]:
    """A database whose slot has the workload before it, and rows of every type; and its types."""
    database = Database.create(shared_postgres(request.param))
    with psycopg.connect(database.dsn(), options=sampled.SETTINGS, autocommit=True) as connection:
        types = sampled.load(connection, request.param)
        columns = sql.SQL(", ").join(
            sql.SQL("c{} {}").format(sql.SQL(str(n)), sql.SQL(kind.name))
            for n, kind in enumerate(types.types)
        )
        connection.execute(sql.SQL("create table app.wide (id int primary key, {})").format(columns))
        connection.execute("create publication p for all tables")
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
        for row in range(max(len(kind.values) for kind in types.types)):
            values = [
                kind.values[row][0].decode() if row < len(kind.values) else None for kind in types.types
            ]
            marks = sql.SQL(", ").join([sql.SQL("%s")] * (len(values) + 1))
            connection.execute(sql.SQL("insert into app.wide values ({})").format(marks), [row, *values])
        for statement in [*WORKLOAD, *(MESSAGES if request.param >= 14 else []), LAST]:
            connection.execute(statement)
    yield database, types.given
    database.drop()


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_what_a_server_sent_is_shown_the_same_by_both(
    published: tuple[Database, list[Any]], binary: bool, streaming: bool, tmp_path: Any
) -> None:
    database, given = published
    version = database.server.version
    if version < 14 and (binary or streaming):
        pytest.skip("protocol 1 has neither")
    assert NATIVE is not None
    frames = captured(database, version, binary=binary, streaming=streaming)
    assert any(frame[25:26] == b"S" for frame in frames) == streaming
    catalogs = NATIVE.Catalog(given), TWIN.Catalog(given)
    natives, twins = (taken(each, frames, str(tmp_path), memory=10_000) for each in (NATIVE, TWIN))
    assert flattened(natives) == flattened(twins)
    assert [item.through for item in natives] == [item.through for item in twins]
    for native, twin in zip(natives, twins, strict=True):
        if native.frames is not None:
            assert_equal_frames(native.frames, twin.frames, catalogs)
            assert_equal_changes(native, twin, catalogs, given)
    counted = [entry[0] for entry in flattened(twins)]
    # 700 lines were undone by their subtransaction.
    assert counted.count(b"I") == len(published_rows(database)) + 50 + 2 + 1 + 1_400 + 1 + 1
    assert (counted.count(b"T"), counted.count(b"M")) == (2, 2 if version >= 14 else 0)


def published_rows(database: Database) -> list[Any]:
    return database.execute("select id from app.wide")


def captured(database: Database, version: int, *, binary: bool, streaming: bool) -> list[bytes]:
    """All frames from the slot's beginning on; nothing is confirmed, so that it can be asked again."""
    options = ["publication_names 'p'", f"proto_version '{1 if version < 14 else 2}'"]
    if version >= 14:
        options += ["messages 'true'", *(["binary 'true'"] if binary else [])]
        options += ["streaming 'on'"] if streaming else []
    settings = f"{sampled.SETTINGS} -c logical_decoding_work_mem=64kB"
    pgconn = PGconn.connect(database.dsn(replication="database", options=settings).encode())
    try:
        pgconn.exec_(f"START_REPLICATION SLOT {SLOT} LOGICAL 0/0 ({', '.join(options)})".encode())
        frames: list[bytes] = []
        last = False
        while not (last and frames[-1][25:26] in (b"C", b"c")):
            size, data = pgconn.get_copy_data(0)
            assert size > 0, pgconn.get_result()
            frames.append(bytes(data))
            last |= b"the last one" in frames[-1]
        return frames
    finally:
        pgconn.finish()
