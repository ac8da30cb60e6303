"""A commit's three outcomes, and finding out about the unknown one: also after a failover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from tests import cluster_tools as tools

from walcast.cluster import operations as op
from walcast.cluster.commit import Outcome, commit, commit_sync, resolve
from walcast.cluster.guarantee import guarantee, waits_for
from walcast.cluster.local import LocalCluster
from walcast.cluster.observed import Waiting
from walcast.model import OperatorError


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A primary and two replicas, semi-sync."""

    async def make(folder: Path) -> None:
        async with tools.running(folder, tools.desired()):
            pass

    with tools.folder() as folder:
        asyncio.run(make(folder))
        yield folder


@pytest_asyncio.fixture
async def cluster(home: Path) -> AsyncIterator[LocalCluster]:
    """With a table; put right after each test."""
    async with LocalCluster.open(home) as opened:
        tools.write(opened, 0)
        yield opened
        await tools.restored(opened)


async def insert(cluster: LocalCluster, number: int) -> psycopg.AsyncConnection[Any]:
    """A connection with a row that is not committed yet."""
    connection = await psycopg.AsyncConnection.connect(cluster.dsn("node1"), application_name="client")
    await connection.execute("insert into notes values (%s)", [number])
    return connection


async def alone(cluster: LocalCluster) -> None:
    """No replica answers."""
    await cluster.change(lambda desired: op.linked(desired, "node1", "cut"))


async def waiting(cluster: LocalCluster) -> Waiting:
    """The client's commit as the server shows it, once it waits."""
    while True:
        primary = (await cluster.observe()).primary
        assert primary is not None
        assert primary.facts is not None
        for session in primary.facts.waiting:
            if session.application == "client":
                return session
        await asyncio.sleep(0.02)


async def unknown(cluster: LocalCluster, number: int) -> Outcome:
    """A commit whose server is killed while it waits."""
    async with await insert(cluster, number) as connection:
        task = asyncio.create_task(commit(connection))
        await waiting(cluster)
        cluster.instance("node1").kill()
        return await task


async def test_a_commit_that_replicas_have_is_replicated_and_gives_a_token(cluster: LocalCluster) -> None:
    async with await insert(cluster, 1) as connection:
        outcome = await commit(connection)
    assert outcome.kind == "replicated"
    assert outcome.committed
    assert outcome.token is not None
    observed = await cluster.observe()
    assert observed.primary is not None
    assert observed.primary.facts is not None
    assert outcome.token.system_id == observed.primary.facts.system_id
    assert outcome.token.lsn > outcome.attempt.before


async def test_a_wait_that_is_called_off_leaves_the_row_and_says_so(cluster: LocalCluster) -> None:
    await alone(cluster)
    async with await insert(cluster, 1) as connection:
        outcome = await commit(connection, timeout=0.3)
        assert outcome.kind == "local"
        await connection.execute("insert into notes values (2)")
        task = asyncio.create_task(commit(connection))
        await waiting(cluster)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert tools.rows(cluster, "node1") == [1, 2]
    with psycopg.connect(cluster.dsn("node1")) as blocking:
        blocking.execute("insert into notes values (3)")
        assert commit_sync(blocking, timeout=0.3).kind == "local"
    assert tools.rows(cluster, "node1") == [1, 2, 3]


async def test_a_wait_is_shown_with_what_it_waits_for(cluster: LocalCluster) -> None:
    await cluster.change(lambda desired: op.paused(desired, "node2", freeze=True))
    await cluster.change(lambda desired: op.stopped(desired, "node3"))
    async with await insert(cluster, 1) as connection:
        task = asyncio.create_task(commit(connection))
        session = await waiting(cluster)
        observed = await cluster.observe()
        assert session.user == "app"
        assert waits_for(observed) == "1 of node2, node3 to flush it (node2 is frozen; node3 is down)"
        assert guarantee(observed).commits == "wait"
        assert not task.done()
        await cluster.change(lambda desired: op.started(desired, "node3"))
        assert (await task).kind == "replicated"


async def test_a_server_that_stops_under_a_waiting_commit_says_that_it_is_local(
    cluster: LocalCluster,
) -> None:
    await alone(cluster)
    async with await insert(cluster, 1) as connection:
        task = asyncio.create_task(commit(connection))
        await waiting(cluster)
        await cluster.change(lambda desired: op.stopped(desired, "node1"))
        outcome = await task
    assert outcome.kind == "local"
    assert "ended the connection" in outcome.reason
    await cluster.change(op.all_running)
    assert tools.rows(cluster, "node1") == [1]


async def test_an_unknown_commit_is_found_after_a_restart(cluster: LocalCluster) -> None:
    await alone(cluster)
    outcome = await unknown(cluster, 1)
    assert outcome.kind == "unknown"
    assert outcome.committed is None
    await cluster.converge()
    found = await resolve(outcome, cluster.dsn("node1"))
    assert found.kind == "local"
    assert tools.rows(cluster, "node1") == [1]
    async with await insert(cluster, 2) as connection:
        xid = await (await connection.execute("select pg_current_xact_id()::text")).fetchone()
        await connection.rollback()
    assert xid is not None
    never = Outcome(
        "unknown", type(outcome.attempt)(outcome.attempt.system_id, 1, int(xid[0]), outcome.attempt.before), 0
    )
    assert (await resolve(never, cluster.dsn("node1"))).kind == "rolled back"


async def test_a_number_that_the_new_primary_gave_to_another_transaction_does_not_deceive(
    cluster: LocalCluster,
) -> None:
    tools.write(cluster, 1)
    await alone(cluster)
    outcome = await unknown(cluster, 50)
    await cluster.change(lambda desired: op.promoted(desired, "node2"))
    await cluster.change(lambda desired: op.resumed(op.rejoined(desired, "node3"), "node3"))
    tools.write(cluster, 20, start=100)  # these get the numbers again
    assert outcome.attempt.xid is not None
    with tools.connect(cluster, "node2") as connection:
        status = connection.execute(
            "select pg_xact_status(%s::text::xid8)", [str(outcome.attempt.xid)]
        ).fetchone()
    assert status == ("committed",)  # the number alone lies
    found = await resolve(outcome, cluster.dsn("node2", role="postgres", database="postgres"))
    assert found.kind == "rolled back"
    assert 50 not in tools.rows(cluster, "node2")
    without_rights = await resolve(outcome, cluster.dsn("node2"))
    assert without_rights.kind == "unknown"
    assert "rights" in without_rights.reason


async def test_another_system_is_not_asked(cluster: LocalCluster) -> None:
    async with await insert(cluster, 1) as connection:
        attempt = (await commit(connection)).attempt
    strange = Outcome("unknown", type(attempt)(attempt.system_id + 1, 1, attempt.xid, attempt.before), 0)
    with pytest.raises(OperatorError, match="another system"):
        await resolve(strange, cluster.dsn("node1"))
    known = Outcome("unknown", attempt, 0)
    assert "replica" in (await resolve(known, cluster.dsn("node2"))).reason
