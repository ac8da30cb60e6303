"""The ports of the engine: a source is read, a sink is written, a journal remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from walcast.model.batch import Batch, Durability
from walcast.model.deadletter import DeadLetter, RowPolicies
from walcast.model.finding import Finding
from walcast.model.lsn import Checkpoint, Lsn
from walcast.model.relation import Relation, TableId

if TYPE_CHECKING:
    from walcast.model.fence import Visibility


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Which history this is: an LSN means something only within one system identifier and timeline."""

    system_id: int
    timeline: int
    version: int
    """server_version_num, such as 180004."""
    database: str


@dataclass(frozen=True, slots=True)
class SlotState:
    """The slot as the server holds it. `confirmed` is confirmed_flush_lsn, `retained` the bytes of WAL that it keeps."""

    name: str
    confirmed: Lsn | None
    restart: Lsn | None
    active_pid: int | None
    wal_status: str | None
    invalidation: str | None
    retained: int
    safe_wal_size: int | None = None
    plugin: str = "pgoutput"
    database: str = ""
    two_phase: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotTable:
    """A table to be snapshotted: estimates for the progress bar."""

    table: TableId
    rows: int
    bytes: int


class Source(Protocol):
    """A PostgreSQL database, read through one logical replication slot."""

    @property
    def identity(self) -> SourceIdentity: ...

    epoch: int
    """Set by the pipeline before streaming; stamped on every checkpoint."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...
    async def slot(self) -> SlotState | None:
        """The slot now; None when there is none."""
        ...

    async def create_slot(self) -> Lsn:
        """Creates the slot and keeps its exported snapshot for the next `snapshot`; its consistent point."""
        ...

    async def tables(self) -> Sequence[SnapshotTable]:
        """The published tables that match the selection."""
        ...

    def snapshot(self, tables: Sequence[TableId]) -> AsyncIterator[Batch]:
        """Chunks of these tables under one exported snapshot: the new slot's, or a temporary slot's. Before a table's first
        chunk `starts` holds its start LSN."""
        ...

    @property
    def starts(self) -> Mapping[TableId, Lsn]:
        """The start LSN of each table snapshotted by this object."""
        ...

    def stream(self, after: Checkpoint | None) -> AsyncIterator[Batch]:
        """Batches that committed after the checkpoint, without end. Raises on every fault; the pipeline decides."""
        ...

    async def confirm(self, through: Lsn) -> None:
        """Lets the slot go up to here. Called only after the checkpoint was saved."""
        ...

    async def position(self) -> Lsn:
        """The source's WAL insert position now: what a token is made from, and what lag is measured against."""
        ...

    def poke(self) -> None:
        """Asks for an idle batch at once: a token waits."""
        ...


@runtime_checkable
class KnowsTimelines(Protocol):
    """A source that can tell where its history left an earlier timeline: then a failover need not be a new copy."""

    async def timeline_end(self, timeline: int) -> Lsn | None:
        """Where the source's history left that timeline; None when it never was on it, or does not know."""
        ...


@runtime_checkable
class KnowsVisibility(Protocol):
    """A source that can tell which transactions its readers see: what a fence needs."""

    async def visibility(self) -> Visibility:
        """What a snapshot taken now sees."""
        ...

    async def unsettled(self) -> Sequence[int]:
        """Transactions (32 bits) whose commit may be in the stream already while nobody sees them: those that wait for a
        synchronous standby, or all that are open when this role may not know."""
        ...

    async def nudge(self) -> None:
        """Has the server flush the WAL that is written so far: only then does the stream reach its end."""
        ...


class Journal(Protocol):
    """A small durable map beside the data: table states, epochs, checkpoints of sinks that keep none."""

    async def load(self) -> dict[str, Any]: ...
    async def save(self, key: str, value: Any) -> None:
        """Durable when it returns. `value` is JSON; None deletes."""
        ...


