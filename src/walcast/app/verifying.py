"""`walcast verify`: by the running pipeline, asked through its control socket; else by one that runs for so long.

A pipeline at rest has to be run, since a position is reached by streaming up to it. What was compared is noted in
`state_dir/verify/SINK.json` after each range, so that a comparison that was broken off can go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from walcast.app import registry
from walcast.app.comparing import Comparison
from walcast.app.compose import connect_source, make_pipeline, make_source, source_config
from walcast.app.rebuilding import Rebuilds
from walcast.app.settings import Settings
from walcast.engine import NotRunning, Pipeline, SinkState, call, classify
from walcast.engine.tasks import beside
from walcast.model import ConfigError, OperatorError, RetryableError, SinkUnavailable, TableId
from walcast.postgres.selection import Pattern
from walcast.postgres.source import PostgresSource
from walcast.verify.report import Report, TableReport, plain
from walcast.verify.run import Options, Progress, Verification
from walcast.verify.source import SourceReader

log = logging.getLogger("walcast.app")

_LOOK: Final = 0.2
_STARTING: Final = 60.0
_SAVE_INTERVAL: Final = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to compare: the tables that match the patterns (none: all) of one sink. `every`: over and over, so many seconds
    apart; `resume`: go on where the last one was broken off."""

    sink: str
    patterns: tuple[str, ...] = ()
    repair: bool = False
    values: bool = False
    rate: float | None = None
    listed: int = 100
    patience: float = 60.0
    resume: bool = False
    every: float | None = None


class Job:
    """A comparison under way in this process; `run` is its task."""

    def __init__(self, pipeline: Pipeline, settings: Settings, wanted: Wanted) -> None:
        self.wanted = wanted
        self.report: Report | None = None
        """The last one that was finished."""
        self.rounds = 0
        self.error: dict[str, Any] | None = None
        self._pipeline = pipeline
        self._settings = settings
        self._notes = Notes(settings.pipeline.state_dir, wanted)
        self._current: Verification | Comparison | None = None
        self.task = asyncio.create_task(self._run(), name=f"walcast verify {wanted.sink}")

    @property
    def progress(self) -> Progress:
        return self._current.progress if self._current is not None else Progress()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        try:
            while True:
                self.report = await self._once()
                self.rounds += 1
                self._count(self.report)
                if self.wanted.every is None:
                    return
                await asyncio.sleep(self.wanted.every)
        except Exception as error:
            verdict = classify(error)
            self.error = {"code": verdict.code, "message": verdict.message, "hint": verdict.remedy}
            log.warning("verify_failed", extra={"sink": self.wanted.sink, "reason": verdict.message})
            log.debug("verify_failed_trace", exc_info=error)

    async def _once(self) -> Report:
        wanted, source = self.wanted, self._pipeline.source
        assert isinstance(source, PostgresSource)
        config = source_config(self._settings)
        patterns = [Pattern.parse(text) for text in wanted.patterns]

        def selected(table: TableId) -> bool:
            return source.selects(table) and (not patterns or any(p.matches(table) for p in patterns))

        identity = source.identity
        kinds = {item.name: item.type for item in self._settings.sinks}
        report = Report(
            wanted.sink,
            kinds.get(wanted.sink, ""),
            identity.database,
            str(identity.system_id),
            identity.timeline,
            time.time(),
            repair=wanted.repair,
        )
        options = Options(
            repair=wanted.repair,
            values=wanted.values,
            rate=wanted.rate,
            listed=wanted.listed,
            patience=wanted.patience,
        )
        if registry.sink(report.kind).derived:
            return await self._mapped(report, options)
        done, begun = self._notes.load() if wanted.resume and not self.rounds else ({}, None)
        async with SourceReader(
            await connect_source(config, "verify"), config.publication, selected
        ) as reader:
            self._current = Verification(
                reader,
                partial(self._pipeline.hold, wanted.sink),
                options,
                report,
                skip=self._not_compared,
                copy_anew=partial(copied_anew, self._pipeline, wanted.sink),
                finished=self._notes.save,
                done=done,
                begun=begun,
            )
            await self._current.run()
        if not report.tables and patterns:
            raise ConfigError(
                f"no table matches {', '.join(wanted.patterns)}",
                hint="patterns are schema.table with * and ?",
            )
        self._notes.clear()
        return report

    async def _mapped(self, report: Report, options: Options) -> Report:
        """Of a sink that holds what a mapping makes: all of it, from the beginning."""
        if self.wanted.patterns or self.wanted.resume:
            raise ConfigError(
                f"sink {self.wanted.sink} holds what the mapping makes of several tables",
                hint="compare all of it: without --table and --resume",
            )
        async with await connect_source(source_config(self._settings), "verify") as connection:
            self._current = Comparison(
                connection, partial(self._pipeline.hold, self.wanted.sink), options, report
            )
            return await self._current.run()

    def _not_compared(self, table: TableId) -> str | None:
        """Why a table is not compared."""
        if table in self._pipeline.building(self.wanted.sink):
            return "it is being taken over: its rows come chunk by chunk, and are compared at the end"
        return _stopped(self._pipeline, self.wanted.sink, table)

    def _count(self, report: Report) -> None:
        metrics, sink = self._pipeline.metrics, report.sink
        metrics.add("walcast_verify_rounds_total", sink)
        metrics.set("walcast_verify_last_seconds", sink, to=report.ended)
        for table in report.tables:
            metrics.add("walcast_verify_rows_total", sink, by=table.rows)
            metrics.add("walcast_verify_repaired_total", sink, by=table.repaired)
            unsettled = table.unsettled_rows + table.unsettled_ranges
            metrics.set("walcast_verify_differences", sink, table.table, to=table.total - table.repaired)
            metrics.set("walcast_verify_unsettled", sink, table.table, to=unsettled)
        log.info(
            "verified",
            extra={
                "sink": sink,
                "state": report.state,
                "rows": report.rows,
                "differences": report.differences,
            },
        )


