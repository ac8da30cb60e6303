"""Batches as sinks see them: `Frames` under the names of `walcast.model`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from walcast.decode import frames as raw_layer
from walcast.decode.values import Loader, loaders
from walcast.model import (
    UNCHANGED,
    ArrowTable,
    Change,
    Checkpoint,
    DecodeError,
    Lsn,
    Message,
    NetChanges,
    Operation,
    Part,
    Position,
    RawChange,
    Relation,
    TableId,
    TypeChoices,
    UpsertGroup,
    ValueFormat,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPERATIONS: dict[bytes, Operation] = {
    b"I": "insert",
    b"U": "update",
    b"D": "delete",
    b"T": "truncate",
    b"M": "message",
    b"R": "snapshot",
}
_DEFAULT_CHOICES = TypeChoices()
_NULL, _UNCHANGED, _TEXT = b"nut"


class StreamBatch:
    """Changes of one or more transactions, or a snapshot chunk. Implements `walcast.model.Batch`.

    `relations` are the frames' relations, in their order, as the catalog completed them. `epoch` is the
    source's history that the LSNs belong to, also where `checkpoint` is None.
    """

    def __init__(
        self,
        frames: raw_layer.Frames,
        relations: Sequence[Relation],
        catalog: raw_layer.Catalog,
        *,
        epoch: int = 0,
        checkpoint: Checkpoint | None = None,
        part: Part | None = None,
    ) -> None:
        self.frames = frames
        self._relations = tuple(relations)
        self._catalog = catalog
        self._epoch = epoch
        self._checkpoint = checkpoint
        self._part = part

    @property
    def kind(self) -> Literal["changes", "snapshot", "idle"]:
        return self.frames.kind

    @property
    def relations(self) -> Sequence[Relation]:
        return self._relations

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self._checkpoint

    @property
    def part(self) -> Part | None:
        return self._part

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes

    @property
    def transactions(self) -> int:
        return self.frames.transaction_count()

    @property
    def commit_time(self) -> float | None:
        last = self.frames.last_transaction() if self.kind == "changes" else None
        return None if last is None else last[3] / 1e6

    def __len__(self) -> int:
        return len(self.frames)

    def __bool__(self) -> bool:
        """Also without changes it may carry a checkpoint, or end a transaction's parts."""
        return True

    def __repr__(self) -> str:
        return f"<StreamBatch {self.kind}, {len(self)} changes, checkpoint {self._checkpoint}, part {self._part}>"

    def counts(self, relation: Relation) -> Mapping[str, int]:
        """Changes of one relation by operation; all 0 when the batch has none of it."""
        names = ("insert", "update", "delete", "truncate", "snapshot")
        if relation not in self._relations:
            return dict.fromkeys(names, 0)
        return dict(zip(names, self.frames.counts(self._number(relation)), strict=True))

    def changes(self) -> Iterator[Change]:
        readers = [
            _RowReader(columns, raw) for columns, raw in zip(self._relations, self._raw(), strict=True)
        ]
        origins = {(xid, lsn): origin for xid, lsn, _, _, origin in self.frames.transactions() if origin}
        for raw in self.raw():
            yield _change(raw, readers, origins.get((raw.xid, raw.commit_lsn)))

    def raw(self) -> Iterator[RawChange]:
        return (RawChange(*entry) for entry in self.frames.entries())

    def table(self, relation: Relation, choices: TypeChoices = _DEFAULT_CHOICES) -> ArrowTable:
        return self.frames.arrow(self._number(relation), self._catalog, *_settings(choices))

    def net(self, relation: Relation) -> NetChanges:
        truncate, cascade, restart, replay, deletes, upserts = self.frames.net(
            self._number(relation), list(relation.key)
        )
        return NetChanges(
            truncate,
            cascade,
            restart,
            replay,
            None if deletes is None else Rows(deletes, self._catalog),
            tuple(
                UpsertGroup(tuple(unchanged), fresh, Rows(rows, self._catalog))
                for unchanged, fresh, rows in upserts
            ),
        )

    def json_lines(self) -> bytes:
        return self.frames.json_lines(self._catalog, [list(relation.key) for relation in self._relations])

    def after(
        self, checkpoint: Checkpoint | None, starts: Mapping[TableId, Lsn]
    ) -> StreamBatch | IdleBatch | None:
        if self.kind == "snapshot":
            return self
        held = _held(checkpoint, self._epoch)
        if held is None:
            return None
        drops = {
            relation.oid: int(starts[relation.table])
            for relation in self._relations
            if relation.table in starts
        }
        if held == 0 and not drops:
            return self
        frames = self.frames.select(held, drops)
        if frames is not None:
            return StreamBatch(
                frames,
                self._relations,
                self._catalog,
                epoch=self._epoch,
                checkpoint=self._checkpoint,
                part=self._part,
            )
        return self._emptied(checkpoint, held)

    def _emptied(self, checkpoint: Checkpoint | None, held: int) -> IdleBatch | None:
        """What is left when every change went: the newer checkpoint, and the place in the sequence of parts."""
        last = self.frames.last_transaction()
        if self._part is not None and last is not None and last[1] > held:
            return IdleBatch(self._checkpoint, self._part)
        if self._checkpoint is None or (checkpoint is not None and self._checkpoint <= checkpoint):
            return None
        return IdleBatch(self._checkpoint)

    def _number(self, relation: Relation) -> int:
        for number, known in enumerate(self._relations):
            if known is relation:
                return number
        try:
            return self._relations.index(relation)
        except ValueError:
            raise ValueError(f"the batch has no changes of {relation}") from None

    def _raw(self) -> list[raw_layer.RelationTuple]:
        return self.frames.relations()


