"""A comparison of one sink from its first table to its last: fences, spans, pace, progress, repair.

A fence serves as many spans of one table as fit in `hold` seconds: for so long both sides keep old versions of rows. What
a fence leaves open (keys that a transaction touched between its snapshot and its position) goes to the next ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg

from walcast.model import Cut, Held, Hold, OperatorError, RetryableError, TableId, Touched, WalcastError
from walcast.model.comparing import Comparable, CopyView, Form, Key, Span
from walcast.postgres.faults import explain
from walcast.verify.compare import KEPT, Difference, Kind, Pair
from walcast.verify.keys import TouchedKeys, key_form, readable
from walcast.verify.repair import Mender
from walcast.verify.report import Report, Row, TableReport
from walcast.verify.source import Reshaped, SourceReader, SourceTable, chosen

_ROUNDS: Final = 20
"""Fences under which what is touched again and again is tried; then it is unsettled."""
_TRIES: Final = 8
_REPAIRS: Final = 2
_SHAPES: Final = 5
"""How often a table may be altered while it is compared."""
_ANEW: Final[dict[Kind, Kind]] = {"different": "duplicate"}
"""How a difference that a repair left is repaired."""
_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """How to compare. `span_rows`: rows in a span; `hold`: seconds for which one snapshot is read; `rate`: rows of the source
    a second, at most; `listed`: differences listed for each table; `values`: show the values that differ; `patience`:
    seconds to wait for a position."""

    tables: tuple[TableId, ...] = ()
    repair: bool = False
    values: bool = False
    rate: float | None = None
    span_rows: int = 20_000
    hold: float = 5.0
    listed: int = 100
    patience: float = 60.0


@dataclass(slots=True)
class Progress:
    """How far it is. `expected` are the server's estimates. `note`: what it waits for."""

    table: str = ""
    tables: int = 0
    tables_done: int = 0
    rows: int = 0
    expected: int = 0
    differences: int = 0
    repaired: int = 0
    note: str = ""


Finished = Callable[[TableReport, "tuple[str, ...] | None"], Awaitable[None]]
"""Told after each span: the table's report so far, and the upper bound of what is done (None: all)."""


class Verification:
    """Compares tables through `hold`, the pipeline's way to a position (see `walcast.model.Hold`)."""

    def __init__(
        self,
        reader: SourceReader,
        hold: Hold,
        options: Options,
        report: Report,
        *,
        skip: Callable[[TableId], str | None] = lambda table: None,
        copy_anew: Callable[[TableId], Awaitable[None]] | None = None,
        finished: Finished | None = None,
        done: Mapping[str, TableReport] | None = None,
        begun: tuple[TableReport, tuple[str, ...]] | None = None,
    ) -> None:
        self.progress = Progress()
        self.report = report
        self._reader = reader
        self._hold = hold
        self._options = options
        self._skip = skip
        self.copy_anew = copy_anew
        """Repairs a table whose rows have no key, by a copy of it. None: it is not repaired."""
        self._finished = finished
        self._done = dict(done or {})
        self._begun = begun
        self._paced_from = time.monotonic()
        self._paced_rows = 0

    async def run(self) -> Report:
        """All tables. Raises OperatorError for a table that is not copied, SourceUnavailable."""
        tables = chosen(await self._reader.tables(), self._options.tables)
        self.progress.tables = len(tables)
        self.progress.expected = sum(item.rows for item in tables)
        for item in tables:
            self.progress.table = str(item.table)
            known = self._done.get(str(item.table))
            if known is None:
                known = await self._table(item)
            else:
                self.progress.rows += known.rows
            self.report.tables.append(known)
            self.progress.tables_done += 1
            self.progress.note = ""
        self.report.ended = time.time()
        return self.report

    async def _table(self, item: SourceTable) -> TableReport:
        made, lower = TableReport(str(item.table)), None
        altered = 0
        if self._begun is not None and self._begun[0].table == made.table:
            made, lower = self._begun
        began = time.monotonic() - made.seconds
        reason = self._skip(item.table)
        if reason is not None:
            made.state, made.reason = "skipped", reason
        else:
            while True:
                try:
                    await _TableRun(self, item, made).compare(lower)
                except Reshaped:
                    made, lower, altered = TableReport(str(item.table)), None, altered + 1
                    now = await self._reader.again(item)
                    if now is not None and altered < _SHAPES:
                        item = now
                        continue
                    made.state = "skipped"
                    made.reason = (
                        "it is not published any more" if now is None else "it is altered again and again"
                    )
                except (RetryableError, OperatorError) as error:
                    if not isinstance(error, RetryableError) and made.fences == 0:
                        raise
                    made.state, made.reason = "skipped", error.message
                break
        made.seconds = time.monotonic() - began
        made.settle()
        await self.told(made, None)
        return made

    async def told(self, table: TableReport, upper: tuple[str, ...] | None) -> None:
        if self._finished is not None:
            await self._finished(table, upper)

    async def pace(self, rows: int) -> None:
        """Waits as long as the rate asks for."""
        self.progress.rows += rows
        self._paced_rows += rows
        if self._options.rate:
            ahead = self._paced_rows / self._options.rate - (time.monotonic() - self._paced_from)
            if ahead > 0:
                await asyncio.sleep(ahead)

    @property
    def options(self) -> Options:
        return self._options

    @property
    def reader(self) -> SourceReader:
        return self._reader

    async def at_fence(self, item: SourceTable, action: Callable[[Held], Awaitable[Any]]) -> Any:
        """Runs the action at a position, trying again when the fence is lost."""
        deadline = time.monotonic() + self._options.patience
        for tries in range(1, _TRIES + 1):
            try:
                found = await self._hold(
                    lambda: self._reader.take(item),
                    action,
                    patience=max(1.0, deadline - time.monotonic()),
                    waiting=self._waits,
                )
            except RetryableError as error:
                if tries == _TRIES or time.monotonic() > deadline:
                    raise
                self.progress.note = error.message
                await asyncio.sleep(_PAUSE * 2**tries)
            else:
                self.progress.note = ""
                return found
        raise AssertionError

    def _waits(self, xids: Sequence[int]) -> None:
        shown = ", ".join(map(str, xids[:3])) + (", ..." if len(xids) > 3 else "")
        self.progress.note = f"waits for transactions that are streamed but not yet visible ({shown})"