def _stopped(pipeline: Pipeline, sink: str, table: TableId) -> str | None:
    """Why the copy has stopped following a table; None: it has not."""
    for stopped in pipeline.status().sink(sink).stopped_tables:
        if stopped.table == str(table):
            return f"it is stopped: {stopped.reason}"
    return None


async def copied_anew(pipeline: Pipeline, sink: str, table: TableId) -> None:
    """Copies a table by a snapshot; returns when its sink follows the stream again. Raises OperatorError when it does not."""
    await pipeline.copy_anew(sink, [table])
    while (now := pipeline.status().sink(sink)).state is not SinkState.STREAMING:
        if now.state in (SinkState.STOPPED, SinkState.RELEASED):
            why = f": {now.error.message}" if now.error is not None else ""
            raise OperatorError(f"sink {sink} has stopped{why}", hint="see: walcast status")
        await asyncio.sleep(_LOOK / 10)
    if (reason := _stopped(pipeline, sink, table)) is not None:
        raise OperatorError(reason, hint="see: walcast status")


class Notes:
    """How far a comparison is, in a file: the finished tables' reports, and the one under way with its last key."""

    def __init__(self, state_dir: Path, wanted: Wanted) -> None:
        self._path = state_dir / "verify" / f"{wanted.sink}.json"
        self._of = {"patterns": list(wanted.patterns), "repair": wanted.repair}
        self._done: dict[str, Any] = {}
        self._saved = 0.0

    def load(self) -> tuple[dict[str, TableReport], tuple[TableReport, tuple[str, ...]] | None]:
        """What is done. Raises OperatorError when there is nothing to go on with, or it was another comparison."""
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            found = {}
        if found.get("of") != self._of:
            raise OperatorError(
                "there is no comparison that was broken off and asked the same",
                hint="start it without --resume",
            )
        self._done = found["done"]
        done = {name: TableReport.of(table) for name, table in self._done.items()}
        begun = found.get("begun")
        return done, None if begun is None else (TableReport.of(begun["table"]), tuple(begun["upper"]))

    async def save(self, table: TableReport, upper: tuple[str, ...] | None) -> None:
        now = time.monotonic()
        if upper is None:
            self._done[table.table] = dataclasses.asdict(table)
        elif now < self._saved + _SAVE_INTERVAL or table.total or table.unsettled_ranges:
            return  # a table with differences is begun again: their keys are not kept
        self._saved = now
        begun = None if upper is None else {"table": dataclasses.asdict(table), "upper": upper}
        await asyncio.to_thread(self._write, {"of": self._of, "done": self._done, "begun": begun})

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
        self._done = {}

    def _write(self, content: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(content))
        os.replace(beside, self._path)


