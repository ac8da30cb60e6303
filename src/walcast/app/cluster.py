"""What `walcast cluster` does: opens the cluster's folder, changes what is wanted, and says what is."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from walcast.cluster import attached
from walcast.cluster import operations as op
from walcast.cluster.attached import AttachedCluster
from walcast.cluster.desired import Desired
from walcast.cluster.directory import ATTACHED, default_folder
from walcast.cluster.guarantee import Guarantee, Lag, guarantee, lag, waits_for
from walcast.cluster.local import LocalCluster, OnStep
from walcast.cluster.losses import Loss, what_is_lost
from walcast.cluster.observed import Observed
from walcast.cluster.planning import plan
from walcast.cluster.profiles import Profile, in_force
from walcast.cluster.steps import Blocked, Kill, Plan
from walcast.model import OperatorError
from walcast.postgres.local.binaries import NEWEST, find, tool


@dataclass(frozen=True, slots=True)
class View:
    """A cluster as `status` shows it. `desired` is None for attached servers.
    `waiting_for` is what a COMMIT that waits is waiting for, `advice` what to type when
    commits do not return."""

    folder: Path
    version: str
    desired: Desired | None
    observed: Observed
    guarantee: Guarantee
    lags: dict[str, Lag]
    waiting_for: str
    plan: Plan
    advice: str

    @property
    def well(self) -> bool:
        """Everything is as it is wanted, and commits return."""
        return not self.plan.steps and not self.plan.blocked and self.guarantee.commits == "flow"


def folder_of(given: Path | None) -> Path:
    """The cluster's folder: as given, or the default."""
    return given.absolute() if given is not None else default_folder()


def is_attached(folder: Path) -> bool:
    """Whether servers that were there already are meant."""
    return (folder / ATTACHED).exists()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[LocalCluster]:
    """The cluster in that folder, its connections closed afterwards. Raises NoCluster, and OperatorError for attached servers."""
    async with LocalCluster.open(folder) as cluster:
        yield cluster


async def planned(folder: Path, change: Callable[[Desired], Desired]) -> Plan:
    """What a change would do."""
    async with opened(folder) as cluster:
        return await cluster.plan(change(cluster.desired))


async def view(cluster: LocalCluster) -> View:
    """Looks once."""
    observed = await cluster.observe()
    now = _as_named(cluster.desired, observed, guarantee(observed))
    lags = {node.name: lag(observed, node) for node in observed.nodes if node.role == "replica"}
    try:
        todo = plan(cluster.desired, observed, cluster.directory.root)
    except OperatorError as error:
        todo = Plan(blocked=(Blocked(cluster.desired.primary, error.message, error.hint or ""),))
    return View(
        cluster.directory.root,
        cluster.binaries.version,
        cluster.desired,
        observed,
        now,
        lags,
        waits_for(observed),
        todo,
        _advice(cluster.desired, observed, now),
    )


def _as_named(desired: Desired, observed: Observed, now: Guarantee) -> Guarantee:
    """By the name that was wanted, where settings have several: with one replica sync is semi-sync."""
    facts = observed.primary.facts if observed.primary is not None else None
    wanted = desired.profile.settings([node.name for node in desired.replicas])
    same = facts is not None and all(facts.settings.get(name) == value for name, value in wanted.items())
    return replace(now, profile=desired.profile.name) if same else now


async def profile_in_use(folder: Path) -> tuple[Profile, tuple[str, ...]]:
    """The profile that is wanted (of attached servers: in force), and the replicas that it speaks of."""
    if not is_attached(folder):
        async with opened(folder) as cluster:
            return cluster.desired.profile, tuple(node.name for node in cluster.desired.replicas)
    async with AttachedCluster.open(folder) as servers:
        primary = (await servers.observe()).primary
    if primary is None or primary.facts is None:
        raise OperatorError("none of the attached servers is a primary", hint="attach it, too")
    names = tuple(dict.fromkeys(stream.name for stream in primary.facts.streams))
    return in_force(primary.facts.settings).as_profile(), names


async def view_attached(servers: AttachedCluster) -> View:
    """Looks once at servers that were there already."""
    observed = await servers.observe()
    now = guarantee(observed)
    lags = {node.name: lag(observed, node) for node in observed.nodes if node.role == "replica"}
    version = next((node.facts.version for node in observed.nodes if node.facts), 0)
    troubled = tuple(
        Blocked(node.name, f"{node.name}: {node.trouble}", "") for node in observed.nodes if node.trouble
    )
    shown = f"{version // 10_000}.{version % 10_000}"
    return View(
        servers.folder, shown, None, observed, now, lags, waits_for(observed), Plan(blocked=troubled), ""
    )


async def environment_attached(servers: AttachedCluster, *, passwords: bool) -> dict[str, str]:
    """As `environment`, with the connection strings as they were given."""
    numbers = attached.parts(await servers.observe())
    shown = servers.dsns if passwords else [_without_password(dsn)[0] for dsn in servers.dsns]
    return {f"{part.upper()}_DSN": shown[number] for part, number in numbers.items()}


