"""What an operator can want, as pure changes of what the cluster is to be. `LocalCluster.change` makes them so."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from walcast.cluster.desired import Desired, Link, LinkMode, NodeSpec
from walcast.cluster.observed import Observed
from walcast.cluster.profiles import Profile
from walcast.model import ConfigError, Lsn, OperatorError
from walcast.postgres.local.process import free_port, port_is_free

_ALIAS: Final = re.compile(r"^replica([1-9][0-9]*)$")
_BASE_PORT: Final = 5432


def name_of(desired: Desired, text: str) -> str:
    """A node by its name, or by its part: `primary`, `replica1`, `replica2` as `env` counts them. Raises ConfigError."""
    if text == "primary":
        return desired.primary
    alias = _ALIAS.match(text)
    replicas = desired.replicas
    if alias and int(alias[1]) <= len(replicas):
        return replicas[int(alias[1]) - 1].name
    return desired.node(text).name


def born(
    *,
    replicas: int,
    profile: Profile,
    major: int,
    bindir: str,
    tls: bool,
    archive: bool,
    base_port: int | None,
) -> Desired:
    """A new cluster: node1 is the primary. Ports from `base_port` on [5432] as far as they are free, else others.

    Raises ConfigError, and OperatorError when a port that was asked for is taken.
    """
    names = [f"node{number}" for number in range(1, replicas + 2)]
    nodes = tuple(
        NodeSpec(name, port) for name, port in zip(names, _ports(len(names), base_port), strict=True)
    )
    return Desired(major, bindir, nodes, names[0], profile, tls=tls, archive=archive)


def all_running(desired: Desired) -> Desired:
    """Everything as it was meant: running, connected, replaying."""
    return replace(desired, nodes=tuple(_well(node) for node in desired.nodes))


def all_stopped(desired: Desired) -> Desired:
    """Down as it is; what is being removed still is."""
    stopped = {node.name: replace(node, wanted="stopped", frozen=False) for node in desired.members}
    return replace(desired, nodes=tuple(stopped.get(node.name, node) for node in desired.nodes))


def new_ports(desired: Desired, down: Collection[str]) -> Desired:
    """The nodes that are down, and whose port another program has, move to free ones."""
    nodes = tuple(
        replace(node, port=free_port()) if node.name in down and not port_is_free(node.port) else node
        for node in desired.nodes
    )
    return replace(desired, nodes=nodes)


def on_free_ports(desired: Desired, names: Collection[str] | None = None) -> Desired:
    """These nodes (all of them) on ports that nobody will look for them at: for clusters that come and go."""
    nodes = tuple(
        replace(node, port=port) if names is None or node.name in names else node
        for node, port in zip(desired.nodes, _distinct_free(len(desired.nodes)), strict=True)
    )
    return replace(desired, nodes=nodes)


def started(desired: Desired, name: str) -> Desired:
    return desired.changed(name, wanted="running", frozen=False)


def stopped(desired: Desired, name: str) -> Desired:
    return desired.changed(name, wanted="stopped", frozen=False)


def resumed(desired: Desired, name: str) -> Desired:
    """All that was done to a node to hold it up, undone: pause, freeze, delays, cuts. Of the primary: of every replica's network."""
    names = [node.name for node in desired.replicas] if name == desired.primary else [name]
    for each in names:
        link = {} if name == desired.primary else {"replay_paused": False, "apply_delay": 0.0}
        desired = desired.changed(each, link=Link(), **link)
    return desired.changed(name, frozen=False)


def paused(desired: Desired, name: str, *, freeze: bool = False) -> Desired:
    """Replay paused, or all processes frozen."""
    if freeze:
        return desired.changed(name, frozen=True)
    _replica(desired, name, "replay can be paused on a replica only", "pause --freeze holds up a primary")
    return desired.changed(name, replay_paused=True)


def linked(desired: Desired, name: str, mode: LinkMode, seconds: float = 0.0) -> Desired:
    """The network of a replica; of the primary: of all replicas."""
    names = [node.name for node in desired.replicas] if name == desired.primary else [name]
    for each in names:
        port = desired.node(each).link.port or free_port()
        desired = desired.changed(each, link=Link(mode, seconds, port))
    return desired


def apply_delayed(desired: Desired, name: str, seconds: float) -> Desired:
    """The replica replays each commit so long after it was made."""
    _replica(desired, name, "only a replica replays", "choose a replica")
    return desired.changed(name, apply_delay=seconds)


def with_profile(desired: Desired, profile: Profile) -> Desired:
    profile.check([node.name for node in desired.replicas])
    return replace(desired, profile=profile)


