"""Plays every scenario on a cluster made for it, and counts."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from walcast.cluster import operations as op
from walcast.cluster.commit import resolve
from walcast.cluster.desired import Desired
from walcast.cluster.local import LocalCluster
from walcast.cluster.profiles import Profile
from walcast.cluster.prove.scenarios import SCENARIOS, Flow, Promise, Scenario
from walcast.cluster.prove.writers import Writers, present
from walcast.cluster.steps import Kill
from walcast.model import RetryableError
from walcast.postgres.local.process import Watchdog

_ENOUGH: Final = 30
"""Commits that come back while a fault lasts: then commits flow."""
_PATIENCE: Final = 60.0
_POLL: Final = 0.02

Verdict = Literal["held", "broken", "not promised"]


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario. `acknowledged` commits of which `lost` are not at the primary afterwards and `waited` only came back when the
    fault was over; `unknown` ones lost their connection, of which `misjudged` were not what `resolve` found. `stale` of
    `reads` replicas did not have a commit that was already acknowledged."""

    scenario: str
    what: str
    promise: Promise
    flow: Flow
    acknowledged: int
    waited: int
    lost: int
    unknown: int
    misjudged: int
    reads: int
    stale: int
    seconds: float
    broken: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """`not promised`: something was lost or stale, which the profile does not exclude."""
        if self.broken:
            return "broken"
        return "not promised" if self.lost or self.stale else "held"


@dataclass(frozen=True, slots=True)
class Report:
    """All scenarios of a profile."""

    profile: str
    promise: str
    version: str
    replicas: int
    results: tuple[Result, ...] = field(default=())

    @property
    def proved(self) -> bool:
        return bool(self.results) and not any(result.broken for result in self.results)


async def prove(
    desired: Desired,
    *,
    only: tuple[str, ...] = (),
    settings: Profile | None = None,
    on_scenario: Callable[[Scenario], None] | None = None,
) -> Report:
    """Makes a cluster of its own as `desired` says, plays the scenarios, and removes it. `settings` are another profile's, to
    see that a promise that is not kept is noticed. Raises what making the cluster raises."""
    folder = Path(tempfile.mkdtemp(prefix="walcast-prove-", dir="/tmp"))
    folder.chmod(0o755)
    watchdog = Watchdog(folder)
    profile, names = desired.profile, [node.name for node in desired.replicas]
    try:
        results = []
        used = replace(desired, profile=settings or profile)
        async with LocalCluster.create(folder, used) as cluster:
            await cluster.converge()
            for scenario in SCENARIOS:
                if not scenario.fits(len(names)) or (only and scenario.name not in only):
                    continue
                if on_scenario is not None:
                    on_scenario(scenario)
                await _well(cluster)
                results.append(await _play(cluster, scenario, scenario.promise(profile, len(names))))
            version = cluster.binaries.version
    finally:
        await asyncio.to_thread(_end, folder)
        watchdog.close()
    return Report(profile.name, profile.sentence(names), version, len(names), tuple(results))


def _end(folder: Path) -> None:
    if (folder / "cluster.json").exists():
        cluster = LocalCluster.open(folder)
        for node in cluster.desired.nodes:
            cluster.instance(node.name).kill()
        cluster.end_links()
    shutil.rmtree(folder, ignore_errors=True)


async def _well(cluster: LocalCluster) -> None:
    """Everything runs, follows and replays."""
    await cluster.change(op.all_running)
    for node in cluster.desired.replicas:
        await cluster.change(lambda desired, name=node.name: op.resumed(op.rejoined(desired, name), name))  # type: ignore[misc]


