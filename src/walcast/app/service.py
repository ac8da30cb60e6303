"""`walcast run`: the pipeline with its signals, its HTTP endpoint and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from walcast.app import logs
from walcast.app.compose import connect_source, make_pipeline, make_source, preflight, source_config
from walcast.app.http import HttpServer
from walcast.app.rebuilding import Rebuilds
from walcast.app.settings import Settings, load, shown
from walcast.app.verifying import Jobs
from walcast.engine import (
    Pipeline,
    PipelineStatus,
    Sample,
    SinkState,
    SinkStatus,
    StoppedTable,
    classify,
    owned,
    owner,
)
from walcast.engine.tasks import beside
from walcast.model import OperatorError, SourceUnavailable
from walcast.model.token import Token
from walcast.postgres.catalog import identity
from walcast.postgres.snapshot import Progress
from walcast.postgres.source import PostgresSource
from walcast.postgres.wanted import ensure_wanted

T = TypeVar("T")

_AT_ONCE = ("source.include", "source.exclude")
"""Settings that a reload follows."""
log = logging.getLogger("walcast.app")


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: the last status."""

    status: PipelineStatus

    @property
    def stopped_sinks(self) -> list[SinkStatus]:
        """Those that a person has to see to."""
        gone = (SinkState.STOPPED, SinkState.RELEASED)
        return [sink for sink in self.status.sinks if sink.state in gone and sink.error is not None]

    @property
    def stopped_tables(self) -> list[tuple[str, StoppedTable]]:
        """Each with the name of its sink."""
        return [(sink.name, table) for sink in self.status.sinks for table in sink.stopped_tables]


