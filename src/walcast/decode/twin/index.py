"""A batch as plain objects: what the native index holds in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

_EPOCH = 946_684_800_000_000
"""Microseconds from 1970 to PostgreSQL's epoch, 2000-01-01."""

_ENTRY_BYTES = 48
_VALUE_BYTES = 8


class Column(NamedTuple):
    name: str
    type_oid: int
    typmod: int
    key: bool


class Relation(NamedTuple):
    """One schema version of a table, as the stream announced it."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


class Tuple(NamedTuple):
    """One row's values; `kinds` has a byte a column: n null, u unchanged, t text, b binary."""

    kinds: bytes = b""
    values: tuple[bytes | None, ...] = ()

    @property
    def nbytes(self) -> int:
        return _VALUE_BYTES * len(self.kinds) + sum(len(value) for value in self.values if value is not None)


NO_TUPLE = Tuple()


@dataclass(slots=True)
class Transaction:
    """`commit_time` is in microseconds since 1970. `end_lsn` is 0 while it goes on in a later part."""

    xid: int
    commit_lsn: int
    commit_time: int
    end_lsn: int = 0
    origin: str | None = None


class Truncated(NamedTuple):
    cascade: bool
    restart_identity: bool
    relations: tuple[int, ...]
    """All that the statement truncated, as far as they are published: numbers within the batch."""


class Logical(NamedTuple):
    prefix: str
    content: bytes
    transactional: bool


@dataclass(slots=True)
class Entry:
    """One change. `relation` is a number within the batch, -1 for messages."""

    op: bytes
    relation: int
    transaction: Transaction
    ordinal: int
    new: Tuple = NO_TUPLE
    old: Tuple = NO_TUPLE
    old_kind: bytes = b""
    detail: Truncated | Logical | None = None

    @property
    def nbytes(self) -> int:
        content = len(self.detail.content) if isinstance(self.detail, Logical) else 0
        return _ENTRY_BYTES + self.new.nbytes + self.old.nbytes + content


@dataclass(slots=True, weakref_slot=True, eq=False)
class Index:
    """The relations, transactions and entries of a batch, and what they weigh."""

    relations: list[Relation] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    nbytes: int = 0


@dataclass(slots=True)
class Growing:
    """An index being built. One schema version a relation, and one relation a name."""

    index: Index = field(default_factory=Index)
    _numbers: dict[int, int] = field(default_factory=dict)
    _names: dict[tuple[str, str], int] = field(default_factory=dict)

    def conflicts(self, relation: Relation) -> bool:
        """Whether an older definition, or another relation of the same name, is in here."""
        number = self._numbers.get(relation.oid)
        if number is not None:
            return self.index.relations[number] != relation
        return self._names.get((relation.schema, relation.name), relation.oid) != relation.oid

    def enter(self, relation: Relation) -> int:
        """The relation's number here. It must not conflict."""
        number = self._numbers.get(relation.oid)
        if number is None:
            number = self._numbers[relation.oid] = len(self.index.relations)
            self._names[relation.schema, relation.name] = relation.oid
            self.index.relations.append(relation)
        return number

    def add(self, entry: Entry) -> None:
        self.index.entries.append(entry)
        self.index.nbytes += entry.nbytes

    def absorb(self, other: Index) -> None:
        """Appends whole transactions; their relations must not conflict."""
        numbers = [self.enter(relation) for relation in other.relations]
        self.index.transactions += other.transactions
        same = numbers == list(range(len(numbers)))
        self.index.entries += (
            other.entries if same else [_renumbered(entry, numbers) for entry in other.entries]
        )
        self.index.nbytes += other.nbytes


def _renumbered(entry: Entry, numbers: Sequence[int]) -> Entry:
    """The entry in another index, where its relations have these numbers."""
    if entry.relation < 0:
        return entry
    detail = entry.detail
    if isinstance(detail, Truncated):
        detail = detail._replace(relations=tuple(numbers[relation] for relation in detail.relations))
    return replace(entry, relation=numbers[entry.relation], detail=detail)


def unix_time(micros: int) -> int:
    """Microseconds since 1970 from PostgreSQL's, which count from 2000; within 64 bits."""
    return min(micros + _EPOCH, 2**63 - 1)