class IdleBatch:
    """No changes, only a newer checkpoint; or a part of a transaction from which every change was dropped.

    The latter has a `part` and the kind "changes", so that a sink that opened a transaction for an earlier part
    sees its last one.
    """

    relations: Sequence[Relation] = ()
    nbytes = 0
    transactions = 0
    commit_time: float | None = None

    def __init__(self, checkpoint: Checkpoint | None, part: Part | None = None) -> None:
        self.checkpoint = checkpoint
        self.part = part

    @property
    def kind(self) -> Literal["changes", "snapshot", "idle"]:
        return "idle" if self.part is None else "changes"

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<IdleBatch checkpoint {self.checkpoint}, part {self.part}>"

    def counts(self, relation: Relation) -> Mapping[str, int]:
        return dict.fromkeys(("insert", "update", "delete", "truncate", "snapshot"), 0)

    def changes(self) -> Iterator[Change]:
        return iter(())

    def raw(self) -> Iterator[RawChange]:
        return iter(())

    def table(self, relation: Relation, choices: TypeChoices = _DEFAULT_CHOICES) -> ArrowTable:
        raise ValueError(f"the batch has no changes of {relation}")

    def net(self, relation: Relation) -> NetChanges:
        return NetChanges(False, False, False, False, None, ())

    def json_lines(self) -> bytes:
        return b""

    def after(self, checkpoint: Checkpoint | None, starts: Mapping[TableId, Lsn]) -> IdleBatch | None:
        newer = checkpoint is None or (self.checkpoint is not None and self.checkpoint > checkpoint)
        return self if newer or self.part is not None else None


class Rows:
    """A `walcast.model.RowSet` over the decoder's."""

    def __init__(self, rows: raw_layer.RowSet, catalog: raw_layer.Catalog) -> None:
        self._rows = rows
        self._catalog = catalog

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def format(self) -> ValueFormat:
        return self._rows.format

    def copy(self, columns: Sequence[int]) -> Sequence[bytes | memoryview]:
        return self._rows.copy(list(columns))

    def table(self, columns: Sequence[int], choices: TypeChoices = _DEFAULT_CHOICES) -> ArrowTable:
        return self._rows.arrow(list(columns), self._catalog, *_settings(choices))

    def rows(self) -> Iterator[tuple[bytes, tuple[bytes | None, ...]]]:
        return self._rows.rows()


class _RowReader:
    """Reads the tuples of one relation into dicts of Python values."""

    def __init__(self, relation: Relation, raw: raw_layer.RelationTuple) -> None:
        self.relation = relation
        self._columns: list[tuple[str, Loader, Loader]] = [
            (column.name, *loaders(column.type)) for column in relation.columns
        ]
        self._key = [column[3] for column in raw[4]]

    def row(self, kinds: bytes, values: Sequence[bytes | None]) -> dict[str, Any]:
        return {
            column[0]: _value(kind, value, column)
            for kind, value, column in zip(kinds, values, self._columns, strict=True)
        }

    def key(self, kinds: bytes, values: Sequence[bytes | None]) -> dict[str, Any]:
        return {
            column[0]: _value(kind, value, column)
            for kind, value, column, key in zip(kinds, values, self._columns, self._key, strict=True)
            if key
        }


def _value(kind: int, value: bytes | None, column: tuple[str, Loader, Loader]) -> Any:
    if value is None:
        return UNCHANGED if kind == _UNCHANGED else None
    return column[1](value) if kind == _TEXT else column[2](value)


def _change(raw: RawChange, readers: Sequence[_RowReader], origin: str | None) -> Change:
    position = Position(Lsn(raw.commit_lsn), raw.ordinal)
    time = None if raw.op == b"R" else _moment(raw.commit_time)
    op = _OPERATIONS[raw.op]
    if raw.op == b"M":
        prefix, content, transactional = raw.detail
        message = Message(str(prefix), bytes(content), bool(transactional))  # type: ignore[call-overload]  # as RawChange says
        return Change(op, position, None, None, None, raw.xid, time, origin, message)
    reader = readers[raw.relation]
    if raw.op == b"T":
        cascade, restart = bool(raw.detail[0]), bool(raw.detail[1])
        return Change(
            op, position, reader.relation, None, None, raw.xid, time, origin, None, cascade, restart
        )
    new = None if raw.op == b"D" else reader.row(raw.kinds, raw.values)
    old = None
    if raw.old_kind:
        read = reader.key if raw.old_kind == b"K" else reader.row
        old = read(raw.old_kinds, raw.old_values)
    return Change(op, position, reader.relation, new, old, raw.xid, time, origin)


def _moment(micros: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise DecodeError("a commit time that no calendar has") from None


def _held(checkpoint: Checkpoint | None, epoch: int) -> int | None:
    """The commit LSN up to which a sink has this history's transactions; None: it is in a later history.

    A commit record that begins before `through` ends there or before. The position is asked as well because a
    logical message outside transactions begins where it ends.
    """
    if checkpoint is None or checkpoint.epoch < epoch:
        return 0
    if checkpoint.epoch > epoch:
        return None
    position = checkpoint.position
    return max(checkpoint.through - 1, position.commit_lsn if position.ordinal else 0, 0)


def _settings(choices: TypeChoices) -> tuple[str, str, str]:
    return choices.numeric, choices.temporal, choices.arrays
