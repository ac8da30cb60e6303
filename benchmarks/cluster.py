"""A cluster of a primary and two replicas: how long its operations take, and what a commit costs under each profile.

Every operation is timed from the call to the state in which nothing is left to do; fsync is on. Commits are one row each, one
client; the plot of their latencies goes to `var/bench/commit-latency.svg`.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.harness import Contest, Plan, Run, percentile
from walcast.app.cluster_making import programs
from walcast.cluster import operations as op
from walcast.cluster.desired import Desired
from walcast.cluster.local import LocalCluster
from walcast.cluster.profiles import parse
from walcast.postgres.local.process import Watchdog

PROFILES: Final = ("async", "remote-write", "semi-sync", "sync", "remote-apply")
_COMMITS: Final = 2000
_PLOT: Final = Path("var/bench/commit-latency.svg")


def contests(plan: Plan) -> Iterator[Contest]:
    operations = {
        "up": Contest("cluster: up, two replicas", "-", "5 s", "10 s"),
        "profile": Contest("cluster: profile switched to its effect", "-", "1 s", "2 s"),
        "switchover": Contest("cluster: switchover, all replicas follow", "-", "3 s", "6 s"),
        "rejoin": Contest("cluster: rejoin by rewind", "-", "5 s", "10 s"),
    }
    commits = {name: Contest(f"cluster: commit latency, {name}", "async", "-", "-") for name in PROFILES}
    if not any(plan.wants(line.name) for line in (*operations.values(), *commits.values())):
        return
    for _ in range(plan.runs):
        with _cluster() as folder:
            for name, seconds in asyncio.run(_operations(folder)).items():
                operations[name].ours.append(Run(seconds, 1))
    for line in operations.values():
        taken = [run.seconds for run in line.ours]
        line.figure = f"{statistics.median(taken):.2f} s ({min(taken):.2f}-{max(taken):.2f})"
        yield line
    with _cluster() as folder:
        latencies = asyncio.run(_latencies(folder, max(50, round(_COMMITS * plan.scale))))
    base = percentile(latencies["async"], 0.5)
    for name, line in commits.items():
        found = latencies[name]
        line.ours.append(Run(sum(found), len(found)))
        line.figure = (
            f"p50 {percentile(found, 0.5) * 1000:.2f} ms, p99 {percentile(found, 0.99) * 1000:.2f} ms"
        )
        line.baseline_figure = f"p50 {base * 1000:.2f} ms"
        yield line
    _PLOT.parent.mkdir(parents=True, exist_ok=True)
    _PLOT.write_text(plot(latencies))


@contextmanager
def _cluster() -> Iterator[Path]:
    """A folder for a cluster; what runs there afterwards is ended with it."""
    folder = Path(tempfile.mkdtemp(prefix="walcast-bench-", dir="/tmp"))
    folder.chmod(0o755)
    watchdog = Watchdog(folder)
    try:
        yield folder
        cluster = LocalCluster.open(folder)
        for node in cluster.desired.nodes:
            cluster.instance(node.name).kill()
    finally:
        watchdog.close()
        shutil.rmtree(folder, ignore_errors=True)


def _newborn(profile: str) -> Desired:
    binaries = programs(None)
    made = op.born(
        replicas=2,
        profile=parse(profile),
        major=binaries.major,
        bindir=str(binaries.bindir),
        tls=False,
        archive=False,
        base_port=None,
    )
    return op.on_free_ports(made)


async def _operations(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}

    async def timed(name: str, work: Callable[[], Awaitable[object]]) -> None:
        begin = time.perf_counter()
        await work()
        found[name] = time.perf_counter() - begin

    async with LocalCluster.create(folder, _newborn("semi-sync")) as cluster:
        await timed("up", cluster.converge)
        with psycopg.connect(cluster.dsn("node1"), autocommit=True) as connection:
            connection.execute("create table t as select generate_series(1, 100000) n")
        await timed(
            "profile", lambda: cluster.change(lambda desired: op.with_profile(desired, parse("sync")))
        )
        await cluster.change(lambda desired: op.with_profile(desired, parse("async")))
        await timed("switchover", lambda: cluster.change(lambda desired: op.switched_over(desired, "node2")))
        cluster.instance("node2").kill()
        await cluster.change(lambda desired: op.promoted(desired, "node3"))
        with psycopg.connect(cluster.dsn("node3"), autocommit=True) as connection:
            connection.execute("insert into t select generate_series(1, 100000)")
        await timed("rejoin", lambda: cluster.change(lambda desired: op.rejoined(desired, "node2")))
    return found


async def _latencies(folder: Path, count: int) -> dict[str, list[float]]:
    """Seconds a commit by profile, sorted. Profiles take turns, so that a machine that slows down does so for all."""
    found: dict[str, list[float]] = {name: [] for name in PROFILES}
    turns = 5
    async with LocalCluster.create(folder, _newborn("async")) as cluster:
        await cluster.converge()
        with psycopg.connect(cluster.dsn("node1"), autocommit=True) as connection:
            connection.execute("create table t (n int)")
            for _ in range(turns):
                for name in PROFILES:
                    await cluster.change(lambda desired, name=name: op.with_profile(desired, parse(name)))  # type: ignore[misc]
                    for number in range(count // turns):
                        begin = time.perf_counter()
                        connection.execute("insert into t values (%s)", [number])
                        found[name].append(time.perf_counter() - begin)
    return {name: sorted(seconds) for name, seconds in found.items()}


def plot(latencies: dict[str, list[float]]) -> str:
    """An SVG: for each profile a bar to p50, a line to p99."""
    most = max(percentile(found, 0.99) for found in latencies.values()) * 1000
    scale = 520 / most
    lines = []
    for number, (name, found) in enumerate(latencies.items()):
        y = 50 + number * 44
        half, high = (percentile(found, part) * 1000 for part in (0.5, 0.99))
        lines += [
            f'<text x="120" y="{y + 14}" text-anchor="end">{name}</text>',
            f'<rect x="130" y="{y}" width="{half * scale:.1f}" height="20" fill="#3572a5"/>',
            f'<path d="M{130 + half * scale:.1f} {y + 10} H{130 + high * scale:.1f} m0 -6 v12" stroke="#3572a5" fill="none"/>',
            f'<text x="{136 + high * scale:.1f}" y="{y + 14}">{half:.2f} / {high:.2f} ms</text>',
        ]
    height = 60 + 44 * len(latencies)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{height}" font-family="sans-serif" font-size="13">\n'
        f'<rect width="800" height="{height}" fill="white"/>\n'
        '<text x="130" y="28" font-size="15">Commit latency by durability profile: p50 (bar), p99 (line)</text>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )
