"""Tables taken over chunk by chunk while the stream runs: `walcast resync`, and tables that are new in the configuration.

What is under way is noted in the copy's own journal, so that whoever runs the pipeline next goes on with it. A table goes
the other way, by a snapshot for which its sink leaves the stream, where chunks cannot work: it has no key, it has stopped
(the copy does not have its shape), the sink cannot show its rows (logs, handlers), or the source is a standby.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from walcast.app import registry
from walcast.app.compose import connect_source, source_config
from walcast.app.settings import Settings
from walcast.engine import Pipeline, classify
from walcast.model import OperatorError, RetryableError, TableId, WalcastError
from walcast.postgres.source import PostgresSource
from walcast.verify.rebuild import Chunked, Rebuild
from walcast.verify.source import SourceReader

log = logging.getLogger("walcast.app")

_LOOK: Final = 0.2
_AGAIN: Final = 1.0


class Rebuilds:
    """The tables that a running pipeline takes over in chunks, one at a time for each sink."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._able = [
            item.name for item in settings.sinks if hasattr(registry.sink(item.type).load(), "view")
        ]
        self._new: dict[str, list[TableId]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        pipeline.claim_new(self._claim)
        pipeline.control.register("resync", self.resync)

    async def run(self) -> None:
        """Until cancelled: goes on with what is under way, in whatever process it was begun."""
        try:
            while True:
                for sink in self._able:
                    task = self._tasks.get(sink)
                    if (task is None or task.done()) and (self._new.get(sink) or self._under_way(sink)):
                        self._tasks[sink] = asyncio.create_task(
                            self._serve(sink), name=f"walcast rebuild {sink}"
                        )
                await asyncio.sleep(_LOOK)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def resync(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sink`, `tables` (None: all), `where`, `rate`. Begins, and says which tables come in chunks and which are copied by a
        snapshot. Raises OperatorError for a condition where there can be no chunks."""
        sink, where = params["sink"], params.get("where")
        asked = params.get("tables")
        tables = None if asked is None else [TableId(*table) for table in asked]
        chunked = await self._begin(sink, tables, where, params.get("rate")) if sink in self._able else []
        others = None if tables is None else [table for table in tables if table not in chunked]
        if where is not None and others != []:
            named = ", ".join(map(str, others)) if others else "some tables"
            raise OperatorError(
                f"{named}: rows cannot be chosen by a condition there",
                hint="that needs a table with a key that has not stopped, in a copy in PostgreSQL or DuckDB",
            )
        if tables is None:
            every = {TableId(*_split(item.table)) for item in self._pipeline.status().sink(sink).snapshot}
            others = None if not chunked else sorted(every - set(chunked))
        if others is None or others:
            await self._pipeline.resync(sink, others)
        return {"chunked": chunked, "copied": others}

    def _claim(self, sink: str, tables: list[TableId]) -> Iterable[TableId]:
        if sink not in self._able:
            return ()
        self._new.setdefault(sink, []).extend(tables)
        return tables

    def _under_way(self, sink: str) -> bool:
        return bool(self._pipeline.building(sink))

    async def _begin(
        self, sink: str, tables: Sequence[TableId] | None, where: str | None, rate: float | None
    ) -> list[TableId]:
        """Notes the tables that chunks can bring; they are taken over one after the other."""
        begun = []
        try:
            async with await self._reader() as reader:
                for item in await reader.tables():
                    if (tables is not None and item.table not in tables) or not item.key:
                        continue
                    if where is not None:
                        await reader.try_condition(item, where)
                    progress = {"begun": False, "upper": None, "rows": 0, "where": where, "rate": rate}
                    await self._pipeline.build(sink, item.table, progress, first=where is None)
                    begun.append(item.table)
        except RetryableError as error:  # the sink is not streaming: a snapshot brings it back
            log.info("no_chunks", extra={"sink": sink, "reason": error.message})
        except OperatorError:
            if where is not None:
                raise
        return begun

    async def _serve(self, sink: str) -> None:
        """All that is to be done for one sink."""
        new, self._new[sink] = self._new.get(sink, []), []
        chunked: list[TableId] = []
        if new:
            try:
                chunked = await self._begin(sink, new, None, None)
            finally:
                if left := [table for table in new if table not in chunked]:
                    self._pipeline.unclaim(sink, left)
        for table, progress in self._pipeline.building(sink).items():
            await self._rebuild(sink, table, progress)

    async def _rebuild(self, sink: str, table: TableId, progress: dict[str, Any]) -> None:
        pipeline = self._pipeline

        async def remember(done: Chunked) -> None:
            await pipeline.build(sink, table, {**progress, "begun": True, **done.as_json()})

        try:
            async with await self._reader() as reader:
                item = next((item for item in await reader.tables() if item.table == table), None)
                if item is None:
                    raise OperatorError(f"{table} is no longer published", hint="publish it, or exclude it")
                job = Rebuild(
                    reader,
                    item,
                    partial(pipeline.hold, sink),
                    remember,
                    where=progress["where"],
                    rate=progress["rate"],
                )
                log.info(
                    "rebuild_begins", extra={"sink": sink, "table": str(table), "rows": progress["rows"]}
                )
                rows = await job.run(Chunked.of(progress) if progress["begun"] else None)
                await pipeline.built(sink, table)
                log.info("rebuilt", extra={"sink": sink, "table": str(table), "rows": rows})
        except RetryableError as error:
            log.warning("rebuild_waits", extra={"sink": sink, "table": str(table), "reason": error.message})
            await asyncio.sleep(_AGAIN)
        except WalcastError as error:
            verdict = classify(error)
            log.error(
                "rebuild_failed",
                extra={"sink": sink, "table": str(table), "reason": verdict.message, "hint": verdict.remedy},
            )
            await pipeline.built(sink, table, complete=False)

    async def _reader(self) -> SourceReader:
        source = self._pipeline.source
        assert isinstance(source, PostgresSource)
        config = source_config(self._settings)
        return SourceReader(await connect_source(config, "resync"), config.publication, source.selects)


def _split(name: str) -> list[str]:
    return name.split(".", 1)
