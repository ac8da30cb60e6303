"""What is known of the servers: who is the primary, how far each has replayed, who must not be used. No I/O in here."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, NamedTuple

from psycopg.pq.abc import PGconn

from walcast.model import Lsn, NodeUnavailable, OperatorError, SplitBrain, TimelineHistory, Token, WriteLost
from walcast.postgres.connect import describe
from walcast.postgres.standing import Standing

_SAMPLES: Final = 512
"""Looks at the primary that are remembered."""
_NOWHERE: Final = Lsn(0)
_LAG_WEIGHT: Final = 4.0
"""A second of lag weighs as much as so many reads under way."""


class Role(Enum):
    """What a server is to the router."""

    PRIMARY = "primary"
    REPLICA = "replica"
    FENCED = "fenced"
    """Takes writes, but a later timeline has been seen: an old primary that came back. Nothing is sent there."""
    DIVERGED = "diverged"
    """A standby that replayed past the point where the primary's history left its own: it must be rewound or rebuilt."""
    FOREIGN = "foreign"
    """Of another cluster (system identifier)."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a server had come, and in which of its lives (a restarted standby may have gone back)."""

    life: int = 0
    timeline: int = 0
    lsn: Lsn = _NOWHERE


class _Sample(NamedTuple):
    """A look at the primary: when it was asked (monotonic), and what it said."""

    asked: float
    timeline: int
    lsn: Lsn
    flushed: Lsn


