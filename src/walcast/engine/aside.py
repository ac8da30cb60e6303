"""Rows that a sink refuses: set aside with the batch that brought them, their keys held back, tried again when asked.

batch --sift--> rest ------- write ---> sink          one transaction where the target has them; else the letters
                 letters ---------^                   are durable before the batch is written
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from walcast.engine import failpoints
from walcast.engine.metrics import Metrics
from walcast.engine.sieve import BEHIND, Sifted, Sifting, Suspects, position
from walcast.model import (
    Batch,
    CallsAgain,
    DeadLetter,
    DeadLetterStore,
    Durability,
    KeepsDeadLetters,
    OperatorError,
    Refusal,
    RowPolicies,
    RowsRefused,
    Sink,
    TableId,
    TableStopped,
)

log = logging.getLogger("walcast.engine")


class LostWithIt(Exception):
    """The sink lost what it had accepted: it is opened again and sent it again."""


class Aside:
    """The dead letters of one session of a sink, and the way by which batches reach it."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        policies: RowPolicies,
        store: DeadLetterStore,
        suspects: Suspects,
        metrics: Metrics,
    ) -> None:
        self.letters: dict[int, DeadLetter] = {}
        self._name = name
        self._sink = sink
        self._policies = policies
        self._store = store
        self._suspects = suspects
        self._metrics = metrics
        self._beside = isinstance(sink, KeepsDeadLetters)
        self._held: dict[TableId, set[str]] = {}
        self._next = 1

    @property
    def oldest(self) -> float:
        """Age of the oldest letter, seconds; 0 without."""
        since = min((letter.since for letter in self.letters.values()), default=None)
        return 0.0 if since is None else max(0.0, time.time() - since)

    async def load(self) -> None:
        self.letters = {letter.number: letter for letter in await self._store.load()}
        self._settled(())

    async def write(self, batch: Batch) -> Durability:
        """Writes what can be written and sets the rest aside. Raises TableStopped when the policy says so, LostWithIt, and
        whatever else the sink raises."""
        waiting = [self.sift(batch)]
        while True:
            sifted = waiting[-1]
            try:
                durability = await self._give(sifted)
            except RowsRefused as refused:
                if refused.rest == "lost":
                    self._suspect(refused)
                    raise LostWithIt from refused
                if refused.batch is not sifted.rest:  # a chunk before this one, that was still on its way
                    waiting.append(self.sift(refused.batch, refused.refusals))
                    continue
                sifted = self.sift(sifted.whole, (*sifted.refusals, *sifted.original(refused.refusals)))
                if refused.rest == "undone":
                    waiting[-1] = sifted
                    continue
                await self._keep(sifted)
                durability = Durability.DURABLE
            waiting.pop()
            if not waiting:
                return durability

    def sift(self, batch: Batch, refusals: Sequence[Refusal] = ()) -> Sifted:
        """Divides a batch into what is written and what is set aside: the rows refused, and all that follow them under a key
        of theirs. Raises TableStopped when there are too many."""
        tables = self._concerned(batch, refusals)
        if not tables:
            return Sifted(batch, batch)
        refused: dict[int, list[Refusal]] = {}
        for refusal in refusals:
            refused.setdefault(refusal.place, []).append(refusal)
        held = {table: set(self._held.get(table, ())) for table in tables}
        made = Sifting(self.letters, batch)
        if batch.kind == "snapshot" and batch.part is not None and not batch.part.number:
            made.forget(batch.relations[0].table, held)  # after a crash here the copy begins once more
        for place, raw in enumerate(batch.raw()):
            if raw.op == b"M" or (table := batch.relations[raw.relation].table) not in tables:
                continue
            if raw.op == b"T":
                if self._beside:  # else a crash here would let changes pass that came before it
                    made.forget(table, held)
                continue
            suspect = self._suspects.get((table, position(raw)))
            whys = refused.get(place) or ([suspect] if suspect is not None else [])
            if not whys and not held[table]:
                continue
            keys = batch.row_keys(raw)
            behind = not held[table].isdisjoint(keys)
            if not behind and whys and self._policies.of(whys[0].kind) == "skip":
                made.skip(place, raw, whys[0])
            elif behind or whys:
                held[table].update(keys)
                made.set_aside(place, raw, keys, [BEHIND] if behind else whys)
        sifted = made.sifted(tuple(refusals))
        if len(self.letters) + len(sifted.letters) > self._policies.limit:
            raise TableStopped(
                sifted.letters[-1].table,
                f"more than {self._policies.limit} rows would be set aside",
                position=sifted.letters[-1].position,
                hint=f"see what is wrong with them (`walcast dead list --sink {self._name}`), put it right, then"
                f" `walcast resync {sifted.letters[-1].table}`",
            )
        return sifted

    def behind(self, number: int) -> list[int]:
        """The letters that have to be settled before this one, in order: earlier ones of its keys, and theirs."""
        wanted = self.letters[number]
        keys, found = set(wanted.keys), []
        for earlier in sorted((n for n in self.letters if n < number), reverse=True):
            letter = self.letters[earlier]
            if letter.table == wanted.table and not keys.isdisjoint(letter.keys):
                keys.update(letter.keys)
                found.append(earlier)
        return found[::-1]

    def together(self, numbers: Sequence[int] | None) -> list[int]:
        """These letters (all: None) and all others that share keys with them, in order. Raises OperatorError for a number that
        there is not."""
        if numbers is None:
            return sorted(self.letters)
        self._check(numbers)
        found = set(numbers)
        grown = True
        while grown:
            keys = {(self.letters[n].table, key) for n in found for key in self.letters[n].keys}
            more = {
                n
                for n, letter in self.letters.items()
                if any((letter.table, key) in keys for key in letter.keys)
            }
            grown, found = more > found, more
        return sorted(found)

    async def drop(self, numbers: Sequence[int] | None) -> list[int]:
        """Forgets letters (None: all) for good; a key is free again with the last of its letters. Raises OperatorError for a
        number that there is not."""
        gone = sorted(self.letters) if numbers is None else sorted(set(numbers))
        self._check(gone)
        await self._store.save((), gone)
        self._settled(gone)
        return gone

    async def forget(self, table: TableId) -> None:
        """All rows of the table come anew: what waits for them is settled."""
        await self.drop([number for number, letter in self.letters.items() if letter.table == table])

    async def again(self, number: int, batch: Batch) -> DeadLetter | None:
        """Writes a letter's change; None when it is in the copy now, else the letter with what was wrong this time."""
        letter, sink = self.letters[number], self._sink
        try:
            if isinstance(sink, KeepsDeadLetters):
                await sink.write_aside(batch, (), [number])
                await sink.flush()
            else:
                await (
                    sink.write_again(batch, letter.by) if isinstance(sink, CallsAgain) else sink.write(batch)
                )
                await sink.flush()
                await self._store.save((), [number])
        except RowsRefused as refused:
            why = refused.refusals[0]
            letter = replace(
                letter,
                kind=why.kind,
                code=why.code,
                message=why.message,
                by=why.by or letter.by,
                attempts=letter.attempts + why.attempts,
                tried=time.time(),
            )
            await self._store.save([letter])
            self.letters[number] = letter
            return letter
        self._settled([number])
        return None

    def _check(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number not in self.letters:
                raise OperatorError(
                    f"sink {self._name} has no dead letter {number}", hint="see them with: walcast dead list"
                )

    async def _give(self, sifted: Sifted) -> Durability:
        sink = self._sink
        if not sifted.letters and not sifted.gone:
            durability = await sink.write(sifted.rest)
            self._tell_skipped(sifted)
            return durability
        if failpoints.active:
            await failpoints.passed("aside.before")
        if isinstance(sink, KeepsDeadLetters):
            letters = self._numbered(sifted.letters)
            durability = await sink.write_aside(sifted.rest, letters, sorted(sifted.gone))
            self._set_aside(letters, sifted.gone)
        else:
            await self._keep(sifted)
            durability = await sink.write(sifted.rest)
        if failpoints.active:
            await failpoints.passed("aside.after")
        self._tell_skipped(sifted)
        return durability

    async def _keep(self, sifted: Sifted) -> None:
        letters = self._numbered(sifted.letters)
        if letters or sifted.gone:
            await self._store.save(letters, sorted(sifted.gone))
            if failpoints.active:
                await failpoints.passed("aside.kept")
        self._set_aside(letters, sifted.gone)

    def _concerned(self, batch: Batch, refusals: Sequence[Refusal]) -> set[TableId]:
        """The tables of which a change may have to be set aside."""
        if refusals:
            return {relation.table for relation in batch.relations}
        if not self._held and not self._suspects:
            return set()
        suspected = {table for table, _ in self._suspects}
        return {
            relation.table
            for relation in batch.relations
            if (relation.table in self._held or relation.table in suspected)
            and (batch.kind == "snapshot" or any(batch.counts(relation).values()))
        }

    def _suspect(self, refused: RowsRefused) -> None:
        by_place = {refusal.place: refusal for refusal in refused.refusals}
        for place, raw in enumerate(refused.batch.raw()):
            if place in by_place:
                table = refused.batch.relations[raw.relation].table
                self._suspects[table, position(raw)] = by_place[place]

    def _numbered(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        return [replace(letter, number=number) for number, letter in enumerate(letters, self._next)]

    def _set_aside(self, letters: Sequence[DeadLetter], gone: Iterable[int]) -> None:
        for letter in letters:
            self.letters[letter.number] = letter
            self._metrics.add("walcast_rows_set_aside_total", self._name, str(letter.table), letter.kind)
            log.error(
                "row_set_aside",
                extra={
                    "sink": self._name,
                    "table": str(letter.table),
                    "position": str(letter.position),
                    "number": letter.number,
                    "reason": letter.message,
                },
            )
        self._settled(gone)

    def _tell_skipped(self, sifted: Sifted) -> None:
        for relation, where, refusal in sifted.skipped:
            self._metrics.add("walcast_rows_skipped_total", self._name, str(relation), refusal.kind)
            log.error(
                "row_skipped",
                extra={
                    "sink": self._name,
                    "table": str(relation),
                    "position": str(where),
                    "reason": refusal.message,
                },
            )

    def _settled(self, gone: Iterable[int]) -> None:
        for number in gone:
            self.letters.pop(number, None)
        self._held = {}
        for letter in self.letters.values():
            self._held.setdefault(letter.table, set()).update(letter.keys)
        self._next = max([self._next, *(number + 1 for number in self.letters)])
        self._metrics.set("walcast_dead_letters", self._name, to=len(self.letters))
