"""Servers that were there already are attached: seen, and changed only when that was allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from walcast.cluster.attached import AttachedCluster
from walcast.cluster.guarantee import guarantee, lag
from walcast.cluster.observed import Observed
from walcast.cluster.profiles import in_force, parse
from walcast.model import OperatorError
from walcast.testing import PostgresServer


async def until(servers: AttachedCluster, holds: Callable[[Observed], bool]) -> Observed:
    """The first view of which it holds."""
    async with asyncio.timeout(30):
        while True:
            observed = await servers.observe()
            if holds(observed):
                return observed
            await asyncio.sleep(0.02)


def hidden(observed: Observed) -> bool:
    """Whether the status says that this role may not see everything."""
    return any("grant pg_monitor" in warning for warning in guarantee(observed).warnings)


async def test_a_primary_and_its_standby_are_seen_and_changed_only_with_leave(
    postgres_factory: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    primary = postgres_factory(18)
    with primary.standby("copy") as standby:
        dsns = [standby.dsn(via="tcp"), primary.dsn(via="tcp")]
        async with AttachedCluster(tmp_path / "a", dsns, allowed=False) as servers:
            observed = await servers.attach()
            assert (tmp_path / "a" / "attached.json").stat().st_mode & 0o077 == 0
            assert {node.name: node.role for node in observed.nodes}["copy"] == "replica"
            assert observed.primary is not None
            assert guarantee(observed).profile == "async"
            copy = observed.node("copy")
            assert copy is not None
            assert lag(observed, copy).broken == ""
            with pytest.raises(OperatorError, match="looking only"):
                await servers.set_profile(parse("sync"))
        async with AttachedCluster(tmp_path / "a", dsns, allowed=True) as servers:
            await servers.attach()
        async with AttachedCluster.open(tmp_path / "a") as servers:
            await servers.set_profile(parse("sync"))
            observed = await until(servers, lambda seen: guarantee(seen).profile != "async")
            assert observed.primary is not None
            assert observed.primary.facts is not None
            assert in_force(observed.primary.facts.settings).names == ("copy",)
            await servers.replay("copy", paused=True)
            copy = (await servers.observe()).node("copy")
            assert copy is not None
            assert copy.facts is not None
            assert copy.facts.replay_paused
            await servers.replay("replica1", paused=False)
            standby.kill()
            lonely = await servers.observe()
            assert [node.life for node in lonely.nodes] == ["unreachable", "up"]
            assert lonely.nodes[0].trouble
            await until(servers, lambda seen: guarantee(seen).commits == "wait")


async def test_servers_that_somebody_else_manages_are_followed_through_a_failover(
    postgres_factory: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    """As a manager of clusters runs them: one cluster_name for all, slots of its own; and a role that may only look."""
    first = postgres_factory(
        18, settings={"cluster_name": "shop", "synchronous_standby_names": "ANY 1 (one, two)"}
    )
    first.execute(
        "set synchronous_commit = local; create role watch login password 'look' in role pg_monitor"
    )
    with first.standby("one") as one, first.standby("two") as two:
        servers = (first, one, two)
        dsns = [server.dsn(via="tcp", user="watch", password="look") for server in servers]
        async with AttachedCluster(tmp_path, dsns, allowed=False) as seen:
            await seen.attach()
            observed = await until(seen, lambda now: guarantee(now).commits == "flow")
            assert observed.primary is not None
            assert [node.name for node in observed.nodes] == [observed.primary.address, "one", "two"]
            assert guarantee(observed).profile == "semi-sync"
            assert not hidden(observed)
            first.kill()
            assert guarantee(await seen.observe()).commits == "none"
            one.execute("select pg_promote(true)")
            one.execute("select pg_create_physical_replication_slot('two_slot', true)")
            two.reload({"primary_conninfo": one.dsn("postgres", application_name="two")})
            observed = await until(seen, lambda now: guarantee(now).commits == "flow")
            assert observed.primary is not None
            assert observed.primary.address == observed.nodes[1].address
            first.start()  # nobody told it
            observed = await seen.observe()
            assert [node.address for node in observed.writable] == [
                node.address for node in observed.nodes[:2]
            ]
            assert observed.primary is observed.nodes[1]
            assert any(
                warning.startswith(f"SPLIT BRAIN: {observed.nodes[0].name} takes writes")
                for warning in guarantee(observed).warnings
            )


async def test_a_role_that_may_not_look_is_told_so_and_sees_what_it_can(
    postgres_factory: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    primary = postgres_factory(18)
    primary.execute("create role nobodys login password 'look'")
    with primary.standby("copy", settings={"cluster_name": "copy"}) as standby:
        dsns = [server.dsn(via="tcp", user="nobodys", password="look") for server in (primary, standby)]
        async with AttachedCluster(tmp_path, dsns, allowed=True) as servers:
            await servers.attach()
            observed = await servers.observe()
            copy = observed.node("copy")
            assert copy is not None
            assert observed.primary is not None
            assert lag(observed, copy).broken == ""
            assert lag(observed, copy).bytes is not None
            assert hidden(observed)
            with pytest.raises(OperatorError, match="permission denied"):
                await servers.replay("copy", paused=True)
            with pytest.raises(OperatorError, match="permission denied"):
                await servers.set_profile(parse("async"))
            primary.execute("grant pg_monitor to nobodys")
            await until(servers, lambda seen: not hidden(seen))


async def test_servers_of_two_systems_and_silent_ones_are_not_attached(
    postgres_factory: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    one, other = postgres_factory(18), postgres_factory(16)
    async with AttachedCluster(tmp_path / "a", [one.dsn(), other.dsn()], allowed=False) as servers:
        with pytest.raises(OperatorError, match="two systems"):
            await servers.attach()
    async with AttachedCluster(
        tmp_path / "a", [one.dsn(via="tcp", password="hush-hush")], allowed=False
    ) as servers:
        with pytest.raises(OperatorError, match="password authentication failed") as caught:
            await servers.attach()
    assert "hush-hush" not in str(caught.value)
    assert not (tmp_path / "a").exists()
