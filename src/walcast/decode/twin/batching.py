"""What has been decoded and not handed over yet: whole transactions, and the one that is open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from walcast.decode.frames import Delivery
from walcast.decode.twin.frames import PyFrames
from walcast.decode.twin.index import Entry, Index, Relation, Transaction, Truncated


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
        for entry in other.entries:
            if entry.relation >= 0:
                entry.relation = numbers[entry.relation]
            if isinstance(entry.detail, Truncated):
                relations = tuple(numbers[relation] for relation in entry.detail.relations)
                entry.detail = entry.detail._replace(relations=relations)
        self.index.transactions += other.transactions
        self.index.entries += other.entries
        self.index.nbytes += other.nbytes


class Open:
    """The transaction that has begun. It goes out in parts when it is too big, or when a relation changes within."""

    def __init__(self, xid: int, commit_lsn: int, commit_time: int) -> None:
        self.transaction = Transaction(xid, commit_lsn, commit_time)
        self.growing = Growing()
        self.ordinal = 0
        self.parts = 0

    def cut(self) -> Index:
        """What there is of it so far, as a part that is not the last."""
        index = self.growing.index
        index.transactions = [self.transaction]
        self.transaction = replace(self.transaction)
        self.growing = Growing()
        self.parts += 1
        return index

    def commit(self, end_lsn: int) -> Index:
        """Whole now, or the last part."""
        self.transaction.end_lsn = end_lsn
        index = self.growing.index
        index.transactions = [self.transaction]
        return index


def delivery(index: Index, ordinal: int, through: int, part: tuple[int, bool] | None) -> Delivery:
    commit_lsn = index.transactions[-1].commit_lsn
    return Delivery("changes", PyFrames(index), commit_lsn, ordinal, through, part, None)