async def psql_attached(
    servers: AttachedCluster, name: str, arguments: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """As `psql`; the password goes by the environment, which other users cannot read."""
    dsn, password = _without_password(await servers.dsn(name))
    given = {"PGPASSWORD": password} if password else {}
    return [tool(find(NEWEST), "psql"), dsn, *arguments], {**os.environ, **given}


def _without_password(dsn: str) -> tuple[str, str]:
    parameters = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    password = parameters.pop("password", "")
    return make_conninfo(**parameters), password


def _advice(desired: Desired, observed: Observed, now: Guarantee) -> str:
    """What to type when commits do not return; empty when they do."""
    if now.commits == "wait":
        names = " and ".join(now.missing)
        return f"bring {names} back, or switch to a profile that waits for fewer: walcast cluster profile"
    if now.commits == "flow":
        return ""
    if all(node.life == "down" for node in observed.nodes):
        return "walcast cluster up"
    if any(node.life == "up" and node.facts is None for node in observed.nodes):
        return "see why in the table, and walcast cluster logs"
    ranking = op.most_advanced(observed)
    text = f"walcast cluster start {desired.primary} brings it back"
    return text + (f"; walcast cluster promote {ranking[0][0]} goes on without it" if ranking else "")


async def kill(cluster: LocalCluster, name: str, on_step: OnStep | None) -> None:
    """kill -9, and it stays down until it is started."""
    await cluster.apply((Kill(name),), on_step)
    await cluster.change(lambda desired: op.stopped(desired, name), on_step)


async def recreate(cluster: LocalCluster, name: str, on_step: OnStep | None) -> Plan:
    """A replica anew, from a base backup."""
    op.rejoined(cluster.desired, name)  # refuses the primary
    primary = (await cluster.observe()).node(cluster.desired.primary)
    if primary is None or not primary.writable:
        raise OperatorError(
            f"{cluster.desired.primary} does not take writes: there is nothing to copy to {name}",
            hint=f"walcast cluster start {cluster.desired.primary}; or, if it is gone, let another take over",
        )
    await cluster.apply((await plan_of_recreation(cluster, name)).steps, on_step)
    return await cluster.change(lambda desired: op.started(desired, name), on_step)


async def plan_of_recreation(cluster: LocalCluster, name: str) -> Plan:
    """What `recreate` would do."""
    wanted = op.started(op.rejoined(cluster.desired, name), name)
    observed = await cluster.observe()
    emptied = tuple(
        replace(node, life="down", facts=None, files=None) if node.name == name else node
        for node in observed.nodes
    )
    made = plan(wanted, replace(observed, nodes=emptied), cluster.directory.root)
    return replace(made, steps=(Kill(name), *made.steps))


async def promote(cluster: LocalCluster, name: str, *, force: bool, on_step: OnStep | None) -> Plan:
    """Failover to that node, after the checks. Raises OperatorError."""
    op.check_promotion(cluster.desired, await cluster.observe(), name, force=force)
    return await cluster.change(lambda desired: op.promoted(desired, name), on_step)


async def loss(cluster: LocalCluster, name: str) -> Loss | None:
    """What promoting that node would lose; None when it cannot be told."""
    return await what_is_lost(cluster, name)


def environment(cluster: LocalCluster, *, passwords: bool) -> dict[str, str]:
    """`PRIMARY_DSN`, `REPLICA1_DSN`, ...: as role app to database app."""
    desired = cluster.desired
    found = {"PRIMARY_DSN": cluster.dsn(desired.primary, via_file=not passwords)}
    for number, node in enumerate(desired.replicas, 1):
        found[f"REPLICA{number}_DSN"] = cluster.dsn(node.name, via_file=not passwords)
    return found


def psql(cluster: LocalCluster, name: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command and environment of psql at a node, as superuser to database app. Raises ServerMissing."""
    dsn = cluster.dsn(name, via_file=True)
    program = tool(cluster.binaries, "psql", newer=True)
    return [program, make_conninfo(dsn, user="postgres"), *arguments], dict(os.environ)


def logs(cluster: LocalCluster, names: Sequence[str], lines: int) -> list[tuple[str, str]]:
    """The last lines of the nodes' logs, by time (UTC); a line without one stays with the line before."""
    entries: list[tuple[str, int, str, str]] = []
    for name in names:
        path = cluster.instance(name).log_file
        if not path.exists():
            continue
        stamp = ""
        for number, line in enumerate(path.read_text(errors="replace").splitlines()[-lines:]):
            if line[:2] == "20" and line[4:5] == "-":
                stamp = line[:23]
            entries.append((stamp, number, name, line))
    return [(name, line) for _, _, name, line in sorted(entries)[-lines:]]


async def destroy(folder: Path, on_step: OnStep | None) -> None:
    """Stops everything at once and removes the folder's contents."""
    async with opened(folder) as cluster:
        with cluster.directory.locked():
            for node in cluster.desired.nodes:
                instance = cluster.instance(node.name)
                if instance.pid is None:
                    continue
                if on_step is not None:
                    on_step(Kill(node.name), False)
                instance.kill()
                if on_step is not None:
                    on_step(Kill(node.name), True)
            cluster.end_links()
            cluster.directory.destroy()


def shell(values: dict[str, str]) -> list[str]:
    """Lines for `eval`."""
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
