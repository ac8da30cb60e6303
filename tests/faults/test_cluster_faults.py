"""What goes wrong at a replica or under an operator's hands: it is seen, named, and repaired by what the hint says."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import cluster_tools as tools

from walcast.app.cluster import logs, recreate
from walcast.cluster import operations as op
from walcast.cluster.guarantee import guarantee
from walcast.cluster.local import LocalCluster
from walcast.cluster.observed import Observed
from walcast.postgres.local.controlfile import read_control
from walcast.postgres.local.instance import Instance


@pytest.fixture
def small_disk() -> Iterator[tuple[Path, Path]]:
    """A place for a cluster, and a folder there that is a file system of 96 MB; skipped without the right to mount one."""
    with tools.folder() as folder, tools.folder() as disk:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", disk], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip("file systems cannot be mounted here")
        disk.chmod(0o777)
        try:
            yield folder, disk
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


async def until(cluster: LocalCluster, holds: object) -> Observed:
    """The first view of which it holds."""
    assert callable(holds)
    async with asyncio.timeout(90):
        while True:
            observed = await cluster.observe()
            if holds(observed):
                return observed
            await asyncio.sleep(0.05)


def moved(data: Path, disk: Path) -> None:
    """The data directory lies on that disk from now on."""
    subprocess.run(["cp", "-a", f"{data}/.", disk], check=True)
    subprocess.run(["rm", "-rf", data], check=True)
    data.symlink_to(disk)
    disk.chmod(0o700)


async def test_a_replica_whose_disk_is_full_says_so_and_holds_up_nobody(
    small_disk: tuple[Path, Path],
) -> None:
    folder, disk = small_disk
    async with tools.running(folder, tools.desired(replicas=1, profile="async")) as cluster:
        await cluster.change(lambda desired: op.stopped(desired, "node2"))
        await asyncio.to_thread(moved, cluster.instance("node2").data, disk)
        await cluster.change(lambda desired: op.started(desired, "node2"))
        with tools.connect(cluster, "node1") as connection:
            connection.execute("create table bulk (t text)")
            for _ in range(12):
                connection.execute("insert into bulk select repeat('x', 800) from generate_series(1, 10000)")
        observed = await until(
            cluster, lambda seen: "No space left" in cluster.instance("node2").last_words()
        )
        assert guarantee(observed).commits == "flow"
        tools.write(cluster, 3)
        cluster.instance("node2").kill()


async def lose_wal(cluster: LocalCluster) -> None:
    """The primary lets go of WAL that node2, which is stopped, has not got."""
    await cluster.sessions.rows("node1", "alter system set max_slot_wal_keep_size = '16MB'")
    await cluster.sessions.rows("node1", "select pg_reload_conf()")
    for _ in range(4):
        await cluster.sessions.rows(
            "node1", "select pg_switch_wal() from (select pg_logical_emit_message(false, '', 'x')) x"
        )
    await cluster.sessions.rows("node1", "checkpoint")


async def test_wal_that_is_gone_is_named_and_a_new_copy_mends_it() -> None:
    with tools.folder() as folder:
        async with tools.running(folder, tools.desired(replicas=1, profile="async")) as cluster:
            await cluster.change(lambda desired: op.stopped(desired, "node2"))
            await lose_wal(cluster)
            observed = await cluster.observe()
            assert any("lost" in warning for warning in guarantee(observed).warnings)
            plan = await cluster.change(lambda desired: op.started(desired, "node2"))
            assert "the WAL that node2 needs is gone" in plan.blocked[0].why
            assert "rejoin node2 --clone" in plan.blocked[0].hint
            await recreate(cluster, "node2", None)
            await tools.settled(cluster)


async def test_an_archive_has_the_wal_that_the_primary_has_no_more() -> None:
    with tools.folder() as folder:
        wanted = tools.desired(replicas=1, profile="async", archive=True)
        async with tools.running(folder, wanted) as cluster:
            tools.write(cluster, 5)
            await cluster.change(lambda desired: op.stopped(desired, "node2"))
            copied = cluster.instance("node2").data.stat().st_ino
            tools.write(cluster, 5, start=5)
            await lose_wal(cluster)
            assert any("lost" in warning for warning in guarantee(await cluster.observe()).warnings)
            await cluster.change(lambda desired: op.started(desired, "node2"))
            await tools.settled(cluster)
            await until(cluster, lambda seen: seen.behind(seen.node("node2")) == 0)
            assert tools.rows(cluster, "node2") == list(range(10))
            assert cluster.instance("node2").data.stat().st_ino == copied  # no new copy


async def test_an_archive_that_takes_nothing_is_shown() -> None:
    with tools.folder() as folder:
        wanted = tools.desired(replicas=0, profile="async", archive=True)
        async with tools.running(folder, wanted) as cluster:
            (folder / "archive").rename(folder / "elsewhere")
            tools.write(cluster, 1)
            await cluster.sessions.rows("node1", "select pg_switch_wal()")
            await until(
                cluster,
                lambda seen: any("archive takes no WAL" in warning for warning in guarantee(seen).warnings),
            )


async def test_a_replica_far_behind_has_everything_once_it_is_promoted() -> None:
    with tools.folder() as folder:
        async with tools.running(folder, tools.desired(replicas=1, profile="semi-sync")) as cluster:
            await cluster.change(lambda desired: op.paused(desired, "node2"))
            with tools.connect(cluster, "node1") as connection:
                connection.execute("create table bulk (t text)")
                connection.execute("insert into bulk select repeat('x', 800) from generate_series(1, 30000)")
            observed = await cluster.observe()
            assert (observed.behind(observed.nodes[1]) or 0) > 20_000_000
            cluster.instance("node1").kill()
            await cluster.change(lambda desired: op.promoted(desired, "node2"))
            assert tools.ask(cluster, "node2", "select count(*) from bulk") == [(30000,)]


async def test_logs_are_in_one_order_wherever_the_operator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TZ", "PGTZ"):
        monkeypatch.setenv(name, "Asia/Kathmandu")
    with tools.folder() as folder:
        async with tools.running(folder, tools.desired(replicas=1, profile="async")) as cluster:
            found = logs(cluster, ["node1", "node2"], 200)
    stamps = [line[:27] for _, line in found if line.startswith("20")]
    assert stamps == sorted(stamps)
    assert all(stamp.endswith(" UTC") for stamp in stamps)
    assert {name for name, _ in found} == {"node1", "node2"}


async def test_data_of_another_cluster_are_recognised_and_left_alone() -> None:
    with tools.folder() as one, tools.folder() as two:
        async with tools.running(one, tools.desired(replicas=1)) as cluster:
            async with tools.running(two, tools.desired(replicas=0, profile="async")) as other:
                await other.change(op.all_stopped)
            theirs = read_control(two / "node1" / "data")
            await cluster.change(lambda desired: op.stopped(desired, "node2"))
            (one / "node2" / "data").rename(one / "node2" / "mine")
            (two / "node1" / "data").rename(one / "node2" / "data")
            plan = await cluster.change(lambda desired: op.started(desired, "node2"))
            assert "another cluster" in plan.blocked[0].why
            assert read_control(one / "node2" / "data") == theirs
            await recreate(cluster, "node2", None)
            await tools.settled(cluster)


async def test_a_slot_that_was_dropped_by_hand_is_made_again() -> None:
    with tools.folder() as folder:
        async with tools.running(folder, tools.desired(replicas=1, profile="async")) as cluster:
            await cluster.change(lambda desired: op.stopped(desired, "node2"))
            await cluster.sessions.rows("node1", "select pg_drop_replication_slot('walcast_node2')")
            await cluster.change(lambda desired: op.started(desired, "node2"))
            await tools.settled(cluster)


async def test_a_configuration_that_was_overwritten_is_put_right() -> None:
    with tools.folder() as folder:
        async with tools.running(folder, tools.desired(replicas=1)) as cluster:
            cluster.instance("node1").conf.write_text("port = 1\n")
            await cluster.converge()
            await tools.settled(cluster)
            assert guarantee(await cluster.observe()).profile == "semi-sync"


@pytest.mark.parametrize("major", [13, 14, 15, 16, 17])
async def test_every_version_is_born_handed_over_and_rejoined(major: int) -> None:
    with tools.folder() as folder:
        wanted = tools.desired(replicas=1, profile="async", major=major)
        binaries = LocalCluster(tools.Directory(folder), wanted).binaries
        wanted = replace(wanted, tls=binaries.tls)
        async with tools.running(folder, wanted) as cluster:
            tools.write(cluster, 5)
            with tools.connect(cluster, "node1") as connection:
                assert connection.pgconn.ssl_in_use is binaries.tls
            await cluster.change(lambda desired: op.switched_over(desired, "node2"))
            cluster.instance("node2").kill()
            await cluster.change(lambda desired: op.promoted(desired, "node1"))
            tools.write(cluster, 5, start=5)
            await cluster.change(lambda desired: op.rejoined(desired, "node2"))
            await tools.settled(cluster)
            assert tools.rows(cluster, "node2") == list(range(10))
            control = read_control(cluster.instance("node1").data)
            (asked,) = await cluster.sessions.rows(
                "node1",
                "select system_identifier::text, timeline_id from pg_control_system(), pg_control_checkpoint()",
            )
            assert control is not None
            assert (str(control.system_id), control.timeline, control.state) == (*asked, "in production")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with tools.folder() as folder:
        node = folder / "node1"
        (node / "data").mkdir(parents=True)
        instance = Instance(LocalCluster(tools.Directory(folder), tools.desired()).binaries, node)
        assert (instance.life, instance.pid, instance.last_words()) == ("down", None, "it has no log")
        assert read_control(instance.data) is None
