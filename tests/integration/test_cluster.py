"""A cluster of real servers: born, reconfigured, handed over, failed over, broken and repaired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from tests import cluster_tools as tools

from walcast.cluster import operations as op
from walcast.cluster.desired import Desired, slot_name
from walcast.cluster.directory import ClusterBusy
from walcast.cluster.guarantee import guarantee, lag
from walcast.cluster.local import LocalCluster
from walcast.cluster.planning import PlanRefused
from walcast.cluster.profiles import parse
from walcast.model import OperatorError


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A primary and two replicas, semi-sync, for all tests of this file."""

    async def make(folder: Path) -> None:
        async with tools.running(folder, tools.desired()):
            pass

    with tools.folder() as folder:
        asyncio.run(make(folder))
        yield folder


@pytest_asyncio.fixture
async def cluster(home: Path) -> AsyncIterator[LocalCluster]:
    """The cluster as it was born; put right after each test."""
    async with LocalCluster.open(home) as opened:
        yield opened
        await tools.restored(opened)


async def test_a_newborn_cluster_streams_through_slots_and_wants_passwords(cluster: LocalCluster) -> None:
    observed = await tools.settled(cluster)
    assert observed.primary is not None
    facts = observed.primary.facts
    assert facts is not None
    assert {stream.name for stream in facts.streams} == {"node2", "node3"}
    assert {slot.name for slot in facts.slots if slot.active} == {slot_name("node2"), slot_name("node3")}
    assert facts.settings["wal_log_hints"] == "on"
    tools.write(cluster, 3)
    with pytest.raises(psycopg.OperationalError, match="password"):
        tools.connect(cluster, "node1", password="wrong")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        tools.ask(cluster, "node2", "create table t ()")
    stored = tools.ask(cluster, "node1", "select setting from pg_settings where name = 'password_encryption'")
    assert stored == [("scram-sha-256",)]


async def test_a_profile_is_switched_without_a_restart_and_says_what_holds(cluster: LocalCluster) -> None:
    pids = {node.name: node.pid for node in (await cluster.observe()).nodes}
    for name, level, standbys in (
        ("async", "on", ""),
        ("sync", "on", "ANY 2 (node2, node3)"),
        ("remote-write", "remote_write", "ANY 1 (node2, node3)"),
        ("first-1", "on", "FIRST 1 (node2, node3)"),
        ("any:2:remote_apply", "remote_apply", "ANY 2 (node2, node3)"),
    ):
        profile = parse(name)
        await cluster.change(lambda desired, profile=profile: op.with_profile(desired, profile))  # type: ignore[misc]
        assert tools.ask(cluster, "node1", "show synchronous_standby_names") == [(standbys,)]
        assert tools.ask(cluster, "node1", "show synchronous_commit") == [(level,)]
        observed = await tools.settled(cluster)
        assert guarantee(observed).commits == "flow"
    assert {node.name: node.pid for node in (await cluster.observe()).nodes} == pids
    await cluster.change(lambda desired: op.stopped(desired, "node3"))
    held = guarantee(await cluster.observe())
    assert held.commits == "wait"
    assert "Node3 is down" in held.now
    with pytest.raises(OperatorError, match="waits for 3"):
        await cluster.change(lambda desired: op.with_profile(desired, parse("any:3")))


async def test_a_switchover_loses_nothing_and_goes_there_and_back(cluster: LocalCluster) -> None:
    tools.write(cluster, 100)
    for name in ("node2", "node1"):
        await cluster.change(lambda desired, name=name: op.switched_over(desired, name))  # type: ignore[misc]
        observed = await tools.settled(cluster)
        assert observed.primary is not None
        assert observed.primary.facts is not None
        others = {node.name for node in cluster.desired.replicas}
        assert {slot.name for slot in observed.primary.facts.slots} == {slot_name(other) for other in others}
        assert all(not node.facts.slots for node in observed.replicas if node.facts)
        assert all(tools.rows(cluster, node.name) == list(range(100)) for node in observed.nodes)


async def test_a_crash_a_failover_and_a_rejoin_by_rewind(cluster: LocalCluster) -> None:
    tools.write(cluster, 10)
    with pytest.raises(OperatorError, match="is alive"):
        op.check_promotion(cluster.desired, await cluster.observe(), "node2")
    cluster.instance("node1").kill()
    await cluster.change(lambda desired: op.stopped(desired, "node1"))
    observed = await cluster.observe()
    assert guarantee(observed).commits == "none"
    broken = observed.node("node2")
    assert broken is not None
    assert lag(observed, broken).seconds is None  # a broken stream is not an idle one
    op.check_promotion(cluster.desired, observed, "node2")
    await cluster.change(lambda desired: op.promoted(desired, "node2"))
    assert tools.rows(cluster, "node2") == list(range(10))
    tools.write(cluster, 10, start=10)
    plan = await cluster.change(lambda desired: op.started(desired, "node1"))
    assert [stuck.node for stuck in plan.blocked] == ["node1"]
    assert cluster.instance("node1").life == "down"  # it does not come back as a second primary
    await cluster.change(lambda desired: op.rejoined(desired, "node1"))
    await tools.settled(cluster)
    assert tools.rows(cluster, "node1") == list(range(20))


