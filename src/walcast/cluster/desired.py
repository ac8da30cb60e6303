"""What the cluster is to be: frozen, kept in the cluster's folder, changed by one operation at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from walcast.cluster.profiles import Profile, parse
from walcast.model import ConfigError

FORMAT: Final = 1
"""Of the manifest. A newer one is refused."""

Wanted = Literal["running", "stopped", "removed"]
LinkMode = Literal["direct", "delay", "cut", "refuse"]
Handover = Literal["none", "clean", "forced"]


@dataclass(frozen=True, slots=True)
class Link:
    """How a replica reaches the primary: directly, or through a proxy on `port` that delays (`seconds`), lets nothing
    through (cut) or resets every connection (refuse)."""

    mode: LinkMode = "direct"
    seconds: float = 0.0
    port: int = 0


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One server. `rebuild` is the leave to throw away what only this node has, when it has diverged. `apply_delay` is in
    seconds."""

    name: str
    port: int
    wanted: Wanted = "running"
    link: Link = field(default_factory=Link)
    replay_paused: bool = False
    frozen: bool = False
    apply_delay: float = 0.0
    rebuild: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """The whole cluster. `handover` says how the primary may change to `primary`: clean loses nothing and waits for the old
    one's last word; forced fences the old one and takes what there is. `durable=False` turns fsync off: for tests."""

    major: int
    bindir: str
    nodes: tuple[NodeSpec, ...]
    primary: str
    profile: Profile
    handover: Handover = "none"
    tls: bool = False
    archive: bool = False
    durable: bool = True
    system_id: int | None = None

    def node(self, name: str) -> NodeSpec:
        """Raises ConfigError when there is none of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(
            f"there is no node {name!r} in this cluster",
            hint=f"its nodes: {', '.join(n.name for n in self.nodes)}",
        )

    @property
    def members(self) -> tuple[NodeSpec, ...]:
        """All that are to stay."""
        return tuple(node for node in self.nodes if node.wanted != "removed")

    @property
    def replicas(self) -> tuple[NodeSpec, ...]:
        """The members but the primary."""
        return self.replicas_of(self.primary)

    def replicas_of(self, name: str) -> tuple[NodeSpec, ...]:
        """The members but `name`."""
        return tuple(node for node in self.members if node.name != name)

    def changed(self, name: str, **changes: Any) -> Desired:
        """With one node changed."""
        self.node(name)
        nodes = tuple(replace(node, **changes) if node.name == name else node for node in self.nodes)
        return replace(self, nodes=nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain values; no secret is among them."""
        return {"format": FORMAT, **asdict(self), "profile": self.profile.name}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Desired:
        """Raises ConfigError when it is none, or of a newer Walcast."""
        try:
            if value["format"] > FORMAT:
                raise ConfigError(
                    f"the cluster was made by a newer Walcast (format {value['format']}, this reads {FORMAT})",
                    hint="upgrade Walcast",
                )
            given = {name: value[name] for name in Desired.__dataclass_fields__}
            nodes = tuple(NodeSpec(**{**node, "link": Link(**node["link"])}) for node in given["nodes"])
            made = Desired(**{**given, "nodes": nodes, "profile": parse(given["profile"])})
            made.node(made.primary)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"the cluster's manifest cannot be read: {error}",
                hint="restore cluster.json, or make the cluster anew: walcast cluster destroy",
            ) from None
        return made


def slot_name(node: str) -> str:
    """The physical slot that a replica reads from."""
    return f"walcast_{node}"


def settled(desired: Desired) -> Desired:
    """What is left to be wanted once a plan has been carried out to its end."""
    nodes = tuple(replace(node, rebuild=False) for node in desired.members)
    return replace(desired, nodes=nodes, handover="none")
