"""Positions in a source's history: LSN, position, checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

_LSN = re.compile(r"^([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})$")


class Lsn(int):
    """A log sequence number: a byte offset in the write-ahead log, 64 bits, printed `X/Y` in hex."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads PostgreSQL's text form (`16/B374D848`). Raises ValueError when it is anything else."""
        found = _LSN.match(text)
        if found is None:
            raise ValueError(f"not an LSN: {text!r}; an LSN looks like 16/B374D848")
        return cls((int(found[1], 16) << 32) | int(found[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The one order of changes.

    `commit_lsn` is the start of the commit record, as Begin announces it; several changes share an LSN, so
    `ordinal` counts the delivered changes, truncates and messages since Begin (from 1), the same on every
    redelivery. LSN order alone is not commit order.
    """

    commit_lsn: Lsn
    ordinal: int

    def __str__(self) -> str:
        return f"{self.commit_lsn}#{self.ordinal}"


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """Up to where a sink is durable.

    `epoch` counts the source's histories (it rises when system identifier or timeline changes). `position` is
    the last change of the last whole transaction. `through` is the *end* of that commit, or a later
    keepalive's LSN: what slots are confirmed at and tokens are compared with. A slot confirmed at the commit
    LSN itself would send the whole transaction again.
    """

    epoch: int
    position: Position
    through: Lsn

    @property
    def numbers(self) -> list[int]:
        """As stores keep it: epoch, commit LSN, ordinal, through. `of` reads it."""
        return [self.epoch, int(self.position.commit_lsn), self.position.ordinal, int(self.through)]

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Self:
        epoch, lsn, ordinal, through = numbers[0], numbers[1], numbers[2], numbers[3]
        return cls(epoch, Position(Lsn(lsn), ordinal), Lsn(through))

    def __str__(self) -> str:
        return f"{self.epoch}:{self.position}..{self.through}"