async def test_the_less_advanced_replica_is_not_promoted_unless_forced(cluster: LocalCluster) -> None:
    tools.write(cluster, 5)
    await cluster.change(lambda desired: op.linked(desired, "node2", "cut"))
    tools.write(cluster, 5, start=5)
    cluster.instance("node1").kill()
    await cluster.change(lambda desired: op.stopped(desired, "node1"))
    with pytest.raises(OperatorError, match="node3 has received"):
        op.check_promotion(cluster.desired, await cluster.observe(), "node2")
    plan = await cluster.change(lambda desired: op.promoted(desired, "node2"))
    assert [stuck.node for stuck in plan.blocked] == ["node3"]
    assert tools.rows(cluster, "node2") == list(range(5))
    await cluster.change(lambda desired: op.rejoined(desired, "node3"))
    await tools.settled(cluster)
    assert tools.rows(cluster, "node3") == list(range(5))


async def test_a_primary_that_returns_by_hand_is_seen_and_fenced(cluster: LocalCluster) -> None:
    tools.write(cluster, 5)
    cluster.instance("node1").kill()
    await cluster.change(lambda desired: op.promoted(desired, "node2"))
    old = cluster.instance("node1")
    (old.data / "standby.signal").unlink()  # the fence, taken away by hand
    old.start()
    observed = await cluster.observe()
    assert {node.name for node in observed.writable} == {"node1", "node2"}
    assert observed.primary is not None
    assert observed.primary.name == "node2"
    assert any("SPLIT BRAIN" in warning for warning in guarantee(observed).warnings)
    await cluster.change(op.all_running)
    assert [node.name for node in (await cluster.observe()).writable] == ["node2"]


async def test_replay_and_network_are_held_up_and_let_go(cluster: LocalCluster) -> None:
    tools.write(cluster, 1)
    await cluster.change(lambda desired: op.paused(desired, "node2"))
    tools.write(cluster, 1, start=1)
    assert tools.rows(cluster, "node2") == [0]
    await cluster.change(lambda desired: op.resumed(desired, "node2"))
    await cluster.change(lambda desired: op.linked(desired, "node1", "refuse"))
    observed = await cluster.observe()
    assert guarantee(observed).commits == "wait"
    await cluster.change(lambda desired: op.resumed(desired, "node1"))
    await tools.settled(cluster)
    assert not (await cluster.observe()).links
    await cluster.change(lambda desired: op.linked(desired, "node3", "delay", 0.05))
    tools.write(cluster, 1, start=2)
    await cluster.change(lambda desired: op.paused(desired, "node3", freeze=True))
    assert cluster.instance("node3").life == "frozen"
    await cluster.change(op.all_stopped)
    assert {node.life for node in (await cluster.observe()).nodes} == {"down"}
    await cluster.change(op.all_running)
    await tools.settled(cluster)


async def test_replicas_are_added_and_removed(cluster: LocalCluster) -> None:
    tools.write(cluster, 3)
    await cluster.change(op.added)
    assert tools.rows(cluster, "node4") == [0, 1, 2]
    await cluster.change(lambda desired: op.removed(desired, "node4"))
    observed = await tools.settled(cluster)
    assert [node.name for node in cluster.desired.nodes] == ["node1", "node2", "node3"]
    assert observed.primary is not None
    assert observed.primary.facts is not None
    assert {slot.name for slot in observed.primary.facts.slots} == {slot_name("node2"), slot_name("node3")}
    assert not cluster.directory.node("node4").exists()


async def test_two_operators_do_not_work_at_once(cluster: LocalCluster) -> None:
    with cluster.directory.locked(), pytest.raises(ClusterBusy, match="another operator"):
        await LocalCluster.open(cluster.directory.root).converge()


async def test_a_switchover_to_a_replica_that_does_not_follow_is_refused(cluster: LocalCluster) -> None:
    before = cluster.directory.read()
    await cluster.change(lambda desired: op.stopped(desired, "node2"))
    wanted: Desired = op.switched_over(cluster.desired, "node2")
    with pytest.raises(PlanRefused, match="does not stream"):
        await cluster.change(lambda _: wanted)
    assert cluster.directory.read() == op.stopped(before, "node2")
    assert tools.ask(cluster, "node1", "select 1") == [(1,)]
