"""Batches: what a source yields and a sink writes."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from walcast.model.change import Change
from walcast.model.lsn import Checkpoint, Lsn
from walcast.model.relation import Relation, TableId, TypeChoices

ValueFormat = Literal["binary", "text", "mixed"]


class Durability(enum.Enum):
    """What a sink promises of a written batch.

    ACCEPTED: it will be durable after a successful flush. DURABLE: it survives the target's crash now.
    """

    ACCEPTED = "accepted"
    DURABLE = "durable"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a transaction too big for the memory budget, or a chunk of a table's snapshot.

    `number` counts from 0. The sink may make nothing visible or durable before the `last` part of a transaction.
    A snapshot's part 0 replaces whatever the copy held of that table; parts after it arrive in any order, and
    `last` is sent last.
    """

    number: int
    last: bool


class ArrowTable(Protocol):
    """Anything with the Arrow PyCapsule stream interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class RawChange(NamedTuple):
    """A change with its values as the server sent them, in commit order. `op` is one of b"IUDTMR".

    `kinds` has one byte a column: n null, u unchanged, t text, b binary. `old_kind` is b"K" (key columns; the
    others are null), b"O" (whole row) or b"" (none sent).
    """

    op: bytes
    relation: int
    commit_lsn: int
    ordinal: int
    xid: int
    commit_time: int
    kinds: bytes
    values: tuple[bytes | None, ...]
    old_kind: bytes
    old_kinds: bytes
    old_values: tuple[bytes | None, ...]
    detail: tuple[object, ...]
    """Truncate: (cascade, restart_identity, relation numbers). Message: (prefix, content, transactional)."""


class RowSet(Protocol):
    """Rows of one relation, still as the server sent them."""

    def __len__(self) -> int: ...
    @property
    def format(self) -> ValueFormat: ...
    def copy(self, columns: Sequence[int]) -> Sequence[bytes | memoryview]:
        """The rows as COPY input (binary with header and trailer, or text), in the order of `columns`.

        Raises ValueError when `format` is mixed.
        """
        ...

    def table(self, columns: Sequence[int], choices: TypeChoices) -> ArrowTable:
        """The rows as Arrow, only these columns."""
        ...

    def rows(self) -> Iterator[tuple[bytes, tuple[bytes | None, ...]]]:
        """(kinds, values) a row, over all columns of the relation."""
        ...

    def values(self, columns: Sequence[int], most: int) -> Iterator[list[list[Any]]]:
        """Python values as `Change.new` has them, `most` rows at a time: of each of these columns a list."""
        ...


class UpsertGroup(NamedTuple):
    """Last states of rows that share the same unchanged columns.

    `fresh`: every row was first inserted in this batch, so that a plain insert is expected to succeed.
    """

    unchanged: tuple[int, ...]
    fresh: bool
    rows: RowSet


class NetChanges(NamedTuple):
    """A batch's changes of one relation, collapsed to the last state of each key.

    Apply in order: truncate, deletes, upserts. `replay` is True when collapsing would not be right (a key changed,
    or rows without a key were updated, deleted or truncated): then deletes and upserts are empty and the changes must be applied one at a
    time from `Batch.raw()`. `deletes` holds key columns only, other columns are null.
    """

    truncate: bool
    cascade: bool
    restart_identity: bool
    replay: bool
    deletes: RowSet | None
    upserts: tuple[UpsertGroup, ...]


class Batch(Protocol):
    """Transactions in commit order, or a part of one that is too big, or a chunk of a table's snapshot.

    It keeps the server's bytes and an index of them; rows, Arrow, net changes and COPY input are made on demand.
    One schema version per relation; a new version starts a new batch or part.
    """

    @property
    def kind(self) -> Literal["changes", "snapshot", "idle"]: ...
    @property
    def relations(self) -> Sequence[Relation]: ...
    @property
    def checkpoint(self) -> Checkpoint | None:
        """What the sink is durable through once this batch is; None in every part of a transaction but the last,
        and in snapshot chunks."""
        ...

    @property
    def part(self) -> Part | None: ...
    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        ...

    @property
    def transactions(self) -> int: ...
    @property
    def commit_time(self) -> float | None:
        """Unix time (seconds) of the last commit; None for idle batches and snapshots."""
        ...

    def __len__(self) -> int:
        """Changes, truncates and messages."""
        ...

    def counts(self, relation: Relation) -> Mapping[str, int]:
        """Changes of one relation by operation: insert, update, delete, truncate."""
        ...

    def changes(self) -> Iterator[Change]:
        """Rows with Python values, lazily, in commit order."""
        ...

    def raw(self) -> Iterator[RawChange]:
        """Rows with the server's bytes, lazily, in commit order; `relation` indexes `relations`."""
        ...

    def table(self, relation: Relation, choices: TypeChoices = ...) -> ArrowTable:
        """All changes of one relation in commit order. Columns: `_op`, `_commit_lsn`, `_ordinal`, `_xid`, `_commit_time`,
        `_unchanged` (column numbers not sent), `_old` (struct, null if not sent), then the relation's columns, each
        field with metadata `pg.type_oid` and `pg.typmod`."""
        ...

    def net(self, relation: Relation) -> NetChanges: ...
    def json_lines(self) -> bytes:
        """Every change as one line of JSON, in commit order (docs/reference/jsonl.md)."""
        ...

    def documents(
        self, relation: Relation, fields: Sequence[tuple[str, str]], id: Sequence[str], start: int, stop: int
    ) -> tuple[list[str], list[bytes]] | None:
        """Of the relation's rows from `start` up to `stop` the ids, made of these columns, and the documents in JSON: pairs of
        field and column. The same as `walcast.mapping` makes of the rows one by one, sooner. None: make them of the rows."""
        ...

    @property
    def xids(self) -> Sequence[int]:
        """The transactions' ids (32 bits) in commit order. Of a part it is its transaction's; snapshots have none."""
        ...

    @property
    def last_commit(self) -> tuple[int, Lsn] | None:
        """Epoch and LSN of the last commit record in it, also of a part; None where there is none."""
        ...

    def upto(self, lsn: Lsn) -> Batch | None:
        """What of it committed before `lsn`, with the checkpoint at that end: the other half of `after`.

        The batch itself when that is all of it, None when it is nothing. A part goes with its whole transaction. A
        snapshot chunk is at no position and is given whole.
        """
        ...

    def after(self, checkpoint: Checkpoint | None, starts: Mapping[TableId, Lsn]) -> Batch | None:
        """What of it a sink at `checkpoint` does not have yet: transactions up to the checkpoint dropped, and changes of a
        table that committed before its snapshot's start LSN. None when nothing is left, not even a newer checkpoint."""
        ...

    def join(self, later: Sequence[Batch]) -> tuple[Batch, int]:
        """One batch of this one and the first n of those that follow it, and n: as many as there are before a part of a
        transaction, a snapshot's chunk, another version of a table or another history. (self, 0) when it is none."""

    def row_keys(self, raw: RawChange) -> tuple[str, str]:
        """The key before one of its changes and after it, as `walcast.model.row_keys` says; no other value is read."""
        ...

    def without(self, places: Collection[int]) -> Batch:
        """The same without the changes at these places: from 0, in the order of `raw` and `changes`. Checkpoint and part stay,
        also when no change is left."""
        ...
