"""A table of a copy taken over again, chunk by chunk, while the stream goes on.

    pass 1   in the source's order of keys: a chunk is read under a fence's snapshot and written at its position
    pass 2   the whole table is compared at one position and what differs is mended, until nothing does

Pass 1 writes every row: what its chunk's snapshot sees is what the sink has at that position, but for the touched keys,
which are read again under the next fence. What pass 1 cannot know pass 2 finds: rows that only the copy has, and a row
whose key changed before its chunk came into a range that was done already, so that the copy had nothing to change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from walcast.decode.rewriting import Rewrite
from walcast.model import Held, Hold, OperatorError, TableStopped
from walcast.model.comparing import Comparable, Form, Key, Span
from walcast.postgres.comparing import natural_form
from walcast.postgres.faults import explain
from walcast.postgres.relations import catalog_of
from walcast.verify.compare import Kind
from walcast.verify.keys import TouchedKeys, key_form
from walcast.verify.repair import Mender, write_rows
from walcast.verify.report import Report
from walcast.verify.run import Options, Verification
from walcast.verify.source import SourceReader, SourceTable

_ROUNDS: Final = 20
_WHOLE: Final = 1 << 60
"""Rows in a span, so that there is one: the table at one position."""


@dataclass(frozen=True, slots=True)
class Chunked:
    """How far pass 1 is: up to the key `upper`, None: through. `rows` were written."""

    upper: tuple[str, ...] | None
    rows: int

    def as_json(self) -> dict[str, Any]:
        return {"upper": None if self.upper is None else list(self.upper), "rows": self.rows}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Chunked:
        upper = value["upper"]
        return cls(None if upper is None else tuple(upper), value["rows"])


class Rebuild:
    """One table of one sink. `remember` is told after each chunk that is durable, so that another can go on from there,
    `finish` at the end, while the sink is held and the table still has the shape that was copied.

    Parameters
    ----------
    where
        SQL: only these rows are written; rows that only the copy has are left
    chunk
        rows that are read and written at a time, while the sink stands still
    rate
        rows a second, at most
    """

    def __init__(
        self,
        reader: SourceReader,
        item: SourceTable,
        hold: Hold,
        remember: Callable[[Chunked], Awaitable[None]],
        finish: Callable[[], Awaitable[None]],
        *,
        where: str | None = None,
        chunk: int = 1000,
        rate: float | None = None,
        patience: float = 60.0,
    ) -> None:
        if not item.key:
            raise OperatorError(
                f"{item.table} has no key: its rows cannot be told apart in chunks",
                hint="give it a primary key",
            )
        self._reader = reader
        self._item = item
        self._remember = remember
        self._finish = finish
        self._where = where
        self._chunk = chunk
        self._rate = rate
        report = Report("", "", "", "", 0, time.time())
        self._options = Options((item.table,), repair=True, span_rows=_WHOLE, patience=patience)
        self._fences = Verification(reader, hold, self._options, report)
        self._hold = hold
        self._forms: dict[str, Form] = {}
        self._rows = 0
        self._catalog = catalog_of([column.type for column in item.relation.columns])

    async def run(self, begun: Chunked | None = None) -> int:
        """Goes on from `begun`; the rows that were written. Raises OperatorError when the copy does not become equal,
        FenceLost when the sink cannot be held, and Reshaped when the table was altered: then it is to begin again."""
        done = begun or Chunked(None, 0)
        self._rows = done.rows
        first = begun is None
        while first or done.upper is not None:
            began = time.monotonic()
            done = await self._next(None if first else done.upper)
            first = False
            await self._pace(began)
        if self._where is None:
            await self._prove()
        await self._fences.at_fence(self._item, lambda held: self._finish())
        return self._rows

    async def _next(self, lower: tuple[str, ...] | None) -> Chunked:
        """One chunk, and what of it a transaction touched meanwhile."""
        for _ in range(_ROUNDS):
            found = await self._fences.at_fence(self._item, lambda held: self._write(held, lower))
            if found is not None:
                break
        else:
            raise OperatorError(
                f"{self._item.table} is truncated again and again", hint="try again when it stands still"
            )
        upper, again, rows = found
        mender = Mender(self._reader, self._item, self._forms)
        for _ in range(_ROUNDS):
            if not again:
                break
            kinds: dict[Key, Kind] = dict.fromkeys(again, "different")
            again = await self._fences.at_fence(self._item, lambda held: mender.mend(held, kinds))  # noqa: B023
        await self._reader.release()  # nobody waits for a lock of ours between two chunks
        self._rows += rows
        done = Chunked(upper, self._rows)
        await self._remember(done)
        return done

    async def _write(
        self, held: Held, lower: tuple[str, ...] | None
    ) -> tuple[tuple[str, ...] | None, list[Key], int] | None:
        """Reads a chunk and writes it: (its last key, the keys to be read again, its rows). None: under another fence."""
        item, relation = self._item, self._item.relation
        if not isinstance(held.sink, Comparable):
            raise OperatorError("this kind of sink cannot be rebuilt in chunks", hint="see: walcast sinks")
        if not self._forms:
            await held.prepare(relation)
            self._forms = await self._agreed(held)
        touched = TouchedKeys(held.touched.get(item.table), item.key, self._forms)
        if touched.whole:
            return None
        try:
            source = self._reader.opened(item, self._forms, self._where)
            upper = await source.bound(lower, self._chunk)
            there = await source.raw(Span(lower, upper), relation.names)
        except psycopg.Error as error:
            raise explain(error, f"reading {relation}") from None
        rows = [Rewrite("change", values) for key, values in there if key not in touched]
        await write_rows(held, relation, self._catalog, rows)
        await held.flush()
        return upper, sorted(touched.keys), len(there)

    async def _agreed(self, held: Held) -> dict[str, Form]:
        """The forms in which both sides write keys."""
        relation = self._item.relation
        assert isinstance(held.sink, Comparable)
        await held.flush()
        view = await held.sink.view([relation])
        try:
            copy = await view.table(relation)
            forms = {} if copy is None else dict(copy.forms)
        finally:
            await view.close()
        forms = {column.name: natural_form(column.type) for column in relation.columns} | forms
        return {name: key_form(form) if name in self._item.key else form for name, form in forms.items()}

    async def _prove(self) -> None:
        """Compares the whole table at one position and mends, until nothing differs."""
        for _ in range(_ROUNDS):
            report = Report("", "", "", "", 0, time.time(), repair=True)
            await Verification(self._reader, self._hold, self._options, report).run()
            (table,) = report.tables
            if table.state == "skipped":
                raise OperatorError(f"{self._item.table} cannot be compared: {table.reason}")
            if not table.total and not table.unsettled_rows and not table.unsettled_ranges:
                return
        raise TableStopped(
            self._item.table,
            f"{table.total} rows of {self._item.table} still differ after they were written again",
            hint=f"see which: walcast verify --table {self._item.table}",
        )

    async def _pace(self, began: float) -> None:
        if self._rate:
            await asyncio.sleep(max(0.0, began + self._chunk / self._rate - time.monotonic()))
