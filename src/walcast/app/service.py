"""`walcast run`: the pipeline with its signals, its HTTP endpoint and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from walcast.app.compose import make_pipeline, make_source, preflight, source_config
from walcast.app.http import HttpServer
from walcast.app.settings import Settings, load
from walcast.app.token import Token
from walcast.engine import Pipeline, PipelineStatus, StoppedTable, owner
from walcast.model import ConfigError, OperatorError, SourceUnavailable, WalcastError
from walcast.postgres.connect import application_name, connect
from walcast.postgres.snapshot import Progress
from walcast.postgres.wanted import ensure_wanted

T = TypeVar("T")
log = logging.getLogger("walcast.app")


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: the last status."""

    status: PipelineStatus

    @property
    def stopped_tables(self) -> list[StoppedTable]:
        return [table for sink in self.status.sinks for table in sink.stopped_tables]


async def serve(
    settings: Settings,
    *,
    standby: bool = True,
    until: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Runs the pipeline until a signal (or until every copy has the token `until`). Raises what ended it otherwise."""
    if owner(settings.pipeline.state_dir) is None:
        await prepare(settings)
    source = make_source(settings)
    pipeline = make_pipeline(settings, source, standby=standby)
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_signals(pipeline, settings))
        if settings.http.listen:
            stack.enter_context(_http(settings.http.listen, pipeline, loop))
        if on_progress is not None:
            await stack.enter_async_context(_every(0.2, lambda: on_progress(source.progress)))
        running = asyncio.create_task(pipeline.run())
        if until is not None:
            asyncio.create_task(_stop_at(pipeline, until)).add_done_callback(
                lambda task: _stopped(task, pipeline)
            )
        await running
    return RunResult(pipeline.status())


async def prepare(settings: Settings) -> None:
    """Checks what must hold and makes the publication. Raises OperatorError for the first thing that stands in the way."""
    try:
        findings = await preflight(settings)
    except SourceUnavailable as error:
        log.warning("preflight_skipped", extra={"reason": error.message})
        return
    for finding in findings:
        level = {"error": logging.ERROR, "warning": logging.WARNING}.get(finding.level, logging.INFO)
        log.log(
            level,
            "preflight",
            extra={"check": finding.name, "reason": finding.message, "hint": finding.hint or ""},
        )
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: walcast config check)" if len(errors) > 1 else ""
        raise OperatorError(errors[0].message + more, hint=errors[0].hint)
    config = source_config(settings)
    connection = await connect(config.dsn, application=application_name(config.name, "prepare"))
    async with connection:
        await ensure_wanted(connection, config)


async def _stop_at(pipeline: Pipeline, until: str) -> None:
    """Waits until every sink has the token, then stops."""
    while not pipeline.status().ready:  # a status is drawn, not announced
        await asyncio.sleep(0.05)  # noqa: ASYNC110
    identity = pipeline.source.identity
    if until == "now":
        lsn = await pipeline.source.position()
    else:
        token = Token.parse(until)
        token.check(identity)
        lsn = token.lsn
    for sink in pipeline.status().sinks:
        with contextlib.suppress(OperatorError):  # a stopped sink is in the result
            await pipeline.wait_for(lsn, sink.name)
    pipeline.stop()


def _stopped(task: asyncio.Task[None], pipeline: Pipeline) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("until_failed", extra={"reason": str(error)})
        pipeline.stop()


@contextlib.contextmanager
def _signals(pipeline: Pipeline, settings: Settings) -> Iterator[None]:
    """SIGTERM and SIGINT stop, SIGHUP reloads. A second SIGINT ends at once: nothing is lost by that, only repeated."""
    loop = asyncio.get_running_loop()
    reloading: set[asyncio.Task[Any]] = set()
    asked = False

    def stop(number: int) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        pipeline.stop()

    def reload() -> None:
        task = asyncio.create_task(reload_pipeline(pipeline, settings))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    pipeline.control.register("reload", lambda _: reload_pipeline(pipeline, settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def reload_pipeline(pipeline: Pipeline, settings: Settings) -> list[str]:
    """Reads the file again; takes up tables that are published now and tries stopped sinks again. What cannot change
    while it runs is named. A mistake in the file leaves everything as it is."""
    try:
        fresh = load(settings.path)
        if fresh.source.include != settings.source.include or fresh.source.exclude != settings.source.exclude:
            raise ConfigError("source.include and source.exclude changed", hint="start walcast run again")
        config = source_config(fresh)
        connection = await connect(config.dsn, application=application_name(config.name, "prepare"))
        async with connection:
            outcome = await ensure_wanted(connection, config)
    except WalcastError as error:
        log.error("reload_failed", extra={"reason": error.message, "hint": error.hint or ""})
        raise
    await pipeline.reload()
    log.info("reloaded", extra={"publication": str(outcome)})
    return [str(outcome)]


def _http(listen: str, pipeline: Pipeline, loop: asyncio.AbstractEventLoop) -> AbstractContextManager[object]:
    """Metrics are read in the event loop, which owns them; `/livez` answers without it."""

    async def read(make: Callable[[], T]) -> T:
        return make()

    def inside(make: Callable[[], T]) -> T:
        return asyncio.run_coroutine_threadsafe(read(make), loop).result(5)

    def samples() -> Any:
        pipeline.status()  # brings the gauges up to date
        return list(pipeline.metrics.samples())

    def health() -> tuple[bool, dict[str, Any]]:
        status = pipeline.status()
        return status.ready, {
            "state": status.state,
            "sinks": {sink.name: sink.state.value for sink in status.sinks},
        }

    return HttpServer(listen, lambda: inside(samples), lambda: inside(health))


@contextlib.asynccontextmanager
async def _every(seconds: float, action: Callable[[], None]) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            action()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