@dataclass(slots=True, eq=False)
class Node:
    """One server. Written by Fleet under its lock; each attribute is replaced whole, so that it is read without."""

    name: str
    dsn: str
    watch: str
    """The DSN by which it is looked at."""
    standing: Standing | None = None
    """Its last answer."""
    mark: Mark = field(default_factory=Mark)
    up: bool = False
    error: str | None = None
    """Why it is not up."""
    joined: float = 0.0
    """When the last new connection to it was made (monotonic seconds)."""
    caught: float | None = None
    """What committed before this moment (monotonic) has been replayed here."""
    asked: float = 0.0
    """When somebody last asked it how far it is (monotonic)."""
    version: int = 0
    """server_version_num; 0 before the first connection."""
    held: set[int] = field(default_factory=set)
    """Connections handed out."""
    asking: set[PGconn] = field(default_factory=set)
    """Connections on which somebody waits for an answer about its standing."""

    @property
    def busy(self) -> int:
        return len(self.held)

    def __str__(self) -> str:
        return f"{self.name} ({describe(self.dsn)})"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One line of `Router.status()`. `lag` in seconds: everything older has been replayed; None when nothing is known."""

    name: str
    role: Role
    timeline: int | None
    lsn: Lsn | None
    lag: float | None
    busy: int
    error: str | None


class Fleet:
    """The servers and what they said. Written under a lock, read without."""

    def __init__(
        self, nodes: Mapping[str, str], interval: float = 1.0, watch: Mapping[str, str] | None = None
    ) -> None:
        self.interval = interval
        """Seconds between two looks at each server; a read that asks for less lag shortens it."""
        self.nodes = [Node(name, dsn, (watch or nodes).get(name, dsn)) for name, dsn in nodes.items()]
        self.history: TimelineHistory | None = None
        """Of the newest timeline seen."""
        self.system_id: int | None = None
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._lock = threading.Lock()

    # What servers say

    def join(self, node: Node, version: int) -> Mark:
        """A new connection was made, and will now ask; to be given to `note` with the answer. An answer to a question
        that was asked before may be of a server that has died since: it no longer counts."""
        with self._lock:
            node.joined = time.monotonic()
            node.version = version
            return node.mark

    def note(
        self, node: Node, standing: Standing, asked: float, *, life: int = -1, joined: Mark | None = None
    ) -> int:
        """Takes in an answer to a question sent at `asked` (monotonic). `life` is the life that the asking connection
        belongs to; a new one brings what `join` gave it instead. Returns the life that it belongs to."""
        with self._lock:
            mark = node.mark
            if joined is not None and joined.life == mark.life and _begins_anew(node, joined, standing):
                mark = node.mark = Mark(mark.life + 1, standing.timeline, standing.lsn)
                node.caught = None
            elif asked < node.joined or (joined is None and life != mark.life):
                return mark.life
            else:  # within a life neither goes back; a role that may not see the timeline says an earlier one
                reached = max(mark.timeline, standing.timeline), max(mark.lsn, standing.lsn)
                node.mark = Mark(mark.life, *reached)
                standing = replace(standing, timeline=reached[0])
            node.standing, node.up, node.error = standing, True, None
            if not standing.recovering and self._leads(standing):
                flushed = standing.lsn if standing.flushed is None else min(standing.lsn, standing.flushed)
                self._samples.append(_Sample(asked, standing.timeline, standing.lsn, flushed))
                for other in self.nodes:
                    self._catch_up(other)
            else:
                self._catch_up(node)
            return mark.life

    def _catch_up(self, node: Node) -> None:
        for sample in reversed(self._samples):
            if node.caught is not None and sample.asked <= node.caught:
                return
            if node.mark.timeline >= sample.timeline and node.mark.lsn >= sample.flushed:
                node.caught = sample.asked
                return

    def learn(self, history: TimelineHistory) -> None:
        """How the newest timeline came about."""
        with self._lock:
            if self.history is not None and history.timeline == self.history.timeline:
                self.history = history

    def lost(self, node: Node, why: str) -> None:
        """The server cannot be reached; it is used again once somebody has heard from it."""
        with self._lock:
            node.up, node.error = False, why

    def _leads(self, standing: Standing) -> bool:
        """Whether a server that takes writes is on the newest timeline; the first one decides whose cluster this is."""
        if self.system_id is None:
            self.system_id = standing.system_id
        if standing.system_id != self.system_id:
            return False
        if self.history is None or standing.timeline > self.history.timeline:
            self.history = TimelineHistory(standing.timeline)
            self._samples.clear()
        return standing.timeline == self.history.timeline

    # What follows from it

    def role(self, node: Node) -> Role:
        standing, history = node.standing, self.history
        if not node.up or standing is None:
            return Role.DOWN
        if self.system_id is not None and standing.system_id != self.system_id:
            return Role.FOREIGN
        newest = history.timeline if history is not None else 0
        if not standing.recovering:
            return Role.PRIMARY if standing.timeline >= newest else Role.FENCED
        if history is not None and history.holds(standing.timeline, standing.lsn) is False:
            return Role.DIVERGED if standing.timeline < newest else Role.REPLICA
        return Role.REPLICA

    def primary(self) -> Node | None:
        """The server that takes writes. Raises SplitBrain when there are two on one timeline."""
        found = [node for node in self.nodes if self.role(node) is Role.PRIMARY]
        if len(found) > 1:
            raise SplitBrain(
                f"two servers take writes on timeline {found[0].mark.timeline}: {found[0]} and {found[1]}",
                hint="stop one of them and rejoin it as a replica; nothing is written until then",
            )
        return found[0] if found else None

    def replicas(self) -> list[Node]:
        return [node for node in self.nodes if self.role(node) is Role.REPLICA]

    def by_load(self, nodes: list[Node]) -> list[Node]:
        """Those with the fewest reads under way and the least lag first; equals by chance."""
        if len(nodes) < 2:
            return nodes
        now, most = time.monotonic(), self.interval

        def weight(node: Node) -> float:
            lag = self.lag(node, now)
            behind = 0.0 if lag is None else max(0.0, lag - most)  # a look is never younger than the last one
            return node.busy + _LAG_WEIGHT * behind + random.random() * 0.5

        return sorted(nodes, key=weight)

    def has(self, mark: Mark, token: Token) -> bool:
        """Whether a server at that mark has everything that is before the token. False when it cannot be told."""
        if mark.lsn < token.lsn:
            return False
        if mark.timeline == token.timeline:
            return True
        history = self.history
        return (
            mark.timeline > token.timeline
            and history is not None
            and history.timeline == mark.timeline
            and history.holds(token.timeline, token.lsn) is True
        )

    def check(self, token: Token) -> None:
        """Raises OperatorError for a token of another system, WriteLost for one that no copy will ever have."""
        if self.system_id is not None:
            token.check_system(self.system_id)
        history = self.history
        if history is None or history.timeline <= token.timeline:
            return
        if history.holds(token.timeline, token.lsn) is False:
            raise WriteLost(
                f"the write up to {token.lsn} of timeline {token.timeline} was lost: timeline {history.timeline} left it "
                f"at {history.end_of(token.timeline)}",
                hint="it was committed on a primary that was replaced before a standby had it; write it again, or look "
                "for it on the old primary before that is rewound",
            )

    def can_answer(self, primary: Node, token: Token) -> bool:
        """Whether the primary has the token: it is on its timeline, or a later one."""
        timeline = primary.mark.timeline
        return timeline >= token.timeline

    # Time

    def sample_since(self, moment: float, *, durable: bool = False) -> Token | None:
        """Where the primary was at the first look after `moment` (monotonic): what was committed before that (`durable`: and
        was on its disk) is before the token. None when nobody has looked since."""
        found = None
        with self._lock:
            for sample in reversed(self._samples):
                if sample.asked < moment:
                    break
                found = sample
        if found is None or self.system_id is None:
            return None
        return Token(self.system_id, found.timeline, found.flushed if durable else found.lsn)

    def lag(self, node: Node, now: float) -> float | None:
        """Seconds: whatever committed longer ago has been replayed. By looks at the primary with our own clock: true on
        an idle primary, with a broken stream, and without the right to see pg_stat_replication."""
        return None if node.caught is None else max(0.0, now - node.caught)

    def status(self) -> list[NodeStatus]:
        now = time.monotonic()
        lines = []
        for node in self.nodes:
            role = self.role(node)
            known = node.standing is not None and role is not Role.DOWN
            lag = 0.0 if role is Role.PRIMARY else self.lag(node, now) if role is Role.REPLICA else None
            lines.append(
                NodeStatus(
                    node.name,
                    role,
                    node.mark.timeline if known else None,
                    node.mark.lsn if known else None,
                    lag,
                    node.busy,
                    node.error,
                )
            )
        return lines

    def nobody(self, what: str) -> NodeUnavailable:
        """The error that says why each server was passed over."""
        said = "; ".join(
            f"{line.name}: {line.role.value}{f' ({line.error})' if line.error else ''}"
            for line in self.status()
        )
        return NodeUnavailable(
            f"no server can {what}: {said}", hint="are the servers running and in reach? see Router.status()"
        )

    def refuse_strangers(self) -> None:
        """Raises OperatorError when the servers found are not of one cluster."""
        strangers = [node for node in self.nodes if self.role(node) is Role.FOREIGN]
        if strangers:
            raise OperatorError(
                f"{strangers[0]} is of another cluster than the primary (another system identifier)",
                hint="check the DSNs of the router",
            )


def _begins_anew(node: Node, joined: Mark, standing: Standing) -> bool:
    """Whether a new connection found another server than the one that was known: restarted, or gone back, as a standby
    does that has crashed. Nothing is known of its new life but what it says now."""
    before = node.standing
    return before is not None and (standing.started != before.started or standing.lsn < joined.lsn)
