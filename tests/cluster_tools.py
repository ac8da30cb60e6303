"""Clusters for tests: on free ports, below /tmp (the servers' user must reach them), gone afterwards."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from walcast.app.cluster_making import programs
from walcast.cluster import operations as op
from walcast.cluster.desired import Desired
from walcast.cluster.directory import Directory as Directory
from walcast.cluster.local import LocalCluster
from walcast.cluster.observed import Observed
from walcast.cluster.profiles import parse
from walcast.postgres.local.process import Watchdog


def desired(replicas: int = 2, profile: str = "semi-sync", major: int = 18, **options: Any) -> Desired:
    """A newborn cluster on free ports."""
    binaries = programs(str(major))
    made = op.born(
        replicas=replicas,
        profile=parse(profile),
        major=major,
        bindir=str(binaries.bindir),
        tls=options.pop("tls", False),
        archive=options.pop("archive", False),
        base_port=None,
    )
    return op.on_free_ports(replace(made, durable=False))


def port_for(count: int) -> int:
    """The first of so many neighbouring ports that are free, where nobody looks for one by default: other clusters come up
    beside this one, also while its servers are down."""
    while True:
        base = random.randrange(10_000, 32_000)
        with ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return base


@contextmanager
def folder() -> Iterator[Path]:
    """A place for a cluster; whatever runs there afterwards is ended."""
    root = Path(tempfile.mkdtemp(prefix="walcast-cluster-", dir="/tmp"))
    root.chmod(0o755)
    watchdog = Watchdog(root)
    try:
        yield root
    finally:
        watchdog.close()
        if (root / "cluster.json").exists():
            cluster = LocalCluster.open(root)
            for node in cluster.desired.nodes:
                cluster.instance(node.name).kill()
            cluster.end_links()
        shutil.rmtree(root, ignore_errors=True)


@asynccontextmanager
async def running(root: Path, wanted: Desired) -> AsyncIterator[LocalCluster]:
    """A cluster, started."""
    async with LocalCluster.create(root, wanted) as cluster:
        plan = await cluster.converge()
        assert not plan.steps
        assert not plan.blocked, plan.blocked
        yield cluster


async def restored(cluster: LocalCluster) -> None:
    """Back to three well nodes, node1 first, semi-sync, without tables: for the next test."""
    await cluster.change(op.all_running)
    for node in cluster.desired.replicas:
        await cluster.change(
            lambda desired, node=node: op.resumed(op.rejoined(desired, node.name), node.name)
        )  # type: ignore[misc]
    await cluster.change(lambda desired: op.with_profile(desired, parse("semi-sync")))
    if cluster.desired.primary != "node1":
        await cluster.change(lambda desired: op.switched_over(desired, "node1"))
    await settled(cluster)
    ask(cluster, "node1", "drop table if exists notes")


def connect(cluster: LocalCluster, name: str, **parameters: Any) -> psycopg.Connection[Any]:
    """As the application's role, in autocommit."""
    return psycopg.connect(cluster.dsn(name), autocommit=True, **parameters)


def ask(cluster: LocalCluster, name: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """As the application's role."""
    with connect(cluster, name) as connection:
        cursor = connection.execute(query, values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def write(cluster: LocalCluster, count: int, *, start: int = 0) -> None:
    """So many rows, a commit each."""
    with connect(cluster, cluster.desired.primary) as connection:
        connection.execute("create table if not exists notes (n int primary key)")
        for number in range(start, start + count):
            connection.execute("insert into notes values (%s)", [number])


def rows(cluster: LocalCluster, name: str) -> list[int]:
    return [n for (n,) in ask(cluster, name, "select n from notes order by n")]


async def settled(cluster: LocalCluster) -> Observed:
    """The cluster as it is, once nothing is left to do; asserts that."""
    plan = await cluster.plan()
    assert not plan.steps, [str(step) for step in plan.steps]
    assert not plan.blocked, plan.blocked
    observed = await cluster.observe()
    assert observed.primary is not None
    assert observed.primary.name == cluster.desired.primary
    assert len(observed.writable) == 1
    return observed


def leftovers(root: Path) -> list[str]:
    """What interrupted work has left behind."""
    return [
        name
        for folder in root.glob("node*")
        for name in os.listdir(folder)
        if name not in ("data", "server.conf", "hba.conf", "server.log", "pgpass", "task.lock")
    ]
