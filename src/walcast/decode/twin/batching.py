"""The transaction that is open, and what is handed over."""

from __future__ import annotations

from dataclasses import replace

from walcast.decode.frames import Delivery
from walcast.decode.twin.frames import PyFrames
from walcast.decode.twin.index import Growing, Index, Transaction


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