@runtime_checkable
class DropsSlot(Protocol):
    """A source that can give up its slot: then it keeps no WAL for copies that are away."""

    async def drop_slot(self) -> bool:
        """False when there was none. Raises SlotInUse, OperatorError."""
        ...


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink is told about where it stands."""

    pipeline: str
    sink: str
    source: SourceIdentity
    state_dir: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """A target that takes batches and says when they are durable; an async context manager.

    Calls come one at a time, in order. `prepare` comes before the first batch that carries that schema version.
    """

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...
    async def checkpoint(self) -> Checkpoint | None:
        """What the target itself holds; None: nothing yet, or it keeps none (see `keeps_checkpoint`)."""
        ...

    @property
    def keeps_checkpoint(self) -> bool:
        """True when the target stores the checkpoint with the data; else the pipeline keeps it in `state_dir`."""
        ...

    async def prepare(self, relation: Relation) -> None:
        """Makes the target able to hold this version. Raises TableStopped when this one table cannot go on."""
        ...

    async def write(self, batch: Batch) -> Durability:
        """Takes a batch, and its checkpoint in the same transaction where the target has them."""
        ...

    async def flush(self) -> None:
        """Returns once all accepted is durable."""
        ...


@runtime_checkable
class KeepsJournal(Protocol):
    """A sink whose target can hold the pipeline's journal beside the data."""

    def journal(self) -> Journal: ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A sink that reads the source again, and so may hold what the stream has not brought yet."""

    def shown(self, system_id: int, timeline: int) -> Lsn | None:
        """Up to where it was shown this history, or one that followed it, when it was opened; None: not at all."""
        ...

    async def fill_anew(self) -> None:
        """What it holds is in doubt: it is made anew beside the stream. Durable as an order when it returns."""
        ...


@runtime_checkable
class SetsAside(Protocol):
    """A sink that can say which rows it can never apply (`RowsRefused`), and go on without them."""

    @property
    def policies(self) -> RowPolicies: ...


class DeadLetterStore(Protocol):
    """The dead letters of one sink, durable. They hold rows: whoever may read the copy may read them."""

    async def load(self) -> list[DeadLetter]:
        """All of them, by number."""
        ...

    async def save(self, letters: Sequence[DeadLetter], gone: Sequence[int] = ()) -> None:
        """Adds letters, or replaces those of the same numbers, and forgets others. Durable when it returns."""
        ...


@runtime_checkable
class KeepsDeadLetters(Protocol):
    """A sink that `SetsAside`, whose target holds the dead letters beside the data, and writes them in the batch's own transaction."""

    def dead_letters(self) -> DeadLetterStore: ...
    async def write_aside(
        self, batch: Batch, letters: Sequence[DeadLetter], gone: Sequence[int]
    ) -> Durability:
        """`write`, and in the same transaction the letters that were made of the rest, and the numbers of those that are
        settled by this batch."""
        ...


@runtime_checkable
class Builds(Protocol):
    """A sink that bears with rows that come again, chunk by chunk, beside the stream.

    `building` are the tables of which they do: an update that did not send all of a row, and finds none, changes nothing,
    and a column that is added may lack its values. Where a table of which they do not lacks values, the sink asks `may_build`:
    if so, it raises ValuesMissing with nothing done, and is given the same again when the table is among `building`.
    """

    building: Collection[TableId]
    may_build: Callable[[Relation], bool]


@runtime_checkable
class AwaitsTables(Protocol):
    """A sink that makes one thing of several tables. `awaited` gives those of which it will be sent a copy still."""

    awaited: Callable[[], Collection[TableId]]


@runtime_checkable
class CallsAgain(Protocol):
    """A sink that `SetsAside` and applies a change for several, of whom one refused it."""

    async def write_again(self, batch: Batch, by: str) -> Durability:
        """Writes for the one whose name is in the letter."""
        ...


@runtime_checkable
class Revives(Protocol):
    """A source that makes a batch of a dead letter again."""

    async def revive(self, letter: DeadLetter) -> Batch:
        """One transaction with that one change, without a checkpoint. Raises OperatorError when the table is another one by
        now."""
        ...


@runtime_checkable
class Countable(Protocol):
    """A sink whose rows can be counted and read back, for status, `walcast verify` and the demo."""

    async def count(self, table: TableId) -> int: ...


@runtime_checkable
class Movable(Protocol):
    """A sink that remembers object ids and attribute numbers of its source, which another server has others of."""

    async def moved(self) -> Sequence[TableId]:
        """The source is another server with the same rows: from now on tables and columns are known by name. Returns
        the tables that were waiting for a new snapshot."""
        ...


@runtime_checkable
class Examinable(Protocol):
    """A sink that can say what stands in its way without being opened, also beside the pipeline that has it open."""

    async def examine(self) -> Sequence[Finding]:
        """Whether the target can be reached and written. Changes nothing."""
        ...


class SinkFactory(Protocol):
    """Makes a sink that is not open yet."""

    def __call__(self, context: SinkContext) -> AbstractAsyncContextManager[Sink]: ...
