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
