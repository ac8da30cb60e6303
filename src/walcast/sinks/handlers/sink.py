"""The handler sink: a batch is done when every handler that wanted a part of it has returned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, Self

from walcast.model import (
    Batch,
    Change,
    Checkpoint,
    Durability,
    OperatorError,
    Relation,
    RowPolicies,
    RowsRefused,
    SinkContext,
    TableId,
    WalcastError,
)
from walcast.sinks.handlers.config import HandlerSinkConfig
from walcast.sinks.handlers.loading import load
from walcast.sinks.handlers.ordering import Lane, lanes
from walcast.sinks.handlers.passing import Passed
from walcast.sinks.handlers.registry import Handler, Handlers

log = logging.getLogger("walcast.sinks.handlers")

_WINDOW: Final = 2000
"""Changes that are objects at the same time: a batch may be far bigger."""


class HandlerSink:
    """Calls handlers. At least once: the pipeline's checkpoint follows when a whole batch was handled."""

    keeps_checkpoint = False

    def __init__(self, config: HandlerSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._handlers = Handlers()
        self._threads = ThreadPoolExecutor(config.concurrency, "walcast-handler")
        self._routes: dict[tuple[TableId | None, str], tuple[Handler, ...]] = {}
        self._passed = Passed()
        self._only = ""

    async def __aenter__(self) -> Self:
        self._handlers = load(self._config.handlers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """A plain function at work is not waited for: it cannot be interrupted."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def checkpoint(self) -> Checkpoint | None:
        return None

    async def prepare(self, relation: Relation) -> None:
        """A handler sees each version as it comes."""

    async def write(self, batch: Batch) -> Durability:
        """Raises RowsRefused when changes were passed over: all others are done."""
        self._passed = Passed()
        if len(batch) and self._wanted(batch):
            changes = batch.changes()
            while window := list(islice(changes, _WINDOW)):
                await self._window(window)
                self._passed.go_on(window)
            for relation in batch.relations:
                if any(batch.counts(relation).values()):
                    for handler in self._arrow(relation):
                        await self._attempt(handler, batch.table(relation), ())
        if self._passed.refusals:
            raise RowsRefused(batch, self._passed.refusals, "done")
        more = batch.part is not None and not batch.part.last
        return Durability.ACCEPTED if more else Durability.DURABLE

    @property
    def policies(self) -> RowPolicies:
        return RowPolicies(handler=self._config.on_error, limit=self._config.dead_letter_limit)

    async def write_again(self, batch: Batch, by: str) -> Durability:
        """Calls the one handler of that name, or all when it is empty."""
        self._only = by
        try:
            return await self.write(batch)
        finally:
            self._only = ""

    async def flush(self) -> None:
        """Nothing waits: `write` returns when all handlers have."""

    def _wanted(self, batch: Batch) -> bool:
        """Whether any handler takes anything of it; if not, no row is made."""
        if any("message" in handler.operations and handler.table == "*" for handler in self._handlers):
            return True
        return any(
            self._arrow(relation) or self._route(relation.table, operation)
            for relation in batch.relations
            for operation, count in batch.counts(relation).items()
            if count
        )

    def _route(self, table: TableId | None, operation: str) -> tuple[Handler, ...]:
        route = self._routes.get((table, operation))
        if route is None:
            route = tuple(h for h in self._handlers if h.form != "arrow" and h.takes(table, operation))
            self._routes[table, operation] = route
        return route

    def _arrow(self, relation: Relation) -> list[Handler]:
        return [h for h in self._handlers if h.form == "arrow" and h.takes(relation.table, "insert")]

    def _handlers_of(self, change: Change) -> tuple[Handler, ...]:
        found = self._route(change.relation.table if change.relation is not None else None, change.op)
        return tuple(handler for handler in found if handler.name == self._only) if self._only else found

    async def _window(self, changes: Sequence[Change]) -> None:
        self._passed.look_at(changes)
        wanted = [change for change in changes if self._handlers_of(change)]
        single = [change for change in wanted if any(h.form == "change" for h in self._handlers_of(change))]
        if len(single) == 1:
            await self._lane(single)
        else:
            for group in lanes(single):
                await self._beside(group)
        for handler, gathered in self._batches(wanted):
            await self._several(handler, [change for change in gathered if not self._passed.waits(change)])

    def _batches(self, changes: Sequence[Change]) -> Iterator[tuple[Handler, list[Change]]]:
        gathered: dict[tuple[int, TableId | None], tuple[Handler, list[Change]]] = {}
        for change in changes:
            for handler in self._handlers_of(change):
                if handler.form == "batch":
                    table = change.relation.table if change.relation is not None else None
                    gathered.setdefault((id(handler), table), (handler, []))[1].append(change)
        yield from gathered.values()

    async def _beside(self, group: list[Lane]) -> None:
        """Handles lanes at the same time, as many as `concurrency` allows."""
        if len(group) == 1:
            await self._lane(group[0])
            return
        waiting = iter(group)

        async def work() -> None:
            for lane in waiting:
                await self._lane(lane)

        tasks = [asyncio.create_task(work()) for _ in range(min(self._config.concurrency, len(group)))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _several(self, handler: Handler, changes: list[Change]) -> None:
        """All at once; when that keeps failing and the policy is not to stop, one by one, to find which it is."""
        if not changes:
            return
        try:
            await self._attempt(handler, changes, changes)
        except _OneOfSeveral:
            for change in changes:
                if not self._passed.waits(change):
                    await self._attempt(handler, [change], (change,), retries=0)

    async def _lane(self, lane: Lane) -> None:
        for change in lane:
            if self._passed.waits(change):
                continue
            for handler in self._handlers_of(change):
                if handler.form == "change":
                    await self._attempt(handler, change, (change,))

    async def _attempt(
        self, handler: Handler, argument: Any, changes: Sequence[Change], retries: int | None = None
    ) -> None:
        """Calls it until it succeeds or the policy decides. Walcast's own errors pass: the pipeline knows them."""
        config, wait = self._config, self._config.backoff
        most = 1 + (config.retries if retries is None else retries)
        for attempt in range(1, most + 1):
            try:
                await self._call(handler, argument)
                return
            except WalcastError:
                raise
            except Exception as error:
                where = _place(changes)
                kind = type(error).__name__
                log.debug("handler_error", exc_info=error)
                if attempt < most:
                    log.warning("handler_retry", extra={"handler": handler.name, "error": kind, **where})
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, config.backoff_limit)
                    continue
                if len(changes) > 1 and config.on_error != "stop":
                    raise _OneOfSeveral from error
                only_stops = not changes or changes[0].op in ("message", "truncate")
                if config.on_error == "stop" or (config.on_error == "set_aside" and only_stops):
                    place = " ".join(f"{key} {value}" for key, value in where.items())
                    raise OperatorError(
                        f"handler {handler.name} failed {attempt} times with {kind} at {place or 'a batch'}",
                        hint="correct the handler and start again, or set on_error = 'skip' (or 'set_aside', for single rows)",
                    ) from error
                message = f"handler {handler.name} failed {attempt} times with {kind}"
                if only_stops:
                    log.error("handler_skipped", extra={"handler": handler.name, "error": kind, **where})
                    return
                self._passed.over(changes[0], kind, message, handler.name, attempt, config.on_error)

    async def _call(self, handler: Handler, argument: Any) -> None:
        limit = self._config.timeout or None
        if handler.waits:
            if limit is None:
                await handler.function(argument)
            else:
                async with asyncio.timeout(limit):
                    await handler.function(argument)
            return
        running = asyncio.get_running_loop().run_in_executor(self._threads, handler.function, argument)
        done, _ = await asyncio.wait([running], timeout=limit)
        if not done:
            raise OperatorError(
                f"handler {handler.name} has not returned within {limit} s",
                hint="a plain function cannot be interrupted: give it timeouts of its own, or make it async",
            )
        result = running.result()
        if asyncio.iscoroutine(result):
            await result


class _OneOfSeveral(Exception):
    """A handler keeps failing on a list of changes."""


def _place(changes: Sequence[Change]) -> dict[str, str]:
    if not changes:
        return {}
    first = changes[0]
    table = {"table": str(first.relation)} if first.relation is not None else {}
    return {**table, "position": str(first.position)}