async def _play(cluster: LocalCluster, scenario: Scenario, promise: Promise) -> Result:
    begin = time.monotonic()
    names = [node.name for node in cluster.desired.replicas]
    readers = names if promise.flow == "flows" and not scenario.dies else []
    if scenario.name in ("one-stopped", "all-stopped", "one-frozen"):
        readers = []
    async with Writers(cluster, readers) as writers:
        ledger = writers.ledger
        await _until(
            lambda: writers.running > 0 and ledger.acknowledged >= _ENOUGH,
            "no commit is acknowledged before the fault",
        )
        await cluster.change(lambda desired: scenario.fault(desired, names))
        since = ledger.begun
        flow = await _flow(cluster, writers, since)
        until = ledger.begun
        before = set(ledger.replicated)
        misjudged = 0
        if scenario.dies:
            misjudged = await _fail_over(cluster, writers, scenario)
        else:
            await _well(cluster)
            await writers.finish()
        there = await present(cluster, cluster.desired.primary)
    waited = sum(number <= until for number in ledger.replicated - before) if flow == "waits" else 0
    lost = len(ledger.replicated - there)
    result = Result(
        scenario=scenario.name,
        what=scenario.what,
        promise=promise,
        flow=flow,
        acknowledged=ledger.acknowledged,
        waited=waited,
        lost=lost,
        unknown=len(ledger.unknown),
        misjudged=misjudged,
        reads=ledger.reads,
        stale=ledger.stale,
        seconds=time.monotonic() - begin,
    )
    return replace(result, broken=tuple(_broken(result)))


async def _flow(cluster: LocalCluster, writers: Writers, since: int) -> Flow:
    """Whether commits that were begun after the fault come back while it lasts; or every client is seen waiting for replicas."""

    def back() -> int:
        return sum(number > since for number in writers.ledger.replicated)

    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if back() >= _ENOUGH:
            return "flows"
        primary = (await cluster.observe()).node(cluster.desired.primary)
        waiting = primary.facts.waiting if primary is not None and primary.facts is not None else ()
        if sum(w.application == "walcast:proof" for w in waiting) >= writers.running > 0 and not back():
            await asyncio.sleep(10 * _POLL)
            if not back():
                return "waits"
        await asyncio.sleep(_POLL)
    raise RetryableError(
        "commits neither flow nor wait", hint="is the machine overloaded? see walcast cluster status"
    )


async def _fail_over(cluster: LocalCluster, writers: Writers, scenario: Scenario) -> int:
    """Kills the primary (and others), lets the most advanced survivor take over; how many unknown commits were misjudged."""
    old = cluster.desired.primary
    observed = await cluster.observe()
    ranking = [name for name, _ in op.most_advanced(observed)]
    doomed = ranking[: scenario.also_dies]
    await cluster.apply((Kill(old), *(Kill(name) for name in doomed)))
    await _until(lambda: writers.running == 0, "clients do not notice that the primary is gone")
    for name in (old, *doomed):
        await cluster.change(lambda desired, name=name: op.stopped(desired, name))  # type: ignore[misc]
    new = op.most_advanced(await cluster.observe())[0][0]
    await cluster.change(lambda desired: op.promoted(desired, new))
    there = await present(cluster, new)
    misjudged = 0
    for number, outcome in writers.ledger.unknown.items():
        found = await resolve(outcome, cluster.dsn(new, role="postgres", database="postgres"))
        misjudged += found.committed is not (number in there)
    return misjudged


def _broken(result: Result) -> list[str]:
    """Which promises were not kept."""
    found = []
    if result.flow != result.promise.flow:
        expected = "wait" if result.promise.flow == "waits" else "flow"
        found.append(
            f"commits should {expected}, and they {'waited' if result.flow == 'waits' else 'flowed'}"
        )
    if result.lost and result.promise.loses == "never":
        found.append(f"{result.lost} acknowledged commits were lost")
    if result.stale and result.promise.stale == "never":
        found.append(f"{result.stale} reads did not see an acknowledged commit")
    if result.misjudged:
        found.append(f"{result.misjudged} unknown commits were misjudged")
    return found


async def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise RetryableError(
                otherwise, hint="is the machine overloaded? the same command may succeed later"
            )
        await asyncio.sleep(_POLL)
