"""A batch divided into what a sink is given and what is set aside: see `walcast.engine.aside`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from walcast.model import (
    Batch,
    DeadLetter,
    Lsn,
    Position,
    RawChange,
    Refusal,
    Relation,
    TableId,
)

Suspects = dict[tuple[TableId, Position], Refusal]
"""Rows that were refused by a sink that lost what it had accepted before: they are recognised when they come again."""

BEHIND = Refusal(0, "behind", "", "an earlier change of its key was set aside", attempts=0)


@dataclass(frozen=True, slots=True)
class Sifted:
    """A batch, and what of it the sink is given. `places` are those of `whole` that are left out."""

    whole: Batch
    rest: Batch
    places: frozenset[int] = frozenset()
    refusals: tuple[Refusal, ...] = ()
    letters: tuple[DeadLetter, ...] = ()
    gone: frozenset[int] = frozenset()
    skipped: tuple[tuple[Relation, Position, Refusal], ...] = ()

    def original(self, refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
        """The refusals with the places that they have in `whole`."""
        if not self.places:
            return tuple(refusals)
        kept = [place for place in range(len(self.whole)) if place not in self.places]
        return tuple(replace(refusal, place=kept[refusal.place]) for refusal in refusals)


def position(raw: RawChange) -> Position:
    return Position(Lsn(raw.commit_lsn), raw.ordinal)


class Sifting:
    """What a batch is divided into, while it is."""

    def __init__(self, letters: Mapping[int, DeadLetter], batch: Batch) -> None:
        self._stored = letters
        self._batch = batch
        self._now = time.time()
        self._places: set[int] = set()
        self._letters: list[DeadLetter] = []
        self._gone: set[int] = set()
        self._skipped: list[tuple[Relation, Position, Refusal]] = []

    def forget(self, table: TableId, held: dict[TableId, set[str]]) -> None:
        """The copy's table is emptied: what waited for its rows is settled."""
        held[table] = set()
        self._letters = [letter for letter in self._letters if letter.table != table]
        self._gone.update(n for n, letter in self._stored.items() if letter.table == table)

    def skip(self, place: int, raw: RawChange, refusal: Refusal) -> None:
        self._places.add(place)
        self._skipped.append((self._batch.relations[raw.relation], position(raw), refusal))

    def set_aside(self, place: int, raw: RawChange, keys: tuple[str, str], whys: Sequence[Refusal]) -> None:
        """A letter for each who refused it."""
        relation = self._batch.relations[raw.relation]
        self._places.add(place)
        distinct = keys if keys[0] != keys[1] else keys[:1]
        if raw.op != b"R" and self._known(position(raw), relation.table, distinct):
            return
        self._letters += [
            DeadLetter(
                number=0,
                relation=relation,
                raw=raw,
                keys=distinct,
                kind=why.kind,
                code=why.code,
                message=why.message,
                by=why.by,
                attempts=why.attempts,
                since=self._now,
                tried=self._now,
            )
            for why in whys
        ]

    def _known(self, at: Position, table: TableId, keys: tuple[str, ...]) -> bool:
        """Whether a change that comes again is a letter already."""
        return any(
            (letter.position, letter.table, letter.keys) == (at, table, keys)
            for letter in self._stored.values()
        )

    def sifted(self, refusals: tuple[Refusal, ...]) -> Sifted:
        batch = self._batch
        return Sifted(
            batch,
            batch.without(self._places) if self._places else batch,
            frozenset(self._places),
            refusals,
            tuple(self._letters),
            frozenset(self._gone),
            tuple(self._skipped),
        )
