"""A pipeline from a real source to copies, and comparisons of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from walcast.app.verifying import copied_anew
from walcast.engine import Pipeline, PipelineSettings
from walcast.model import Lsn, SinkFactory, TableId
from walcast.model.secret import Secret
from walcast.postgres.connect import connect
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig
from walcast.testing.postgres import Database
from walcast.verify.report import Report, TableReport
from walcast.verify.run import Finished, Options, Verification
from walcast.verify.source import SourceReader

SETTINGS = PipelineSettings(serve=False, retry_limit=20)


class World:
    """`flow` copies `origin` into sinks by name; `verify` compares one of them."""

    def __init__(self, origin: Database, flow: Pipeline, selected: Callable[[TableId], bool]) -> None:
        self.origin = origin
        self.flow = flow
        self._selected = selected
        self.last: Verification | None = None

    async def caught_up(self) -> None:
        lsn = Lsn.parse(self.origin.execute("select pg_current_wal_insert_lsn()::text")[0][0])
        await self.flow.wait_for(lsn, timeout=20)

    async def verify(
        self,
        sink: str = "copy",
        *,
        finished: Finished | None = None,
        done: Mapping[str, TableReport] | None = None,
        begun: tuple[TableReport, tuple[str, ...]] | None = None,
        **options: Any,
    ) -> Report:
        connection = await connect(self.origin.dsn(), application="walcast:test:verify")
        async with SourceReader(connection, "p", self._selected) as reader:
            report = Report(sink, "test", "here", "1", 1, time.time())
            self.last = Verification(
                reader,
                partial(self.flow.hold, sink),
                Options(**options),
                report,
                copy_anew=partial(copied_anew, self.flow, sink),
                finished=finished,
                done=done,
                begun=begun,
            )
            return await self.last.run()


def postgres(target: Database, **settings: Any) -> SinkFactory:
    config = PostgresSinkConfig(Secret(target.dsn()), **settings)
    return cast(SinkFactory, partial(PostgresSink, config))


def duckdb(path: Path, **settings: Any) -> SinkFactory:
    return cast(SinkFactory, partial(DuckDBSink, DuckDBSinkConfig(path, **settings)))


@asynccontextmanager
async def world(
    origin: Database,
    state: Path,
    *,
    selected: Callable[[TableId], bool] = lambda table: True,
    source: dict[str, Any] | None = None,
    **sinks: SinkFactory,
) -> AsyncIterator[World]:
    config = SourceConfig(
        dsn=Secret(origin.dsn()), name="verify", slot=origin.name, publication="p", **(source or {})
    )
    flow = Pipeline(PostgresSource(config), sinks, state, SETTINGS, name="verify")
    task = asyncio.create_task(flow.run())
    try:
        async with asyncio.timeout(30):
            while not flow.status().ready and not task.done():  # noqa: ASYNC110  # a status has no event
                await asyncio.sleep(0.01)
        yield World(origin, flow, selected)
    finally:
        flow.stop()
        await task
