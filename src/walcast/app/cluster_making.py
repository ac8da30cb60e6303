"""Making a cluster: its programs, ports and options; and one that is made only to prove a profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from walcast.app.cluster import View, is_attached, opened, view
from walcast.cluster import operations as op
from walcast.cluster.apply import PortTaken
from walcast.cluster.desired import Desired
from walcast.cluster.directory import Directory
from walcast.cluster.local import LocalCluster, OnStep
from walcast.cluster.observed import Node, Observed
from walcast.cluster.planning import plan
from walcast.cluster.profiles import parse
from walcast.cluster.prove import Report, prove
from walcast.cluster.prove.scenarios import SCENARIOS, Scenario
from walcast.cluster.steps import Plan
from walcast.model import ConfigError, OperatorError
from walcast.postgres.local.binaries import Binaries, at, find, tool

DEFAULT_MAJOR: Final = 18


def programs(pg: str | None) -> Binaries:
    """The servers to use: a major version, or a bin folder. Raises ServerMissing, ConfigError."""
    if pg is None:
        return find(DEFAULT_MAJOR, tools=("pg_basebackup",))
    if pg.isdigit():
        binaries = find(int(pg))
        return _complete(int(pg)) or binaries
    if not Path(pg).is_dir():
        raise ConfigError(
            f"{pg} is neither a major version nor a folder",
            hint="--pg 16, or --pg /usr/lib/postgresql/15/bin",
        )
    return at(Path(pg).absolute())


def _complete(major: int) -> Binaries | None:
    """An installation that has pg_rewind, if there is one."""
    try:
        return find(major, tools=("pg_basebackup", "pg_rewind"))
    except OperatorError:
        return None


async def up(
    folder: Path,
    *,
    replicas: int | None,
    profile: str | None,
    pg: str | None,
    base_port: int | None,
    tls: bool | None,
    archive: bool,
    move_ports: bool,
    on_step: OnStep | None,
) -> tuple[View, Plan]:
    """Makes a cluster, or has one that is there running as it was. Raises ConfigError, OperatorError."""
    newborn = not Directory(folder).exists and not is_attached(folder)
    if newborn:
        LocalCluster.create(folder, _newborn(replicas, profile, pg, base_port, tls, archive))
    async with opened(folder) as cluster:
        _unchanged(cluster, pg, replicas, base_port, tls, archive)

        def wanted(desired: Desired) -> Desired:
            made = op.all_running(op.new_ports(desired, down(desired)) if move_ports else desired)
            return op.with_profile(made, parse(profile)) if profile else made

        def down(desired: Desired) -> list[str]:
            return [node.name for node in desired.nodes if cluster.instance(node.name).pid is None]

        try:
            done = await cluster.change(wanted, on_step)
        except PortTaken:
            if not newborn or base_port is not None:
                raise
            # free when they were chosen; nobody knows them yet
            done = await cluster.change(lambda desired: op.on_free_ports(desired, down(desired)), on_step)
        return await view(cluster), done


def _newborn(
    replicas: int | None,
    profile: str | None,
    pg: str | None,
    base_port: int | None,
    tls: bool | None,
    archive: bool,
) -> Desired:
    binaries = programs(pg)
    tool(binaries, "pg_basebackup", newer=True)  # rather now than half way
    if tls and not binaries.tls:
        raise ConfigError(
            f"PostgreSQL {binaries.version} in {binaries.bindir} has no TLS", hint="another --pg, or --no-tls"
        )
    return op.born(
        replicas=2 if replicas is None else replicas,
        profile=parse(profile or "semi-sync"),
        major=binaries.major,
        bindir=str(binaries.bindir),
        tls=binaries.tls if tls is None else tls,
        archive=archive,
        base_port=base_port,
    )


def _unchanged(
    cluster: LocalCluster,
    pg: str | None,
    replicas: int | None,
    base_port: int | None,
    tls: bool | None,
    archive: bool,
) -> None:
    """What a cluster was made with cannot be changed by `up`."""
    if pg is not None and programs(pg).major != cluster.desired.major:
        raise ConfigError(
            f"the cluster in {cluster.directory.root} is of PostgreSQL {cluster.desired.major}",
            hint="another --dir makes another cluster; walcast cluster destroy removes this one",
        )
    if replicas is not None and replicas != len(cluster.desired.replicas):
        raise ConfigError(
            f"the cluster in {cluster.directory.root} has {len(cluster.desired.replicas)} replicas",
            hint="walcast cluster add, walcast cluster remove",
        )
    made = cluster.desired
    for option, other in (
        ("--port", base_port is not None and base_port not in (node.port for node in made.nodes)),
        ("--tls", tls is True and not made.tls),
        ("--no-tls", tls is False and made.tls),
        ("--archive", archive and not made.archive),
    ):
        if other:
            raise ConfigError(
                f"the cluster in {cluster.directory.root} was made without {option}",
                hint="another --dir makes another cluster; walcast cluster destroy removes this one",
            )


def plan_of_birth(
    folder: Path,
    replicas: int | None,
    profile: str | None,
    pg: str | None,
    base_port: int | None,
    tls: bool | None,
    archive: bool,
) -> Plan:
    """What making a cluster would do."""
    desired = _newborn(replicas, profile, pg, base_port, tls, archive)
    return plan(
        desired, Observed(tuple(Node(node.name, node.port, "down") for node in desired.nodes)), folder
    )


async def proof(
    profile: str,
    replicas: int,
    pg: str | None,
    only: tuple[str, ...],
    on_scenario: Callable[[Scenario], None],
) -> Report:
    """Proves a profile on a cluster made for it and removed afterwards."""
    unknown = sorted(set(only) - {scenario.name for scenario in SCENARIOS})
    if unknown:
        raise ConfigError(
            f"there is no scenario {unknown[0]!r}", hint=", ".join(scenario.name for scenario in SCENARIOS)
        )
    desired = op.on_free_ports(_newborn(replicas, profile, pg, None, None, False))
    desired.profile.check([node.name for node in desired.replicas])
    return await prove(desired, only=only, on_scenario=on_scenario)
