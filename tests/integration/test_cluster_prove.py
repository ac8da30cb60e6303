"""Proofs of durability profiles; and that a promise which is not kept is noticed."""

from __future__ import annotations

import pytest
from tests import cluster_tools as tools

from walcast.cluster.profiles import parse
from walcast.cluster.prove import prove
from walcast.cluster.prove.scenarios import SCENARIOS


async def test_synchronous_commits_survive_the_primary_and_asynchronous_ones_do_not() -> None:
    kept = await prove(tools.desired(profile="semi-sync"), only=("primary-dies",))
    assert kept.proved
    (result,) = kept.results
    assert (result.flow, result.lost, result.misjudged) == ("waits", 0, 0)
    assert result.acknowledged >= 30
    assert result.unknown > 0
    lossy = await prove(tools.desired(profile="async"), only=("primary-dies",))
    assert lossy.proved  # it never promised more
    assert lossy.results[0].lost > 0
    assert lossy.results[0].verdict == "not promised"


async def test_a_promise_that_is_not_kept_is_noticed() -> None:
    names = ("replay-paused", "primary-dies")
    report = await prove(tools.desired(profile="remote-apply"), only=names, settings=parse("async"))
    assert not report.proved
    paused, died = report.results
    assert "commits should wait, and they flowed" in paused.broken
    assert any("did not see" in text for text in paused.broken) or paused.stale == 0
    assert any("acknowledged commits were lost" in text for text in died.broken)


@pytest.mark.parametrize("profile", ["async", "remote-write", "semi-sync", "sync", "first-1", "remote-apply"])
def test_more_is_never_promised_of_less(profile: str) -> None:
    for scenario in SCENARIOS:
        strict, given = scenario.promise(parse("remote-apply"), 2), scenario.promise(parse(profile), 2)
        assert strict.loses == "never"
        assert strict.stale == "never"
        if given.flow == "waits":
            assert strict.flow == "waits"
