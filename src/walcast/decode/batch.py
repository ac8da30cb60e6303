"""Batches as sinks see them: `Frames` under the names of `walcast.model`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from walcast.decode import frames as raw_layer
from walcast.decode.rows import DEFAULT_CHOICES, RowReader, Rows, loaders_for, settings_of, value_of
from walcast.model import (
    UNCHANGED,
    ArrowTable,
    Batch,
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
    key_text,
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
_NOWHERE = Lsn(0)


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
        readers = [RowReader(columns, raw) for columns, raw in zip(self._relations, self._raw(), strict=True)]
        origins = {(xid, lsn): origin for xid, lsn, _, _, origin in self.frames.transactions() if origin}
        for raw in self.raw():
            yield _change(raw, readers, origins.get((raw.xid, raw.commit_lsn)))

    def raw(self) -> Iterator[RawChange]:
        return (RawChange(*entry) for entry in self.frames.entries())

    def table(self, relation: Relation, choices: TypeChoices = DEFAULT_CHOICES) -> ArrowTable:
        return self.frames.arrow(self._number(relation), self._catalog, *settings_of(choices))

    def net(self, relation: Relation) -> NetChanges:
        truncate, cascade, restart, replay, deletes, upserts = self.frames.net(
            self._number(relation), list(relation.key)
        )
        return NetChanges(
            truncate,
            cascade,
            restart,
            replay,
            None if deletes is None else Rows(deletes, self._catalog, relation),
            tuple(
                UpsertGroup(tuple(unchanged), fresh, Rows(rows, self._catalog, relation))
                for unchanged, fresh, rows in upserts
            ),
        )

    def json_lines(self) -> bytes:
        return self.frames.json_lines(self._catalog, [list(relation.key) for relation in self._relations])

    def documents(
        self, relation: Relation, fields: Sequence[tuple[str, str]], id: Sequence[str], start: int, stop: int
    ) -> tuple[list[str], list[bytes]] | None:
        numbers = {name: number for number, name in enumerate(relation.names)}
        if not numbers.keys() >= {*id, *(column for _, column in fields)}:
            return None
        return self.frames.documents(
            self._number(relation),
            self._catalog,
            [(name, numbers[column]) for name, column in fields],
            [numbers[column] for column in id],
            (start, stop),
        )

    @property
    def xids(self) -> Sequence[int]:
        return self.frames.xids() if self.kind == "changes" else ()

    @property
    def last_commit(self) -> tuple[int, Lsn] | None:
        last = self.frames.last_transaction() if self.kind == "changes" else None
        return None if last is None else (self._epoch, Lsn(last[1]))

    def upto(self, lsn: Lsn) -> StreamBatch | IdleBatch | None:
        last = self.frames.last_transaction()
        if self.kind == "snapshot" or last is None or last[1] < lsn:
            return self
        head = self.frames.upto(lsn)
        end = head.end()
        if end is None or self._part is not None:
            return None
        commit_lsn, ordinal, end_lsn = end
        checkpoint = Checkpoint(self._epoch, Position(Lsn(commit_lsn), ordinal), Lsn(end_lsn))
        if not len(head):
            return IdleBatch(checkpoint)
        return StreamBatch(head, self._relations, self._catalog, epoch=self._epoch, checkpoint=checkpoint)

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

    def join(self, later: Sequence[Batch]) -> tuple[Batch, int]:
        if self.kind != "changes" or self._part is not None:
            return self, 0
        versions, frames, checkpoint, count = _Versions(self._relations), [], self._checkpoint, 0
        for batch in later:
            if isinstance(batch, StreamBatch):
                if not self._continues(batch) or not versions.take_in(batch._relations):
                    break
                frames.append(batch.frames)
            elif not isinstance(batch, IdleBatch) or batch.kind != "idle":
                break
            checkpoint = batch.checkpoint or checkpoint
            count += 1
        joined = self.frames.join(frames) if frames else self.frames
        if joined is None or not count:
            return self, 0
        made = StreamBatch(
            joined, versions.relations, self._catalog, epoch=self._epoch, checkpoint=checkpoint
        )
        return made, count

    def _continues(self, batch: StreamBatch) -> bool:
        same = batch._epoch == self._epoch and batch._catalog is self._catalog
        return same and batch.kind == "changes" and batch._part is None

    def row_keys(self, raw: RawChange) -> tuple[str, str]:
        relation = self._relations[raw.relation]
        numbers = relation.key or range(len(relation.columns))
        before, after = [], []
        for number in numbers:
            binary_and_text = loaders_for(relation.columns[number].type)
            new = old = None
            if raw.kinds:
                new = value_of(raw.kinds[number], raw.values[number], ("", *binary_and_text))
            if raw.old_kind:
                old = value_of(raw.old_kinds[number], raw.old_values[number], ("", *binary_and_text))
            before.append(old if raw.old_kind else new)
            after.append(old if raw.op == b"D" or new is UNCHANGED else new)
        return key_text(before), key_text(after)

    def without(self, places: Collection[int]) -> StreamBatch:
        return StreamBatch(
            self.frames.without(list(places)),
            self._relations,
            self._catalog,
            epoch=self._epoch,
            checkpoint=self._checkpoint,
            part=self._part,
        )

    def _emptied(self, checkpoint: Checkpoint | None, held: int) -> IdleBatch | None:
        """What is left when every change went: the newer checkpoint, and the place in the sequence of parts."""
        last = self.frames.last_transaction()
        if self._part is not None and last is not None and last[1] > held:
            return IdleBatch(self._checkpoint, self._part, Lsn(last[1]))
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

    The latter has a `part`, its transaction's `commit_lsn` and the kind "changes", so that a sink that opened a
    transaction for an earlier part sees its last one.
    """

    relations: Sequence[Relation] = ()
    nbytes = 0
    transactions = 0
    commit_time: float | None = None

    def __init__(
        self, checkpoint: Checkpoint | None, part: Part | None = None, commit_lsn: Lsn = _NOWHERE
    ) -> None:
        self.checkpoint = checkpoint
        self.part = part
        self._commit_lsn = commit_lsn

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

    def table(self, relation: Relation, choices: TypeChoices = DEFAULT_CHOICES) -> ArrowTable:
        raise ValueError(f"the batch has no changes of {relation}")

    def net(self, relation: Relation) -> NetChanges:
        return NetChanges(False, False, False, False, None, ())

    def json_lines(self) -> bytes:
        return b""

    def documents(
        self, relation: Relation, fields: Sequence[tuple[str, str]], id: Sequence[str], start: int, stop: int
    ) -> tuple[list[str], list[bytes]] | None:
        return None

    @property
    def xids(self) -> Sequence[int]:
        return ()

    @property
    def last_commit(self) -> tuple[int, Lsn] | None:
        return None

    def upto(self, lsn: Lsn) -> IdleBatch | None:
        if self.part is not None:
            return self if self._commit_lsn < lsn else None
        return self if self.checkpoint is None or self.checkpoint.through <= lsn else None

    def row_keys(self, raw: RawChange) -> tuple[str, str]:
        raise ValueError("the batch has no changes")

    def without(self, places: Collection[int]) -> IdleBatch:
        return self

    def after(self, checkpoint: Checkpoint | None, starts: Mapping[TableId, Lsn]) -> IdleBatch | None:
        newer = checkpoint is None or (self.checkpoint is not None and self.checkpoint > checkpoint)
        return self if newer or self.part is not None else None

    def join(self, later: Sequence[Batch]) -> tuple[Batch, int]:
        """A whole batch behind it says all that it says, and more."""
        if self.part is not None or not later or later[0].part is not None or later[0].kind == "snapshot":
            return self, 0
        joined, count = later[0].join(later[1:])
        return joined, count + 1


class _Versions:
    """The relations of batches that are joined, in the order of their first appearance: one version of each."""

    def __init__(self, relations: Sequence[Relation]) -> None:
        self.relations = list(relations)
        self._by_oid = {relation.oid: relation for relation in relations}

    def take_in(self, relations: Sequence[Relation]) -> bool:
        """False, and nothing is taken in, when one of them is known in another version."""
        if any(self._by_oid.get(relation.oid, relation) != relation for relation in relations):
            return False
        fresh = [relation for relation in relations if relation.oid not in self._by_oid]
        self.relations += fresh
        self._by_oid |= {relation.oid: relation for relation in fresh}
        return True


def _change(raw: RawChange, readers: Sequence[RowReader], origin: str | None) -> Change:
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
