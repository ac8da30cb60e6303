"""A sink held at one position while the source is read at the same one: the values and ports of `walcast.engine.fence`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from walcast.model.batch import Batch
from walcast.model.lsn import Checkpoint, Lsn
from walcast.model.ports import Sink
from walcast.model.relation import Relation, TableId

T = TypeVar("T")
_HALF = 1 << 31
_MOST_KEYS = 10_000
_UNCHANGED = ord("u")


@dataclass(frozen=True, slots=True)
class Visibility:
    """`pg_current_snapshot()`: transactions below `xmin` have ended, those from `xmax` on and the `active` ones have not.

    These are 64-bit ids; the stream carries their lower 32 bits, which mean the id nearest to `xmax`.
    """

    xmin: int
    xmax: int
    active: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `xmin:xmax:xip,...`. Raises ValueError when it is anything else."""
        xmin, xmax, active = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, active.split(","))) if active else frozenset())

    def sees(self, xid: int) -> bool:
        """Whether the effects of a committed transaction are visible in this snapshot. `xid` is of 32 bits."""
        near = (self.xmax & ~0xFFFFFFFF) | xid
        if near - self.xmax >= _HALF:
            near -= 1 << 32
        elif self.xmax - near > _HALF:
            near += 1 << 32
        return near < self.xmin or (near < self.xmax and near not in self.active)


@dataclass(frozen=True, slots=True)
class Cut:
    """A snapshot of the source and a position of its stream that belong together.

    `lsn` was read after the snapshot was taken, in the same statement: what the snapshot sees has its commit record
    before `lsn`. The reverse does not hold: a transaction may have committed before `lsn`, and be streamed, while the
    snapshot does not see it yet.
    """

    lsn: Lsn
    visibility: Visibility


RawKey = tuple[tuple[int, bytes | None], ...]
"""A key as the server sent it: for each column of `Relation.key` its kind (n, t or b) and its bytes."""


@dataclass(slots=True)
class Touched:
    """What transactions that the snapshot does not see, and that the sink has, did to one table. `whole`: it cannot be told
    by keys (a truncate, no key, or too many); the table as it is under this fence says nothing."""

    whole: bool = False
    keys: set[tuple[Relation, RawKey]] = field(default_factory=set)

    def add(self, relation: Relation, kinds: bytes, values: tuple[bytes | None, ...]) -> None:
        """Notes the key of a row, old or new."""
        number = relation.key
        if not number or any(kinds[n] == _UNCHANGED for n in number) or len(self.keys) >= _MOST_KEYS:
            self.whole = True
        else:
            self.keys.add((relation, tuple((kinds[n], values[n]) for n in number)))


class Held(Protocol):
    """A sink at a fence: everything that committed before `cut.lsn` is written, and flushed if that was asked for.

    Valid while the action runs. `position` is what the sink was given last.
    """

    @property
    def cut(self) -> Cut: ...
    @property
    def position(self) -> Checkpoint | None: ...
    @property
    def touched(self) -> Mapping[TableId, Touched]:
        """The keys in which the sink and the snapshot may rightly differ; complete."""
        ...

    @property
    def sink(self) -> Sink:
        """For reading. No call to the sink is under way meanwhile."""
        ...

    async def prepare(self, relation: Relation) -> None:
        """Makes the copy able to hold this version, as before the stream's own changes."""
        ...

    async def write(self, batch: Batch) -> None:
        """Writes rows that are not the stream's, at this position: a "changes" batch without a checkpoint. An error is
        the sink's as well: it is opened again, and `Hold` raises it."""
        ...

    async def flush(self) -> None:
        """Makes durable what was written, with the position."""
        ...


class Hold(Protocol):
    """Holds one sink at a position: `walcast.engine.Pipeline.hold`, for one sink."""

    async def __call__(
        self,
        take: Callable[[], Awaitable[Cut]],
        action: Callable[[Held], Awaitable[T]],
        *,
        flush: bool = True,
        patience: float = 60.0,
        waiting: Callable[[Sequence[int]], None] | None = None,
    ) -> T: ...
