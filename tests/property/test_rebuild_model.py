"""The argument of docs/concepts/snapshot.md on a model: whatever is interleaved, the copy ends equal.

A source whose commits may be streamed before they are visible, a stream that is behind, a copy that changes nothing where
it has nothing to change, chunks under fences, crashes. Each safeguard is also left out once: then some run ends unequal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Row = tuple[int, int]
Rows = dict[int, Row]
KEYS = 12


@dataclass
class Change:
    """`big` is None where an update did not send the TOASTed column. `after` is the key afterwards; None: deleted."""

    before: int | None
    after: int | None
    small: int = 0
    big: int | None = None


@dataclass
class Transaction:
    change: Change
    visible: bool

    @property
    def keys(self) -> set[int]:
        return {key for key in (self.change.before, self.change.after) if key is not None}


def at_source(rows: Rows, change: Change) -> None:
    old = rows.pop(change.before) if change.before is not None else (0, 0)
    if change.after is not None:
        rows[change.after] = (change.small, old[1] if change.big is None else change.big)


def at_copy(rows: Rows, change: Change) -> None:
    """As the PostgreSQL sink: an update that sent the whole row puts it there, but for one that moves it."""
    there = rows.pop(change.before, None) if change.before is not None else None
    moved = change.before is not None and change.after is not None and change.before != change.after
    if change.after is None or (there is None and (moved or change.big is None)):
        return
    kept = there[1] if there is not None else 0
    rows[change.after] = (change.small, kept if change.big is None else change.big)


@dataclass
class World:
    chance: random.Random
    leave_out: str = ""
    moves: bool = True
    log: list[Transaction] = field(default_factory=list)
    source: Rows = field(default_factory=dict)
    copy: Rows = field(default_factory=dict)
    applied: int = 0
    durable: tuple[Rows, int] = field(default_factory=lambda: ({}, 0))
    lower: int | None = -1
    """Pass 1 is done up to here; None: through."""

    def write(self) -> None:
        """A transaction commits. Rows that one touched which is not visible yet are still locked."""
        locked = {key for one in self.log if not one.visible for key in one.keys}
        free = [key for key in range(KEYS) if key not in locked]
        there = [key for key in free if key in self.source]
        gone = [key for key in free if key not in self.source]
        value, kinds = (
            self.chance.randrange(1000),
            ["insert"] * bool(gone) + ["update", "delete"] * bool(there),
        )
        kinds += ["move"] * bool(self.moves and there and gone)
        if not kinds:
            return
        kind, big = self.chance.choice(kinds), self.chance.choice((None, value))
        if kind == "insert":
            change = Change(None, self.chance.choice(gone), value, value)
        elif kind == "delete":
            change = Change(self.chance.choice(there), None)
        else:
            before = self.chance.choice(there)
            change = Change(before, self.chance.choice(gone) if kind == "move" else before, value, big)
        at_source(self.source, change)
        self.log.append(Transaction(change, self.chance.random() < 0.7))

    def show(self) -> None:
        hidden = [one for one in self.log if not one.visible]
        if hidden:
            self.chance.choice(hidden).visible = True

    def stream(self) -> None:
        if self.applied < len(self.log):
            at_copy(self.copy, self.log[self.applied].change)
            self.applied += 1

    def flush(self) -> None:
        self.durable = dict(self.copy), self.applied

    def crash(self) -> None:
        self.copy, self.applied = dict(self.durable[0]), self.durable[1]

    def fence(self) -> tuple[Rows, set[int]] | None:
        """(what the snapshot sees, the touched keys), with the copy at the same position; None: one is to be waited for."""
        if self.leave_out != "waiting" and any(not one.visible for one in self.log[: self.applied]):
            return None
        seen: Rows = {}
        for one in self.log:
            if one.visible:
                at_source(seen, one.change)
        touched: set[int] = set()
        while self.applied < len(self.log):
            one = self.log[self.applied]
            if not one.visible and "touched" not in self.leave_out:
                touched |= one.keys
            self.stream()
        return seen, touched

    def chunk(self) -> None:
        found = self.fence()
        if found is None or self.lower is None:
            return
        seen, touched = found
        keys = sorted(key for key in seen if key > (self.lower if self.lower is not None else -1))[:3]
        for key in keys:
            if key not in touched:
                self.copy[key] = seen[key]
        self.flush()
        self.between()
        self.mend(touched)
        self.lower = keys[-1] if len(keys) == 3 else None

    def prove(self) -> bool:
        """Pass 2, once; whether nothing differed."""
        found = self.fence()
        if found is None:
            return False
        seen, touched = found
        differ = {key for key in {*seen, *self.copy} if seen.get(key) != self.copy.get(key)} - touched
        self.flush()
        self.between()
        self.mend(differ | touched)
        return not differ and not touched

    def mend(self, keys: set[int]) -> None:
        """Rows by their keys, each under the fence that finds it untouched."""
        while keys:
            found = self.fence()
            if found is None:
                self.show()
                continue
            seen, touched = found
            for key in keys - touched:
                if key in seen:
                    self.copy[key] = seen[key]
                else:
                    self.copy.pop(key, None)
            self.flush()
            keys = keys & touched
            self.between()

    def between(self) -> None:
        for _ in range(self.chance.randrange(4)):
            self.chance.choice((self.write, self.show, self.stream))()

    def run(self) -> None:
        for _ in range(self.chance.randrange(20)):
            self.between()
        self.copy = {key: (-1, -1) for key in range(KEYS) if self.chance.random() < 0.5}
        self.flush()
        remembered: int | None = -1
        while self.lower is not None:
            self.between()
            if self.chance.random() < 0.15:
                self.crash()
                self.lower = remembered
            self.chunk()
            remembered = self.lower
            if self.leave_out == "waiting" or self.chance.random() < 0.5:
                self.show()
        if "proof" not in self.leave_out:
            while not self.prove():
                self.between()
                self.show()
                if self.chance.random() < 0.1:
                    self.crash()
        self.between()
        while self.applied < len(self.log):
            self.stream()


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 60))
def test_every_interleaving_ends_equal(seed: int) -> None:
    world = World(random.Random(seed))
    world.run()
    assert world.copy == world.source


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 60))
def test_chunks_alone_bring_every_row_that_keeps_its_key(seed: int) -> None:
    """What `--where` relies on."""
    assert _chunks_alone(random.Random(seed), "proof")


def _chunks_alone(chance: random.Random, leave_out: str) -> bool:
    world = World(chance, leave_out, moves=False)
    world.run()
    return all(world.copy.get(key) == row for key, row in world.source.items())


@pytest.mark.parametrize("leave_out", ["waiting", "proof"])
def test_without_a_safeguard_some_do_not(leave_out: str) -> None:
    worlds = [World(random.Random(seed), leave_out) for seed in range(400)]
    for world in worlds:
        world.run()
    assert any(world.copy != world.source for world in worlds)


def test_without_the_touched_keys_chunks_alone_undo_changes() -> None:
    assert not all(_chunks_alone(random.Random(seed), "touched and proof") for seed in range(400))