class _Nothing(Exception):
    """There is nothing to compare; the message says why."""


class _TableRun:
    """One table, over as many fences as it takes."""

    def __init__(self, run: Verification, item: SourceTable, made: TableReport) -> None:
        self._run = run
        self._item = item
        self._made = made
        self._forms: dict[str, Form] = {}
        self._again: set[Key] = set()
        self._kept: dict[Key, Difference] = {}
        self._ordered = False
        self._mended: set[Key] = set()

    async def compare(self, lower: tuple[str, ...] | None) -> None:
        try:
            await self._all_spans(lower)
            await self._settle()
            if self._run.options.repair and self._made.total:
                await self._repair()
        except _Nothing as why:
            self._made.state, self._made.reason = "skipped", str(why)
        self._list()

    async def compare_once(self) -> None:
        """Nothing is repaired."""
        await self._all_spans(None)
        await self._settle()

    # -- comparing

    async def _all_spans(self, lower: tuple[str, ...] | None) -> None:
        finished, tries = False, 0
        while not finished:
            async with self._fence() as pair:
                until = time.monotonic() + self._run.options.hold
                await self._take_again(pair)
                while not finished and time.monotonic() < until:
                    upper = await self._bound(lower)
                    outcome = await pair.span(Span(lower, upper))
                    tries += 1
                    if outcome.unsettled and tries < _ROUNDS:
                        break  # under another fence
                    self._note(outcome.rows, outcome.copy_rows)
                    self._made.unsettled_ranges += outcome.unsettled
                    for difference in outcome.found:
                        self._found(difference)
                    for kind, count in outcome.more.items():
                        self._made.differences[kind] += count
                        self._run.progress.differences += count
                    self._again.update(outcome.again)
                    lower, finished, tries = upper, upper is None, 0
                    await self._run.told(self._made, upper)
                    await self._run.pace(outcome.rows)

    async def _settle(self) -> None:
        """What transactions touched between snapshot and position, until it stands still."""
        for _ in range(_ROUNDS):
            if not self._again:
                return
            async with self._fence() as pair:
                await self._take_again(pair)
        self._made.unsettled_rows = len(self._again)

    async def _take_again(self, pair: Pair) -> None:
        if self._again:
            outcome = await pair.keys(sorted(self._again))
            self._again = set(outcome.again)
            for difference in outcome.found:
                self._found(difference)

    async def _bound(self, lower: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if not self._ordered:
            return None
        return await self._source.bound(lower, self._run.options.span_rows)

    def _note(self, rows: int, copy_rows: int) -> None:
        self._made.rows += rows
        self._made.copy_rows += copy_rows
        self._made.ranges += 1

    def _found(self, difference: Difference) -> None:
        if difference.key not in self._kept:
            self._made.differences[difference.kind] += 1
            self._run.progress.differences += 1
        if len(self._kept) < KEPT:
            self._kept[difference.key] = difference

    @asynccontextmanager
    async def _fence(self) -> AsyncIterator[Pair]:
        """Both sides at one position, for as long as the body runs. Raises _Nothing."""
        held: list[tuple[Cut, Touched | None, CopyView]] = []
        relation = self._item.relation

        async def action(at: Held) -> None:
            if not isinstance(at.sink, Comparable):
                raise _Nothing("this kind of sink cannot show its rows")
            view = await at.sink.view([relation])
            held.append((at.cut, at.touched.get(relation.table), view))

        try:
            await self._run.at_fence(self._item, action)
        except BaseException:
            for _, _, view in held:
                await view.close()
            raise
        cut, raw, view = held[-1]
        try:
            copy = await view.table(relation)
            if copy is None:
                raise _Nothing("the copy has no such table")
            self._made.fences += 1
            self._made.first = self._made.first or str(cut.lsn)
            self._made.last = str(cut.lsn)
            key = self._item.key
            self._forms = {name: key_form(form) if name in key else form for name, form in copy.forms.items()}
            if any(name not in self._forms for name in key):
                raise _Nothing("the copy does not hold the key's columns")
            self._made.not_compared = [name for name in relation.names if name not in self._forms]
            self._ordered = bool(key) and self._item.ordered and copy.ordered
            copy.choose(self._forms)
            self._source = self._run.reader.opened(self._item, self._forms)
            touched = TouchedKeys(raw, key, self._forms)
            yield Pair(self._source, copy, self._forms, key, touched)
            await self._run.reader.release()
        except psycopg.Error as error:
            raise explain(error, f"comparing {relation}") from None
        finally:
            await view.close()

    # -- repairing

    async def _repair(self) -> None:
        """Sends the rows again and looks at them once more. What an update did not change is then removed and inserted: to
        some targets 0 and -0 are the same."""
        if not self._item.key:
            await self._copy_anew()
            return
        made, progress, found = self._made, self._run.progress, self._kept
        counts, seen = dict(made.differences), progress.differences
        kinds = {key: difference.kind for key, difference in found.items()}
        for _ in range(_REPAIRS):
            await self._mend(kinds)
            self._kept, self._again = {}, set(kinds)
            await self._settle()
            kinds = {
                key: _ANEW.get(difference.kind, difference.kind) for key, difference in self._kept.items()
            }
            if not kinds:
                break
        made.differences, progress.differences = counts, seen
        self._mended = {key for key in found if key not in kinds and key not in self._again}
        made.repaired = len(self._mended)
        progress.repaired += made.repaired
        self._kept = found

    async def _copy_anew(self) -> None:
        """Rows without a key cannot be told apart, so none can be sent by itself."""
        made, copy_anew = self._made, self._run.copy_anew
        if copy_anew is None:
            return
        self._run.progress.note = "is copied anew: its rows have no key"
        again = TableReport(made.table)
        try:
            await copy_anew(self._item.table)
            await _TableRun(self._run, self._item, again).compare_once()
        except WalcastError as error:
            made.reason = f"it could not be copied anew: {error.message}"
            return
        made.fences, made.last = made.fences + again.fences, again.last or made.last
        if not again.total and not again.unsettled_ranges:
            made.repaired = made.total
            made.reason = "its rows have no key: the table was copied anew"
            self._run.progress.repaired += made.repaired

    async def _mend(self, kinds: Mapping[Key, Kind]) -> None:
        mender = Mender(self._run.reader, self._item, self._forms)
        keys = sorted(kinds)
        for at in range(0, len(keys), mender.most):
            left = keys[at : at + mender.most]
            for _ in range(_ROUNDS):
                if left:
                    mend = partial(mender.mend, kinds={key: kinds[key] for key in left})
                    left = await self._run.at_fence(self._item, mend)

    def _list(self) -> None:
        shown = self._run.options.values
        key_names = self._item.key
        for key, difference in sorted(self._kept.items())[: self._run.options.listed]:
            columns: dict[str, tuple[str | None, str | None]] = {
                name: (
                    (_shown(self._forms[name], ours), _shown(self._forms[name], theirs))
                    if shown
                    else (None, None)
                )
                for name, ours, theirs in zip(
                    difference.columns, difference.source, difference.copy, strict=True
                )
            }
            named = {
                name: readable(self._forms[name], text) for name, text in zip(key_names, key, strict=True)
            }
            self._made.listed.append(Row(difference.kind, named, columns, key in self._mended))


def _shown(form: Form, text: str) -> str | None:
    return None if text == "~" else readable(form, text)