def added(desired: Desired, count: int = 1) -> Desired:
    """So many more replicas."""
    numbers = [int(node.name.removeprefix("node")) for node in desired.nodes if node.name.startswith("node")]
    top = max(numbers, default=0)
    ports = {node.port for node in desired.nodes}
    for number in range(top + 1, top + 1 + count):
        port = (
            next((p for p in range(max(ports) + 1, max(ports) + 20) if port_is_free(p)), None) or free_port()
        )
        ports.add(port)
        desired = replace(desired, nodes=(*desired.nodes, NodeSpec(f"node{number}", port)))
    return desired


def removed(desired: Desired, name: str) -> Desired:
    """Without that replica. Raises OperatorError for the primary, and when the profile could not be kept."""
    _replica(
        desired, name, "the primary cannot be removed", "let another take over: walcast cluster switchover"
    )
    made = desired.changed(name, wanted="removed", frozen=False)
    made.profile.check([node.name for node in made.replicas])
    return made


def rejoined(desired: Desired, name: str) -> Desired:
    """Whatever only that node has may be thrown away."""
    _replica(desired, name, "the primary has nothing to rejoin", "walcast cluster status shows who is who")
    return desired.changed(name, wanted="running", frozen=False, rebuild=True)


def switched_over(desired: Desired, name: str) -> Desired:
    """That node is to be the primary, and nothing may be lost. One that is under way goes on; naming the old primary calls it
    off."""
    if name == desired.primary:
        return desired.changed(name, wanted="running")
    made = desired.changed(name, wanted="running", link=Link(), frozen=False, replay_paused=False)
    return replace(made, primary=name, handover="clean")


def promoted(desired: Desired, name: str) -> Desired:
    """That node is to be the primary with what it has; the old one is fenced, and stays down until it rejoins."""
    old = desired.primary
    if name != old:
        desired = desired.changed(old, wanted="stopped", frozen=False)
    made = desired.changed(name, wanted="running", link=Link(), frozen=False, replay_paused=False)
    return replace(made, primary=name, handover="forced")


def most_advanced(observed: Observed) -> tuple[tuple[str, Lsn], ...]:
    """The replicas that answer with what each has received, the most advanced first. A newer timeline counts more."""
    found = [
        (node.facts.timeline, max(node.facts.received or Lsn(0), node.facts.replayed or Lsn(0)), node.name)
        for node in observed.replicas
        if node.facts is not None
    ]
    return tuple(
        (name, lsn) for _, lsn, name in sorted(found, key=lambda item: (-item[0], -item[1], item[2]))
    )


def check_promotion(desired: Desired, observed: Observed, name: str, *, force: bool = False) -> None:
    """Raises OperatorError unless promoting that node loses nothing that another replica has, and the primary is gone."""
    primary = observed.node(desired.primary)
    if name == desired.primary:
        raise OperatorError(f"{name} is the primary", hint="walcast cluster status shows who is who")
    ranking = most_advanced(observed)
    found = dict(ranking).get(name)
    if force:
        return
    if primary is not None and primary.writable:
        raise OperatorError(
            f"the primary {primary.name} is alive: promoting {name} would lose what {name} does not have yet",
            hint=f"walcast cluster switchover {name} loses nothing; promote --force kills {primary.name} first",
        )
    if found is None:
        raise OperatorError(
            f"{name} does not answer: what it has is not known", hint="start it first, or --force"
        )
    best, lsn = ranking[0]
    if lsn > found:
        raise OperatorError(
            f"{best} has received {lsn - found:,} bytes of WAL more than {name} (up to {lsn}, {name} up to {found})",
            hint=f"walcast cluster promote {best}; or --force, which loses them and leaves {best} to be rejoined",
        )


def _replica(desired: Desired, name: str, why: str, hint: str) -> None:
    if name == desired.primary:
        raise OperatorError(f"{name} is the primary: {why}", hint=hint)


def _well(node: NodeSpec) -> NodeSpec:
    if node.wanted == "removed":
        return node
    return replace(node, wanted="running", frozen=False)


def _ports(count: int, base: int | None) -> Sequence[int]:
    first = base if base is not None else _BASE_PORT
    if not 1024 <= first <= 65535 - count:
        raise ConfigError(f"port {first} is out of range", hint="1024 to 65000")
    wanted = range(first, first + count)
    taken = [port for port in wanted if not port_is_free(port)]
    if not taken:
        return wanted
    if base is not None:
        raise OperatorError(
            f"port {taken[0]} is taken by another program", hint="choose another --port, or none"
        )
    return list(_distinct_free(count))


def _distinct_free(count: int) -> Iterable[int]:
    found: dict[int, None] = {}
    while len(found) < count:
        found[free_port()] = None
    return found
