"""What is done to a cluster to see what a profile is worth, and what the profile promises for each. One line a scenario.

The first three are what the classic demonstration of synchronous replication does by hand: stop one replica, stop both, and
see who waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from walcast.cluster import operations as op
from walcast.cluster.desired import Desired
from walcast.cluster.profiles import Profile

Change = Callable[[Desired, Sequence[str]], Desired]
Flow = Literal["flows", "waits"]


@dataclass(frozen=True, slots=True)
class Promise:
    """What must hold. `loses` and `stale`: never, or maybe (the profile does not exclude it)."""

    flow: Flow
    loses: Literal["never", "maybe"] = "never"
    stale: Literal["never", "maybe"] = "maybe"


@dataclass(frozen=True, slots=True)
class Scenario:
    """`fault` is done with the replicas' names in order. With `dies` the primary is then killed, together with so many of the
    replicas that still follow (the others are as the fault left them), and the most advanced survivor takes over."""

    name: str
    what: str
    fault: Change
    hindered: Callable[[int], int]
    """Of so many replicas, how many cannot answer while the fault lasts."""
    hinders_apply_only: bool = False
    dies: bool = False
    also_dies: int = 0

    def fits(self, replicas: int) -> bool:
        """Whether there are enough replicas for it."""
        return replicas >= 1 and (not self.also_dies or replicas >= 2)

    def promise(self, profile: Profile, replicas: int) -> Promise:
        """What the profile promises here."""
        hindered = self.hindered(replicas)
        if self.hinders_apply_only and profile.level != "remote_apply":
            hindered = 0
        needed = profile.needed(replicas)
        flow: Flow = "waits" if needed > replicas - hindered else "flows"
        survives = needed > self.also_dies
        everywhere = profile.level == "remote_apply" and needed == replicas
        return Promise(
            flow, "never" if not self.dies or survives else "maybe", "never" if everywhere else "maybe"
        )


def _nothing(desired: Desired, names: Sequence[str]) -> Desired:
    return desired


def _last_stopped(desired: Desired, names: Sequence[str]) -> Desired:
    return op.stopped(desired, names[-1])


def _all_stopped(desired: Desired, names: Sequence[str]) -> Desired:
    for name in names:
        desired = op.stopped(desired, name)
    return desired


def _last_frozen(desired: Desired, names: Sequence[str]) -> Desired:
    return op.paused(desired, names[-1], freeze=True)


def _last_paused(desired: Desired, names: Sequence[str]) -> Desired:
    return op.paused(desired, names[-1])


def _all_cut(desired: Desired, names: Sequence[str]) -> Desired:
    return op.linked(desired, desired.primary, "cut")


def _last_cut(desired: Desired, names: Sequence[str]) -> Desired:
    return op.linked(desired, names[-1], "cut")


SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario(
        "well", "nothing is wrong; every commit is read at once from every replica", _nothing, lambda n: 0
    ),
    Scenario("one-stopped", "one replica is stopped", _last_stopped, lambda n: 1),
    Scenario("all-stopped", "every replica is stopped", _all_stopped, lambda n: n),
    Scenario("one-frozen", "one replica hangs with its connections open", _last_frozen, lambda n: 1),
    Scenario(
        "replay-paused",
        "one replica receives and does not replay",
        _last_paused,
        lambda n: 1,
        hinders_apply_only=True,
    ),
    Scenario(
        "primary-dies",
        "the network to every replica is cut, then the primary is killed; the most advanced replica takes over",
        _all_cut,
        lambda n: n,
        dies=True,
    ),
    Scenario(
        "two-die",
        "one replica is cut off, then the primary and another replica are killed; one of those that are left takes over",
        _last_cut,
        lambda n: 1,
        dies=True,
        also_dies=1,
    ),
)
