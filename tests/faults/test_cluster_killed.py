"""A cluster's operator is killed after every step, and in the middle of every step: the next one takes it up from there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from tests import cluster_tools as tools

from walcast.cluster.local import LocalCluster

ROOT = Path(__file__).parents[2]
_MOST = 60


def life(folder: Path, change: str, when: str) -> tuple[int, list[str]]:
    """One operator's life: its exit code and the steps that it began."""
    command = [sys.executable, "-m", "tests.faults.cluster_process", str(folder), change, when]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode, done.stdout.splitlines()


def killed_all_the_way(folder: Path, change: str) -> set[str]:
    """Operators that die in the middle of a step, then right after it, until one has nothing to do; the steps."""
    chance = random.Random(change)
    steps: list[str] = []
    for _ in range(_MOST):
        steps += life(folder, change, str(chance.choice((1, 5, 20, 60))))[1]
        change = "converge"
        code, begun = life(folder, change, "after")
        steps += begun
        if code == 0:
            return set(steps)
    raise AssertionError(f"it never comes to an end: {steps}")


async def test_a_birth_and_a_switchover_survive_every_kill() -> None:
    with tools.folder() as folder:
        LocalCluster.create(folder, tools.desired(replicas=1))
        steps = killed_all_the_way(folder, "converge")
        assert {"Initialise node1", "Clone node2"} <= steps
        async with LocalCluster.open(folder) as cluster:
            tools.write(cluster, 50)
        steps = killed_all_the_way(folder, "switchover:node2")
        assert {"Stop node1", "Promote node2"} <= steps
        async with LocalCluster.open(folder) as cluster:
            await tools.settled(cluster)
            assert cluster.desired.primary == "node2"
            assert tools.rows(cluster, "node2") == tools.rows(cluster, "node1") == list(range(50))
        assert tools.leftovers(folder) == []


async def test_a_failover_and_a_rejoin_survive_every_kill() -> None:
    with tools.folder() as folder:
        async with tools.running(folder, tools.desired(replicas=1, profile="async")) as cluster:
            tools.write(cluster, 20)
            cluster.instance("node2").freeze()
            tools.write(cluster, 5, start=20)  # node1's alone
            cluster.instance("node1").kill()
            cluster.instance("node2").thaw()
        steps = killed_all_the_way(folder, "promote:node2")
        assert "Promote node2" in steps
        async with LocalCluster.open(folder) as cluster:
            tools.write(cluster, 5, start=100)
        steps = killed_all_the_way(folder, "rejoin:node1")
        assert "Rewind node1" in steps
        async with LocalCluster.open(folder) as cluster:
            await tools.settled(cluster)
            assert tools.rows(cluster, "node1") == tools.rows(cluster, "node2")
            assert tools.rows(cluster, "node1")[-5:] == list(range(100, 105))
        assert tools.leftovers(folder) == []
