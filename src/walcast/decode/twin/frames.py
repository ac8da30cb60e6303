"""An indexed batch, and views of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from typing import Any, Literal

from walcast.decode.frames import EntryTuple, NetTuple, RelationTuple, TransactionTuple
from walcast.decode.twin.catalog import PyCatalog
from walcast.decode.twin.index import Entry, Growing, Index, Logical, Transaction, Truncated
from walcast.decode.twin.jsonl import json_lines
from walcast.decode.twin.net import net
from walcast.decode.twin.rowset import check_columns

_OPERATIONS = (b"I", b"U", b"D", b"T", b"R")


class PyFrames:
    """See `walcast.decode.frames.Frames`."""

    def __init__(self, index: Index, kind: Literal["changes", "snapshot"] = "changes") -> None:
        self.kind = kind
        self.index = index
        self._transactions = index.transactions
        self._entries = index.entries

    @property
    def nbytes(self) -> int:
        return self.index.nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def relations(self) -> list[RelationTuple]:
        return [
            (
                relation.oid,
                relation.schema,
                relation.name,
                relation.identity,
                [(name, oid, typmod, key) for name, oid, typmod, key in relation.columns],
            )
            for relation in self.index.relations
        ]

    def transactions(self) -> list[TransactionTuple]:
        return [_transaction_tuple(transaction) for transaction in self._transactions]

    def transaction_count(self) -> int:
        return len(self._transactions)

    def last_transaction(self) -> TransactionTuple | None:
        return _transaction_tuple(self._transactions[-1]) if self._transactions else None

    def counts(self, relation: int) -> tuple[int, int, int, int, int]:
        operations = [entry.op for entry in self._of(relation)]
        inserts, updates, deletes, truncates, reads = map(operations.count, _OPERATIONS)
        return inserts, updates, deletes, truncates, reads

    def select(self, after_commit_lsn: int, drops: dict[int, int]) -> PyFrames | None:
        starts = [drops.get(relation.oid, 0) for relation in self.index.relations]
        view = PyFrames(self.index, self.kind)
        view._transactions = [item for item in self._transactions if item.commit_lsn > after_commit_lsn]
        view._entries = [
            entry
            for entry in self._entries
            if entry.transaction.commit_lsn > after_commit_lsn
            and (entry.relation < 0 or entry.transaction.commit_lsn >= starts[entry.relation])
        ]
        return view if view._entries else None

    def upto(self, before: int) -> PyFrames:
        view = PyFrames(self.index, self.kind)
        view._transactions = [item for item in self._transactions if item.commit_lsn < before]
        view._entries = [entry for entry in self._entries if entry.transaction.commit_lsn < before]
        return view

    def end(self) -> tuple[int, int, int] | None:
        if not self._transactions:
            return None
        last = self._transactions[-1]
        ordinals = [
            entry.ordinal for entry in self.index.entries if entry.transaction.commit_lsn == last.commit_lsn
        ]
        return last.commit_lsn, max(ordinals, default=0), last.end_lsn

    def xids(self) -> list[int]:
        return [item.xid for item in self._transactions if item.xid]

    def join(self, later: list[PyFrames]) -> PyFrames | None:
        growing, shown = Growing(), []
        for frames in (self, *later):
            if any(growing.conflicts(relation) for relation in frames.index.relations):
                return None
            there, chosen = set(map(id, frames._transactions)), set(map(id, frames._entries))
            kept = [entry for entry in frames.index.entries if id(entry.transaction) in there]
            shown += [id(entry) in chosen for entry in kept]
            nbytes = sum(entry.nbytes for entry in kept)
            growing.absorb(Index(frames.index.relations, frames._transactions, kept, nbytes))
        joined = PyFrames(growing.index, self.kind)
        joined._entries = list(compress(joined._entries, shown))
        return joined

    def without(self, places: list[int]) -> PyFrames:
        gone = set(places)
        view = PyFrames(self.index, self.kind)
        view._transactions = self._transactions
        view._entries = [entry for place, entry in enumerate(self._entries) if place not in gone]
        return view

    def entries(self) -> Iterator[EntryTuple]:
        return map(_entry_tuple, self._entries)

    def arrow(self, relation: int, catalog: PyCatalog, numeric: str, temporal: str, arrays: str) -> Any:
        from walcast.decode.twin.arrow import changes_table

        entries = self._of(relation)
        return changes_table(self.index.relations[relation], entries, catalog, (numeric, temporal, arrays))

    def json_lines(self, catalog: PyCatalog, keys: list[list[int]]) -> bytes:
        if len(keys) != len(self.index.relations):
            raise ValueError(f"keys of {len(keys)} relations, the batch has {len(self.index.relations)}")
        return json_lines(self.index.relations, self._entries, catalog, keys)

    def documents(
        self,
        relation: int,
        catalog: Any,
        fields: list[tuple[str, int]],
        id: list[int],
        places: tuple[int, int],
    ) -> tuple[list[str], list[bytes]] | None:
        return None

    def net(self, relation: int, key: list[int]) -> NetTuple:
        entries = self._of(relation)
        found = self.index.relations[relation]
        check_columns(key, len(found.columns))
        return net(found, entries, key)

    def _of(self, relation: int) -> list[Entry]:
        if not 0 <= relation < len(self.index.relations):
            raise ValueError(f"relation {relation} of {len(self.index.relations)}")
        return [entry for entry in self._entries if entry.relation == relation]


def _transaction_tuple(item: Transaction) -> TransactionTuple:
    return item.xid, item.commit_lsn, item.end_lsn, item.commit_time, item.origin


def _entry_tuple(entry: Entry) -> EntryTuple:
    detail: tuple[object, ...] = ()
    if isinstance(entry.detail, Truncated | Logical):
        detail = tuple(entry.detail)
    return (
        entry.op,
        entry.relation,
        entry.transaction.commit_lsn,
        entry.ordinal,
        entry.transaction.xid,
        entry.transaction.commit_time,
        entry.new.kinds,
        entry.new.values,
        entry.old_kind,
        entry.old.kinds,
        entry.old.values,
        detail,
    )
