"""Tables taken over chunk by chunk while the stream runs: `walcast resync`, tables that are new in the configuration, and
tables whose rows lack values of a column that was added.

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

from walcast.app.compose import connect_source
from walcast.engine import Pipeline, classify
from walcast.engine.tables import FROM_THE_BEGINNING
from walcast.model import OperatorError, Relation, RetryableError, TableId, WalcastError
from walcast.postgres.config import SourceConfig
from walcast.postgres.source import PostgresSource
from walcast.verify.rebuild import Chunked, Rebuild
from walcast.verify.source import Reshaped, SourceReader

log = logging.getLogger("walcast.app")

_LOOK: Final = 0.2
_AGAIN: Final = 1.0


class Rebuilds:
    """The tables that a running pipeline takes over in chunks, one at a time for each sink."""

    def __init__(self, pipeline: Pipeline, config: SourceConfig) -> None:
        self._pipeline = pipeline
        self._config = config
        self._new: dict[str, list[TableId]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        pipeline.claim_new(self._claim)
        pipeline.control.register("resync", self._asked)

    async def run(self) -> None:
        """Until cancelled: goes on with what is under way, in whatever process it was begun."""
        try:
            while True:
                for sink in filter(self._pipeline.shows_rows, self._pipeline.sinks):
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

    async def resync(
        self,
        sink: str,
        tables: Sequence[TableId] | None = None,
        *,
        where: str | None = None,
        rate: float | None = None,
    ) -> tuple[list[TableId], list[TableId] | None]:
        """Begins to copy tables (None: all) anew. Those that come in chunks, and those that a snapshot brings (None: all of
        them). Raises OperatorError for a condition where there can be no chunks."""
        chunked = []
        if self._pipeline.shows_rows(sink):
            chunked = await self._begin(sink, tables, where, rate)
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
            await self._pipeline.copy_anew(sink, others)
        return chunked, others

    async def _asked(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sink`, `tables`, `where`, `rate`, over the control socket."""
        asked = params.get("tables")
        tables = None if asked is None else [TableId(*table) for table in asked]
        chunked, copied = await self.resync(
            params["sink"], tables, where=params.get("where"), rate=params.get("rate")
        )
        return {"chunked": chunked, "copied": copied}

    def _claim(self, sink: str, tables: list[TableId]) -> Iterable[TableId]:
        if not self._pipeline.shows_rows(sink):
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
                    known = self._pipeline.building(sink).get(item.table, FROM_THE_BEGINNING)
                    needed = known.get("needed", False)
                    only = None if needed else where
                    progress = {
                        **FROM_THE_BEGINNING,
                        "where": only,
                        "rate": rate,
                        "needed": needed,
                        "shape": _shape(item.relation),
                    }
                    await self._pipeline.build(sink, item.table, progress, first=only is None)
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
        try:
            async with await self._reader() as reader:
                item = next((item for item in await reader.tables() if item.table == table), None)
                if item is None:
                    raise OperatorError(f"{table} is no longer published", hint="publish it, or exclude it")
                shape = _shape(item.relation)
                if progress.get("shape") not in (None, shape):
                    # What was written before may lack values of a column that has come since.
                    progress = {**FROM_THE_BEGINNING, "rate": progress["rate"], "needed": True}
                at = progress

                async def remember(done: Chunked) -> None:
                    await pipeline.build(sink, table, {**at, "begun": True, "shape": shape, **done.as_json()})

                job = Rebuild(
                    reader,
                    item,
                    partial(pipeline.hold, sink),
                    remember,
                    partial(pipeline.built, sink, table),
                    where=progress["where"],
                    rate=progress["rate"],
                )
                log.info(
                    "rebuild_begins", extra={"sink": sink, "table": str(table), "rows": progress["rows"]}
                )
                rows = await job.run(Chunked.of(progress) if progress["begun"] else None)
                log.info("rebuilt", extra={"sink": sink, "table": str(table), "rows": rows})
        except Reshaped:
            log.info("rebuild_begins_anew", extra={"sink": sink, "table": str(table)})
        except RetryableError as error:
            log.warning("rebuild_waits", extra={"sink": sink, "table": str(table), "reason": error.message})
            await asyncio.sleep(_AGAIN)
        except WalcastError as error:
            verdict = classify(error)
            log.error(
                "rebuild_failed",
                extra={"sink": sink, "table": str(table), "reason": verdict.message, "hint": verdict.remedy},
            )
            await pipeline.not_built(sink, table)

    async def _reader(self) -> SourceReader:
        source = self._pipeline.source
        assert isinstance(source, PostgresSource)
        connection = await connect_source(self._config, "resync")
        return SourceReader(connection, self._config.publication, source.selects)


def _shape(relation: Relation) -> list[list[Any]]:
    """As JSON gives it back."""
    return [[column.attnum, column.name, column.type.oid, column.typmod] for column in relation.columns]


def _split(name: str) -> list[str]:
    return name.split(".", 1)
