"""A first copy over several connections: equal, attributed to the right table, marked like everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

import pytest
from postgres_copy import Copying, copying

from walcast.model import Batch, TableId, TableStopped
from walcast.testing.postgres import Database, PostgresServer

SMALL = {"snapshot_chunk_rows": 500, "snapshot_workers": 2}
Pair = tuple[Database, Database]


@pytest.fixture
def pair(shared_postgres: Callable[[int], PostgresServer], make_database: Callable[..., Database]) -> Pair:
    server = shared_postgres(18)
    origin, target = make_database(server), make_database(server)
    for name in ("a", "b"):
        origin.execute(f"create table {name} (id int primary key, t text)")
        origin.execute(f"insert into {name} select n, 'row ' || n from generate_series(1, 10000) n")
    return origin, target


@pytest.mark.parametrize("connections", [0, 1, 3])
async def test_chunks_written_side_by_side_make_an_equal_copy(pair: Pair, connections: int) -> None:
    async with copying(*pair, source=SMALL, snapshot_connections=connections) as copy:
        copy.assert_equal("a", "b")
        await copy.run("insert into a values (0, 'later')", "update b set t = 'changed' where id < 100")
        copy.assert_equal("a", "b")
        await copy.snapshot("a")
        copy.assert_equal("a", "b")


async def test_the_crew_is_dismissed_when_the_stream_begins(pair: Pair) -> None:
    count = (
        "select count(*) from pg_stat_activity where datname = %s and application_name = 'walcast:test:copy'"
    )
    async with copying(*pair, source=SMALL) as copy:
        assert pair[1].execute(count, [pair[1].name]) == [(3,)]
        await copy.run("insert into a values (0, 'later')")
        assert pair[1].execute(count, [pair[1].name]) == [(1,)]


async def test_a_row_that_a_connection_cannot_write_stops_its_table_only(pair: Pair) -> None:
    pair[1].execute("create table a (id int primary key, t text check (t <> 'row 4000'))")
    async with copying(*pair, snapshot=False, source=SMALL) as copy:
        stopped = await _snapshot(copy)
        assert stopped == {TableId("public", "a")}
        copy.assert_equal("b")
        await copy.run("insert into b values (0, 'later')")
        copy.assert_equal("b")


async def test_closing_in_the_middle_of_a_chunk_leaves_a_copy_that_can_be_made_anew(pair: Pair) -> None:
    async with copying(*pair, snapshot=False, source=SMALL) as copy:
        tables = [item.table for item in await copy.source.tables()]
        written = 0
        async with aclosing(cast("AsyncGenerator[Batch, None]", copy.source.snapshot(tables))) as chunks:
            async for chunk in chunks:
                await copy.put(chunk)
                written += 1
                if written == 6:
                    break
        async with asyncio.timeout(10):
            await copy.reopen()
        await copy.snapshot()
        copy.assert_equal("a", "b")


async def _snapshot(copy: Copying) -> set[TableId]:
    """As the pipeline does it: a table that stops is left out, and the others go on."""
    stopped: set[TableId] = set()
    tables = [item.table for item in await copy.source.tables()]
    async with aclosing(cast("AsyncGenerator[Batch, None]", copy.source.snapshot(tables))) as chunks:
        async for chunk in chunks:
            if chunk.relations[0].table in stopped:
                continue
            try:
                await copy.put(chunk)
            except TableStopped as error:
                stopped.add(error.table)
    await copy.sink.flush()
    copy.stopped = {table: TableStopped(table, "stopped") for table in stopped}
    return stopped
