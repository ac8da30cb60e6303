"""What can be done to a cluster, one thing a step. Steps are values: the planner makes them, `apply` carries them out.

Each can be carried out again after it was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from walcast.cluster.desired import LinkMode


@dataclass(frozen=True, slots=True)
class Step:
    """Something done to one node."""

    node: str

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.node}"


@dataclass(frozen=True, slots=True)
class Initialise(Step):
    def __str__(self) -> str:
        return f"make an empty server at {self.node}"


@dataclass(frozen=True, slots=True)
class Bootstrap(Step):
    def __str__(self) -> str:
        return f"make roles and database at {self.node}"


@dataclass(frozen=True, slots=True)
class Configure(Step):
    """Writes the configuration; a running server takes it up."""

    why: str = ""

    def __str__(self) -> str:
        return f"configure {self.node}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True, slots=True)
class Start(Step):
    def __str__(self) -> str:
        return f"start {self.node}"


@dataclass(frozen=True, slots=True)
class Stop(Step):
    """`ready` writes a checkpoint first, so that the stop itself is short."""

    why: str = ""
    ready: bool = False

    def __str__(self) -> str:
        return f"stop {self.node}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True, slots=True)
class Kill(Step):
    why: str = ""

    def __str__(self) -> str:
        return f"kill {self.node}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True, slots=True)
class Freeze(Step):
    def __str__(self) -> str:
        return f"freeze the processes of {self.node}"


@dataclass(frozen=True, slots=True)
class Thaw(Step):
    def __str__(self) -> str:
        return f"let the processes of {self.node} go on"


@dataclass(frozen=True, slots=True)
class CreateSlot(Step):
    slot: str

    def __str__(self) -> str:
        return f"create slot {self.slot} on {self.node}"


@dataclass(frozen=True, slots=True)
class DropSlot(Step):
    slot: str

    def __str__(self) -> str:
        return f"drop slot {self.slot} on {self.node}"


@dataclass(frozen=True, slots=True)
class Clone(Step):
    """In place of the data that are there, once the copy is whole."""

    source: str

    def __str__(self) -> str:
        return f"copy {self.source} to {self.node} (base backup)"


@dataclass(frozen=True, slots=True)
class Rewind(Step):
    source: str

    def __str__(self) -> str:
        return f"rewind {self.node} to where it left the history of {self.source}"


@dataclass(frozen=True, slots=True)
class Remove(Step):
    """Removes the node's whole folder."""

    def __str__(self) -> str:
        return f"remove the folder of {self.node}"


@dataclass(frozen=True, slots=True)
class Demote(Step):
    """From its next start it is a replica."""

    def __str__(self) -> str:
        return f"make {self.node} a replica"


@dataclass(frozen=True, slots=True)
class Unfence(Step):
    """Only for showing what an old primary does that comes back by itself; no plan holds it."""

    def __str__(self) -> str:
        return f"start {self.node} as the primary that it was"


@dataclass(frozen=True, slots=True)
class Promote(Step):
    """With `after`: only once it has the last record of that node, which has been stopped."""

    after: str = ""

    def __str__(self) -> str:
        return f"promote {self.node}" + (f", once it has all of {self.after}" if self.after else "")


@dataclass(frozen=True, slots=True)
class AwaitStreaming(Step):
    source: str

    def __str__(self) -> str:
        return f"wait until {self.node} streams from {self.source}"


@dataclass(frozen=True, slots=True)
class Replay(Step):
    action: Literal["pause", "resume"]

    def __str__(self) -> str:
        return f"{self.action} replay at {self.node}"


@dataclass(frozen=True, slots=True)
class SetLink(Step):
    """Starts, changes or ends the proxy before a node. `mode` direct ends it."""

    mode: LinkMode
    port: int
    target: int
    seconds: float = 0.0

    def __str__(self) -> str:
        what = {
            "direct": "end the proxy of",
            "delay": f"delay the network by {self.seconds * 1000:.0f} ms for",
            "cut": "cut the network of",
            "refuse": "reset the connections of",
        }
        return f"{what[self.mode]} {self.node}"


@dataclass(frozen=True, slots=True)
class Blocked:
    """What a node needs a person for."""

    node: str
    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order; and what cannot be done without a person."""

    steps: tuple[Step, ...] = ()
    blocked: tuple[Blocked, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)
