"""`walcast verify` of a sink that holds what a mapping makes: every document, vertex and edge beside what the source makes of it.

Page by page under fences, as `walcast.verify.run` does for tables. What differs is looked at again under the next fences:
see `walcast.engine.compared`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from walcast.engine.compared import Compared, Item, Pair
from walcast.engine.mapped import MappedSink
from walcast.mapping import Target
from walcast.model import Cut, Held, Hold, OperatorError, RetryableError
from walcast.model.derived import Key, version_of
from walcast.postgres.connect import Connection
from walcast.postgres.cut import begin_at_cut
from walcast.verify.report import Report, Row, TableReport
from walcast.verify.run import Options, Progress

T = TypeVar("T")
_ROUNDS: Final = 20
"""Fences under which what keeps changing is tried; then it is unsettled."""
_TRIES: Final = 8
_PAUSE: Final = 0.05


class Comparison:
    """One comparison of a mapped sink, as `walcast.verify.run.Verification` is one of tables."""

    def __init__(self, connection: Connection, hold: Hold, options: Options, report: Report) -> None:
        self.progress = Progress()
        self._connection = connection
        self._hold = hold
        self._options = options
        self._report = report

    async def run(self) -> Report:
        """All of the mapping. Raises OperatorError for a store that cannot show what it holds, RetryableError."""
        targets = await self.at_fence(lambda compared, sink: _told(sink.plan.targets))
        self.progress.tables = len(targets)
        for target in targets:
            self.progress.table = target.name
            made = TableReport(target.name)
            began = time.monotonic()
            try:
                await _TargetRun(self, target, made).compare()
            except RetryableError as error:
                made.state, made.reason = "skipped", error.message
            made.seconds = time.monotonic() - began
            made.settle()
            self._report.tables.append(made)
            self.progress.tables_done += 1
        self._report.ended = time.time()
        return self._report

    async def at_fence(
        self, ask: Callable[[Compared, MappedSink], Awaitable[T]], made: TableReport | None = None
    ) -> T:
        """Asks the sink while it stands at a position; tried again when the fence is lost."""

        async def action(held: Held) -> T:
            sink = held.sink
            if not isinstance(sink, MappedSink):
                raise OperatorError("this sink holds no mapping's documents", hint="see: walcast sinks")
            if made is not None:
                made.fences += 1
                made.first = made.first or str(held.cut.lsn)
                made.last = str(held.cut.lsn)
            epoch = held.position.epoch if held.position is not None else 1
            return await ask(Compared(sink, version_of(epoch, held.cut.lsn)), sink)

        async def take() -> Cut:
            return await begin_at_cut(self._connection)

        deadline = time.monotonic() + self._options.patience
        for tries in range(1, _TRIES + 1):
            try:
                return await self._hold(take, action, patience=max(1.0, deadline - time.monotonic()))
            except RetryableError as error:
                if tries == _TRIES or time.monotonic() > deadline:
                    raise
                self.progress.note = error.message
                await asyncio.sleep(_PAUSE * 2**tries)
            finally:
                await self._connection.rollback()
        raise AssertionError

    async def pace(self, rows: int) -> None:
        self.progress.rows += rows
        if self._options.rate:
            await asyncio.sleep(rows / self._options.rate)

    @property
    def options(self) -> Options:
        return self._options


class _TargetRun:
    def __init__(self, run: Comparison, target: Target, made: TableReport) -> None:
        self._run = run
        self._target = target
        self._made = made
        self._seen: set[Item] = set()
        self._doubted: dict[Item, Pair] = {}

    async def compare(self) -> None:
        await self._pages()
        found = await self._settle()
        for item, pair in found.items():
            self._made.differences[_kind(pair)] += 1
            if len(self._made.listed) < self._run.options.listed:
                self._made.listed.append(Row(_kind(pair), {"collection": item.collection, "id": item.id}))
        if found and self._run.options.repair:
            await self._ask(lambda compared, _: compared.mend(self._target, list(found)))
            self._doubted = await self._looked_at(list(found))
            left = await self._settle()
            self._made.repaired = len(found) - len(left)
            for row in self._made.listed:
                row.repaired = Item(row.key["collection"], row.key["id"]) not in left

    async def _pages(self) -> None:
        after: Key | None = None
        while True:
            pairs, after = await self._ask(partial(_page, self._target, after))
            self._made.rows += len(pairs)
            self._note(pairs)
            await self._run.pace(len(pairs))
            if after is None:
                break
        for name in self._target.collections:
            last: str | None = None
            while ids := await self._ask(partial(_ids, self._target, name, last)):
                self._made.copy_rows += len(ids)
                self._made.ranges += 1
                unknown = [item for id_ in ids if (item := Item(name, id_)) not in self._seen]
                if unknown:
                    self._note(await self._looked_at(unknown))
                last = ids[-1]

    async def _settle(self) -> dict[Item, Pair]:
        """What differs for sure: twice, and the source had the same both times."""
        found: dict[Item, Pair] = {}
        for _ in range(_ROUNDS):
            if not self._doubted:
                return found
            now = await self._looked_at(list(self._doubted))
            again = {}
            for item, pair in now.items():
                if pair.equal:
                    continue
                if pair.source == self._doubted[item].source:
                    found[item] = pair
                else:
                    again[item] = pair
            self._doubted = again
        self._made.unsettled_rows += len(self._doubted)
        return found

    def _note(self, pairs: dict[Item, Pair]) -> None:
        self._seen |= pairs.keys()
        self._doubted |= {item: pair for item, pair in pairs.items() if not pair.equal}
        self._run.progress.differences = len(self._doubted)

    async def _looked_at(self, items: list[Item]) -> dict[Item, Pair]:
        return await self._ask(lambda compared, _: compared.items(self._target, items))

    async def _ask(self, ask: Callable[[Compared, MappedSink], Awaitable[T]]) -> T:
        return await self._run.at_fence(ask, self._made)


def _kind(pair: Pair) -> str:
    if pair.copy is None:
        return "missing"
    return "extra" if pair.source is None else "different"


async def _told(value: T) -> T:
    return value


async def _page(target: Target, after: Key | None, compared: Compared, sink: MappedSink) -> Any:
    return await compared.page(target, after)


async def _ids(target: Target, name: str, after: str | None, compared: Compared, sink: MappedSink) -> Any:
    return await compared.ids(target, name, after)
