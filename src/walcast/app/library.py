"""Walcast in your own program: a pipeline in a few lines, and changes by plain or async iteration."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import AsyncGeneratorType
from typing import Any, NamedTuple, TypeVar, cast

from walcast import engine
from walcast.app import operations, registry
from walcast.app.compose import connect_source, sink_factory
from walcast.app.reading import reading
from walcast.app.rebuilding import Rebuilds
from walcast.app.settings import load
from walcast.engine import PipelineSettings
from walcast.engine.tasks import beside
from walcast.mapping import DataMapping
from walcast.model import (
    ArrowTable,
    Batch,
    Change,
    ConfigError,
    Relation,
    Sink,
    SinkFactory,
    TableId,
    Token,
    TypeChoices,
)
from walcast.model.secret import Secret
from walcast.postgres.config import SourceConfig
from walcast.postgres.source import PostgresSource
from walcast.postgres.wanted import ensure_wanted
from walcast.sinks.handlers import Handlers, HandlerSinkConfig

T = TypeVar("T")

_DEFAULT_CHOICES = TypeChoices()
_END = object()


class Pipeline(engine.Pipeline):
    """One source to many sinks. `run` makes publication, slot and copies, follows the stream, and returns after `stop`.

    `source` is a DSN, a SourceConfig or a PostgresSource. A sink is given as its config, as Handlers, or as a function
    from SinkContext to a sink of your own. One process at a time owns `state_dir`. Raises ConfigError at once for what is
    no sink; `run` raises what ended it (see walcast.WalcastError). `mapping` says what sinks of documents and graphs hold.
    """

    def __init__(
        self,
        source: str | SourceConfig | PostgresSource,
        sinks: Mapping[str, object],
        state_dir: str | Path = ".walcast",
        settings: PipelineSettings | None = None,
        *,
        name: str = "walcast",
        mapping: DataMapping | None = None,
    ) -> None:
        settings = settings or PipelineSettings()
        if not isinstance(source, PostgresSource):
            config = SourceConfig(Secret(source)) if isinstance(source, str) else source
            source = PostgresSource(replace(config, name=name, budget_bytes=settings.budget_bytes))
        self._config = source.config
        chosen = mapping or DataMapping()
        factories = {sink: _factory(sink, given, chosen, source.config) for sink, given in sinks.items()}
        super().__init__(source, factories, state_dir, settings, name=name)
        self._rebuilds = Rebuilds(self, source.config)

    async def run(self) -> None:
        async with await connect_source(self._config, "prepare") as connection:
            await ensure_wanted(connection, self._config)
        async with beside(self._rebuilds.run()):
            await super().run()

    async def resync(
        self,
        sink: str,
        tables: Sequence[TableId] | None = None,
        *,
        where: str | None = None,
        rate: float | None = None,
    ) -> None:
        """Copies tables (None: all) anew, as `walcast resync`: chunk by chunk beside the stream where the table has a key and
        the sink shows its rows, else by a snapshot. `where`: SQL at the source, only these rows; `rate`: rows a second.
        Returns at once; `building` and status tell the progress. Raises OperatorError for a condition where there can be
        no chunks."""
        await self._rebuilds.resync(sink, tables, where=where, rate=rate)


class ArrowChanges(NamedTuple):
    """All changes of one table in a batch, in commit order. `table` goes to whatever takes Arrow: `pyarrow.table(...)`,
    `polars.from_arrow(...)`, a DuckDB query."""

    relation: Relation
    table: ArrowTable


async def changes(
    dsn: str | SourceConfig = "",
    tables: Sequence[str] = (),
    *,
    slot: str | None = None,
    publication: str | None = None,
) -> AsyncGenerator[Change, None]:
    """Changes as they commit, from now on, as rows.

    `dsn` is a URI or key=value text (libpq's variables, services and .pgpass count); `tables` are patterns such as
    `shop.*`, all tables by default. Without `slot` nothing is kept: a temporary slot (and publication, unless
    `publication` names one that covers the tables) goes with the iteration. With `slot` that slot is used, made when it
    is not there, and moves on once all changes of a batch were taken: after a crash the last ones come again, and none
    is missed in between. Raises what a pipeline's source raises; trying again is the caller's.
    """
    async with contextlib.aclosing(_batches(dsn, tables, slot, publication)) as batches:
        async for batch in batches:
            for change in batch.changes():
                yield change


async def arrow(
    dsn: str | SourceConfig = "",
    tables: Sequence[str] = (),
    *,
    slot: str | None = None,
    publication: str | None = None,
    choices: TypeChoices = _DEFAULT_CHOICES,
) -> AsyncGenerator[ArrowChanges, None]:
    """The same as Arrow tables, one a table and batch. Columns: see docs/reference/types.md; `choices` narrow them."""
    async with contextlib.aclosing(_batches(dsn, tables, slot, publication)) as batches:
        async for batch in batches:
            for found in _tables(batch, choices):
                yield found


def iter_changes(
    dsn: str | SourceConfig = "",
    tables: Sequence[str] = (),
    *,
    slot: str | None = None,
    publication: str | None = None,
) -> Iterator[Change]:
    """`changes` for code that is not async; also inside a running event loop, such as a notebook's."""
    for batch in _blocking(lambda: _batches(dsn, tables, slot, publication)):
        yield from batch.changes()


def iter_arrow(
    dsn: str | SourceConfig = "",
    tables: Sequence[str] = (),
    *,
    slot: str | None = None,
    publication: str | None = None,
    choices: TypeChoices = _DEFAULT_CHOICES,
) -> Iterator[ArrowChanges]:
    """`arrow` for code that is not async."""
    for batch in _blocking(lambda: _batches(dsn, tables, slot, publication)):
        yield from _tables(batch, choices)


async def wait(
    token: Token | str, config: str | Path = "walcast.toml", *, sink: str | None = None, timeout: float = 30.0
) -> dict[str, bool]:
    """Whether each copy of the pipeline that `config` describes (or one of them) has the token, after waiting for at most
    `timeout` seconds: a search index or a DuckDB file answers to the same token as a replica.

    Raises TokenInvalid, ConfigError, and NotRunning when no pipeline runs and the copies at rest do not have it."""
    return await operations.wait(load(Path(config)), str(token), sink, timeout)


def _tables(batch: Batch, choices: TypeChoices) -> Iterator[ArrowChanges]:
    for relation in batch.relations:
        if any(batch.counts(relation).values()):
            yield ArrowChanges(relation, batch.table(relation, choices))


async def _batches(
    dsn: str | SourceConfig, tables: Sequence[str], slot: str | None, publication: str | None
) -> AsyncGenerator[Batch, None]:
    config = SourceConfig(Secret(dsn)) if isinstance(dsn, str) else dsn
    if isinstance(tables, str):
        tables = (tables,)
    config = replace(
        config,
        include=tuple(tables) or config.include,
        publication=publication or slot or config.publication,
    )
    async with reading(config, slot=slot) as source, contextlib.aclosing(source.stream(None)) as stream:
        async for batch in stream:
            if len(batch):
                yield batch
            # The consumer came back for more: it has done with the batch.
            if batch.checkpoint is not None:
                await source.confirm(batch.checkpoint.through)


def _blocking(make: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
    """Steps through an async generator in an event loop of its own thread, where the source is looked after meanwhile."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="walcast iteration", daemon=True)
    thread.start()
    iterator = cast("AsyncGeneratorType[T, None]", make())

    async def step() -> Any:
        return await anext(iterator, _END)

    try:
        while True:
            asked = asyncio.run_coroutine_threadsafe(step(), loop)
            try:
                item = asked.result()
            except BaseException:
                asked.cancel()  # Ctrl-C while waiting
                raise
            if item is _END:
                return
            yield item
    finally:
        asyncio.run_coroutine_threadsafe(_close(iterator), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(iterator: AsyncGeneratorType[Any, None]) -> None:
    """A step that was called off takes a moment to end."""
    while iterator.ag_running:  # noqa: ASYNC110  # nobody announces it
        await asyncio.sleep(0.01)
    await iterator.aclose()


def _factory(name: str, given: object, mapping: DataMapping, source: SourceConfig) -> SinkFactory | Sink:
    if isinstance(given, Handlers):
        given = HandlerSinkConfig(given)
    for entry in registry.sinks().values():
        ours = type(given).__module__.startswith(entry.target.partition(":")[0])
        if ours and not isinstance(given, entry.load()):
            return sink_factory(entry, given, mapping, source)
    if callable(given) or hasattr(given, "write"):
        return cast("SinkFactory", given)
    raise ConfigError(
        f"sink {name}: a {type(given).__name__} is no sink",
        hint="give its config (such as walcast.DuckDBSinkConfig), Handlers, or a function that makes one",
    )
