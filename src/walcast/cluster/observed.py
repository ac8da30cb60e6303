"""What the cluster is: one immutable view a look. Nothing here asks anything.

LSNs are None where they are not known, seconds are of the observer's clock or the server's as each field says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from walcast.model import Lsn
from walcast.model.token import TimelineHistory
from walcast.postgres.local.controlfile import ControlData

Life = Literal["down", "starting", "up", "frozen", "unreachable"]


@dataclass(frozen=True, slots=True)
class Stream:
    """A row of pg_stat_replication: one reader of this server's WAL. Lags are seconds, None when idle or unknown."""

    name: str
    pid: int
    state: str | None
    sync_state: str | None
    sent: Lsn | None
    write: Lsn | None
    flush: Lsn | None
    replay: Lsn | None
    write_lag: float | None
    flush_lag: float | None
    replay_lag: float | None
    slot: str | None = None


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots. `retained` is bytes of WAL kept for it; `safe` bytes until it may lose WAL."""

    name: str
    physical: bool
    active: bool
    restart: Lsn | None
    retained: int | None
    safe: int | None
    wal_status: str | None


@dataclass(frozen=True, slots=True)
class Receiver:
    """pg_stat_wal_receiver of a replica: its side of the stream. `silent` is seconds since the primary was last heard. Without
    pg_read_all_stats it can only be seen that there is one: `status` is None."""

    status: str | None
    host: str | None
    port: int | None
    slot: str | None
    timeline: int | None
    silent: float | None
    application: str = ""
    """The name that it gives itself at the primary."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session whose COMMIT waits for replicas. `seconds` since its last change of state."""

    pid: int
    application: str
    user: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself. On a primary `lsn` is where the next record goes and `flushed` what is on its disk; on a
    replica `received` and `replayed` count. `replay_age` is seconds since the last replayed commit was made."""

    version: int
    system_id: int
    timeline: int
    in_recovery: bool
    lsn: Lsn | None
    flushed: Lsn | None
    received: Lsn | None
    replayed: Lsn | None
    replay_age: float | None
    replay_paused: bool
    streams: tuple[Stream, ...]
    slots: tuple[SlotState, ...]
    receiver: Receiver | None
    waiting: tuple[Waiting, ...]
    settings: Mapping[str, str]
    conflicts: int
    overrides: tuple[str, ...] = ()
    """Roles and databases that set synchronous_commit for themselves, as `role x: off`."""
    bootstrapped: bool = False
    configuration: str = ""
    """The mark of the configuration that is in force; empty when it is not ours."""
    not_archived: str = ""
    """The WAL file that the archive refused last, if it has taken none since."""

    def stream(self, name: str) -> Stream | None:
        return next((stream for stream in self.streams if stream.name == name), None)

    def slot(self, name: str) -> SlotState | None:
        return next((slot for slot in self.slots if slot.name == name), None)


@dataclass(frozen=True, slots=True)
class Files:
    """What a node's folder holds. `torn`: a rewind was begun and not finished. `fresh`: a base backup that was never started.
    `timeline` is the newest that WAL files there belong to, `slots` the replication slots."""

    folder: bool
    data: bool
    torn: bool
    fresh: bool
    standby: bool
    control: ControlData | None
    configuration: str
    """The mark of the configuration that is written there."""
    timeline: int | None = None
    slots: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Node:
    """One server now. `files` is None where they are out of sight. `trouble` is why it could not be asked, or why it ended."""

    name: str
    port: int
    life: Life
    files: Files | None = None
    facts: Facts | None = None
    trouble: str = ""
    pid: int | None = None
    address: str = ""

    @property
    def writable(self) -> bool:
        """It answers, and takes writes."""
        return self.facts is not None and not self.facts.in_recovery

    @property
    def standby(self) -> bool:
        """It is a replica, running or not."""
        if self.facts is not None:
            return self.facts.in_recovery
        return self.files is not None and self.files.standby

    @property
    def timeline(self) -> int | None:
        """Of the WAL that it writes or receives. A replica that receives nothing does not say it, but its files do."""
        if self.facts is not None and (
            self.writable or self.facts.receiver is not None or self.files is None
        ):
            return self.facts.timeline
        if self.files is None or self.files.control is None:
            return None
        return self.files.timeline or self.files.control.timeline

    @property
    def role(self) -> Literal["primary", "replica", "empty", "unknown"]:
        if self.facts is not None:
            return "replica" if self.facts.in_recovery else "primary"
        if self.files is None:
            return "unknown"
        if not self.files.data:
            return "empty"
        return "replica" if self.files.standby else "primary"


@dataclass(frozen=True, slots=True)
class LinkState:
    """A proxy that runs: between a replica and `target`, the primary's port."""

    node: str
    pid: int
    port: int
    target: int
    mode: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Observed:
    """All nodes, the proxies between them, and the ancestry of the newest timeline."""

    nodes: tuple[Node, ...]
    links: tuple[LinkState, ...] = ()
    history: TimelineHistory | None = None
    can_rewind: bool = True
    """Whether there is a pg_rewind for this version."""

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    @property
    def writable(self) -> tuple[Node, ...]:
        """Every node that takes writes; more than one is a split brain."""
        return tuple(node for node in self.nodes if node.writable)

    @property
    def primary(self) -> Node | None:
        """The writable node on the newest timeline."""
        return max(self.writable, key=lambda node: node.timeline or 0, default=None)

    @property
    def replicas(self) -> tuple[Node, ...]:
        """The nodes that answer and are in recovery."""
        return tuple(node for node in self.nodes if node.facts is not None and node.facts.in_recovery)

    def link(self, name: str) -> LinkState | None:
        return next((link for link in self.links if link.node == name), None)

    def behind(self, node: Node) -> int | None:
        """Bytes of the primary's WAL that a replica has not replayed; None when either is not known."""
        primary = self.primary
        if primary is None or primary.facts is None or node.facts is None or not node.facts.in_recovery:
            return None
        if primary.facts.lsn is None or node.facts.replayed is None:
            return None
        return max(0, primary.facts.lsn - node.facts.replayed)