class Jobs:
    """The comparisons of a running pipeline, one for each sink, as its control socket serves them: `verify_start`,
    `verify_look`, `verify_stop`."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._jobs: dict[str, Job] = {}

    def register(self) -> None:
        for name in ("start", "look", "stop"):
            self._pipeline.control.register(f"verify_{name}", getattr(self, name))

    async def start(self, params: dict[str, Any]) -> bool:
        """Begins a comparison. Raises OperatorError when one of that sink is under way."""
        wanted = Wanted(**{**params, "patterns": tuple(params.get("patterns", ()))})
        known = self._jobs.get(wanted.sink)
        if known is not None and not known.task.done():
            raise OperatorError(
                f"sink {wanted.sink} is being compared already",
                hint=f"wait for it, or end it: walcast verify {wanted.sink} --stop",
            )
        self._jobs[wanted.sink] = Job(self._pipeline, self._settings, wanted)
        return True

    async def look(self, params: dict[str, Any]) -> dict[str, Any]:
        """Progress, and the report of the last finished round."""
        job = self._job(params)
        return {
            "running": not job.task.done(),
            "progress": dataclasses.asdict(job.progress),
            "rounds": job.rounds,
            "report": None if job.report is None else plain(job.report),
            "error": job.error,
        }

    async def stop(self, params: dict[str, Any]) -> bool:
        await self._job(params).stop()
        return True

    def _job(self, params: dict[str, Any]) -> Job:
        job = self._jobs.get(params.get("sink", ""))
        if job is None:
            raise OperatorError("no comparison of that sink was begun", hint="walcast verify SINK")
        return job


Seen = Callable[[Progress, int, "Report | None", bool], None]
"""Shown while it runs: progress, finished rounds, the report of a round that has just ended, whether more are to come."""


def can_be_compared(kind: str) -> bool:
    """Whether sinks of that type can show their rows."""
    made = registry.sink(kind).load()
    return hasattr(made, "view") or hasattr(made, "held")


async def verify(settings: Settings, wanted: Wanted, seen: Seen) -> Report:
    """Compares one sink. Raises ConfigError when there is no such sink, and what the comparison raises."""
    known = [item.name for item in settings.sinks]
    if wanted.sink not in known:
        raise ConfigError(
            f"there is no sink {wanted.sink!r}", hint=f"sinks: {', '.join(known) or 'none yet'}"
        )
    ask = partial(call, settings.pipeline.state_dir)
    try:
        await ask("verify_start", dataclasses.asdict(wanted))
    except NotRunning:
        async with _resting(settings, wanted.sink) as pipeline:
            return await _followed(_local(Jobs(pipeline, settings)), wanted, seen, start=True)
    return await _followed(ask, wanted, seen)


async def stop(settings: Settings, sink: str) -> None:
    """Ends a comparison that the running pipeline does."""
    await call(settings.pipeline.state_dir, "verify_stop", {"sink": sink})


Ask = Callable[[str, dict[str, Any]], Any]


async def _followed(ask: Ask, wanted: Wanted, seen: Seen, *, start: bool = False) -> Report:
    """Looks at a comparison until it is over; ends it when this is ended."""
    if start:
        await ask("verify_start", dataclasses.asdict(wanted))
    params = {"sink": wanted.sink}
    rounds = 0
    try:
        while True:
            now = await ask("verify_look", params)
            report = None if now["report"] is None else _report(now["report"])
            fresh = report if now["rounds"] > rounds else None
            seen(Progress(**now["progress"]), now["rounds"], fresh, wanted.every is not None)
            rounds = now["rounds"]
            if now["error"] is not None:
                raise _error(now["error"])
            if not now["running"]:
                if report is None:
                    raise OperatorError("the comparison was ended", hint="start it again")
                return report
            await asyncio.sleep(_LOOK)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await ask("verify_stop", params)
        raise


def _local(jobs: Jobs) -> Ask:
    async def ask(method: str, params: dict[str, Any]) -> Any:
        return await getattr(jobs, method.removeprefix("verify_"))(params)

    return ask


def _report(value: dict[str, Any]) -> Report:
    return Report.of(value)


def _error(value: dict[str, Any]) -> OperatorError | RetryableError | ConfigError:
    kind = {"ConfigError": ConfigError}.get(value["code"], OperatorError)
    return kind(value["message"], hint=value["hint"])


@asynccontextmanager
async def _resting(settings: Settings, sink: str) -> AsyncIterator[Pipeline]:
    """Runs the pipeline for as long as the body does: the copy catches up meanwhile."""
    if not settings.pipeline.state_dir.is_dir():
        raise OperatorError("this pipeline has never run: there is no copy", hint="start it: walcast run")
    pipeline = make_pipeline(settings, make_source(settings))
    async with beside(Rebuilds(pipeline, source_config(settings)).run()), _running(pipeline, sink):
        yield pipeline


@asynccontextmanager
async def _running(pipeline: Pipeline, sink: str) -> AsyncIterator[None]:
    task = asyncio.create_task(pipeline.run())
    try:
        async with asyncio.timeout(_STARTING):
            while not task.done() and pipeline.status().state != "running":  # noqa: ASYNC110  # a status is drawn
                await asyncio.sleep(0.02)
            while not task.done() and pipeline.status().sink(sink).state.value in _COMING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        if task.done():
            task.result()
            raise OperatorError("the pipeline ended", hint="see: walcast run")
        problem = pipeline.status().sink(sink).error
        if problem is not None and pipeline.status().sink(sink).state.value in ("stopped", "released"):
            raise OperatorError(f"sink {sink} has stopped: {problem.message}", hint=problem.remedy)
        yield
    except TimeoutError:
        raise SinkUnavailable(
            f"sink {sink} did not catch up within {_STARTING:g} s", hint="run the pipeline first: walcast run"
        ) from None
    finally:
        pipeline.stop()
        with contextlib.suppress(Exception):
            await task


_COMING: Final[Sequence[str]] = ("opening", "copying", "retrying", "detached")