async def serve(
    settings: Settings,
    *,
    standby: bool = True,
    until: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Runs the pipeline until a signal (or until every copy has the token `until`). Raises what ended it otherwise."""
    token = None if until in (None, "now") else Token.parse(str(until))
    source = make_source(settings)
    pipeline = make_pipeline(settings, source, standby=standby)
    Jobs(pipeline, settings).register()
    free = owner(settings.pipeline.state_dir) is None
    if not (free or standby):
        async with owned(settings.pipeline.state_dir):  # says who holds it
            free = True  # it has just ended
    async with contextlib.AsyncExitStack() as stack:
        asked = stack.enter_context(_signals(pipeline, settings))
        if settings.http.listen:
            http = _http(settings.http.listen, pipeline)
            if free:
                stack.enter_context(http)
            else:  # the port is the owner's, too
                await stack.enter_async_context(beside(_listen_later(stack, http, pipeline)))
        await stack.enter_async_context(beside(Rebuilds(pipeline, source_config(settings)).run()))
        if on_progress is not None:
            await stack.enter_async_context(beside(_every(0.2, lambda: on_progress(source.progress))))
        if free and not await _unless(asked, prepare(settings, standby=standby, token=token)):
            return RunResult(pipeline.status())
        running = asyncio.ensure_future(pipeline.run())
        if until is None:
            await running
        else:
            await _run_until(pipeline, running, token)
    status = pipeline.status()
    through = ", ".join(f"{s.name} at {s.checkpoint.through}" for s in status.sinks if s.checkpoint)
    log.info("stopped", extra={"pipeline": status.name, "durable": through})
    return RunResult(status)


async def prepare(settings: Settings, *, standby: bool = True, token: Token | None = None) -> None:
    """Checks what must hold and makes the publication. Raises OperatorError for the first thing that stands in the way;
    without `standby` a slot that somebody else reads is such a thing, and so is a token of another server."""
    try:
        findings = await preflight(settings)
    except SourceUnavailable as error:
        log.warning("preflight_skipped", extra={"reason": error.message, "hint": error.hint or ""})
        return
    for finding in findings:
        level = {"error": logging.ERROR, "warning": logging.WARNING}.get(finding.level, logging.INFO)
        log.log(
            level,
            "preflight",
            extra={"check": finding.name, "reason": finding.message, "hint": finding.hint or ""},
        )
    errors = [finding for finding in findings if finding.level == "error"]
    errors += [finding for finding in findings if finding.name == "slot_in_use" and not standby]
    if errors:
        more = f" (and {len(errors) - 1} more: walcast config check)" if len(errors) > 1 else ""
        raise OperatorError(errors[0].message + more, hint=errors[0].hint)
    config = source_config(settings)
    async with await connect_source(config, "prepare") as connection:
        if token is not None:
            token.check(await identity(connection))
        await ensure_wanted(connection, config)


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Does the work, unless the process is asked to stop meanwhile; whether it was done."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(asked.wait())
    await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if doing.done():
        doing.result()
        return True
    doing.cancel()
    await asyncio.wait([doing])
    return False


async def _run_until(pipeline: Pipeline, running: asyncio.Future[None], token: Token | None) -> None:
    """Stops the pipeline once every sink that is not stopped has the token (None: the source's position at start)."""
    reaching = asyncio.ensure_future(_reach(pipeline, token))
    await asyncio.wait([running, reaching], return_when=asyncio.FIRST_COMPLETED)
    if reaching.done():
        pipeline.stop()
    else:
        reaching.cancel()
    await running
    if reaching.done() and not reaching.cancelled():
        reaching.result()


async def _reach(pipeline: Pipeline, token: Token | None) -> None:
    while not _settled(pipeline.status()):  # noqa: ASYNC110  # a status is drawn, not announced
        await asyncio.sleep(0.05)
    if token is not None:
        token.check(pipeline.source.identity)
    lsn = await pipeline.source.position() if token is None else token.lsn
    for sink in pipeline.status().sinks:
        with contextlib.suppress(OperatorError):  # a stopped sink is in the result
            await pipeline.wait_for(lsn, sink.name)
        while pipeline.building(sink.name) and pipeline.shows_rows(sink.name):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.05)


def _settled(status: PipelineStatus) -> bool:
    """Every sink follows the stream, or has stopped."""
    done = (SinkState.STREAMING, SinkState.PAUSED, SinkState.STOPPED, SinkState.RELEASED)
    return status.state == "running" and all(sink.state in done for sink in status.sinks)


@contextlib.contextmanager
def _signals(pipeline: Pipeline, settings: Settings) -> Iterator[asyncio.Event]:
    """SIGTERM and SIGINT stop, SIGHUP reloads. A second SIGINT ends at once: nothing is lost by that, only repeated.
    Yields the event that says that a stop was asked for."""
    loop = asyncio.get_running_loop()
    reloading: set[asyncio.Task[Any]] = set()
    asked = asyncio.Event()

    def stop(number: int) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        pipeline.stop()

    def reload() -> None:
        task = asyncio.create_task(_reload_logged(pipeline, settings))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    pipeline.control.register("reload", lambda _: reload_pipeline(pipeline, settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield asked
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def reload_pipeline(pipeline: Pipeline, settings: Settings) -> list[str]:
    """Reads the file again: takes up tables that match now, tries stopped sinks again, logs as it says. What cannot change
    while it runs is named. A mistake in the file leaves everything as it is."""
    fresh = load(settings.path)
    later = [name for name in _changed(shown(settings), shown(fresh)) if name not in _AT_ONCE]
    chosen = fresh.source.include, fresh.source.exclude
    config = replace(source_config(settings), include=chosen[0], exclude=chosen[1])
    async with await connect_source(config, "prepare") as connection:
        outcome = await ensure_wanted(connection, config)
    logs.configure(fresh.log.level, fresh.log.format)
    if isinstance(pipeline.source, PostgresSource):
        pipeline.source.reselect(*chosen)
    await pipeline.reload()
    log.info("reloaded", extra={"publication": str(outcome), "at_next_start": ",".join(later)})
    return [str(outcome), *(f"{name} changed: it takes effect at the next start" for name in later)]


async def _reload_logged(pipeline: Pipeline, settings: Settings) -> None:
    try:
        await reload_pipeline(pipeline, settings)
    except Exception as error:  # nobody waits for it
        verdict = classify(error)
        log.error("reload_failed", extra={"reason": verdict.message, "hint": verdict.remedy})


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """The settings that differ, as dotted names; those of logging apply at once."""
    names = []
    for key in sorted({*old, *new} - (set() if path else {"log"})):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            names += _changed(before, after, f"{path}{key}.")
        elif before != after:
            names.append(f"{path}{key}")
    return names


def _http(listen: str, pipeline: Pipeline) -> HttpServer:
    """Metrics are read in the event loop, which owns them; `/livez` answers without it."""
    loop = asyncio.get_running_loop()

    async def read(make: Callable[[], T]) -> T:
        return make()

    def inside(make: Callable[[], T]) -> T:
        return asyncio.run_coroutine_threadsafe(read(make), loop).result(5)

    def samples() -> list[Sample]:
        pipeline.status()  # brings the gauges up to date
        return list(pipeline.metrics.samples())

    def health() -> tuple[bool, dict[str, Any]]:
        status = pipeline.status()
        return status.ready, {
            "state": status.state,
            "sinks": {sink.name: sink.state.value for sink in status.sinks},
        }

    return HttpServer(listen, lambda: inside(samples), lambda: inside(health))


async def _listen_later(stack: contextlib.AsyncExitStack, http: HttpServer, pipeline: Pipeline) -> None:
    """A hot spare listens once it has taken over."""
    while pipeline.status().state in ("starting", "waiting"):  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.2)
    try:
        stack.enter_context(http)
    except OperatorError as error:  # it replicates all the same
        log.error("http_failed", extra={"reason": error.message, "hint": error.hint or ""})


async def _every(seconds: float, action: Callable[[], None]) -> None:
    while True:
        action()
        await asyncio.sleep(seconds)
