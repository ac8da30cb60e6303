"""The rows that were set aside: of a running pipeline through its control socket, else of the stores."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from walcast.app.compose import make_source
from walcast.app.operations import ask, opened, sinks_named
from walcast.app.settings import Settings
from walcast.decode import NATIVE, TWIN
from walcast.decode.letters import letter_batch
from walcast.engine import ControlError, NotRunning, owned
from walcast.engine.aside import Aside
from walcast.engine.deadfile import FileDeadLetters, dead_file
from walcast.engine.metrics import Metrics
from walcast.engine.retrying import Retried, retry
from walcast.model import (
    Batch,
    DeadLetter,
    KeepsDeadLetters,
    OperatorError,
    SetsAside,
    SinkUnavailable,
    TableId,
)
from walcast.postgres.source import PostgresSource


@dataclass(frozen=True, slots=True)
class Held:
    """The dead letters of one sink, counted. `oldest` is the age of the oldest one, seconds."""

    sink: str
    count: int
    oldest: float
    tables: tuple[TableId, ...]


async def letters(settings: Settings, sink: str | None = None) -> dict[str, list[DeadLetter]]:
    """The dead letters of each sink (or of one) that sets rows aside, by number."""
    found: dict[str, list[DeadLetter]] = {}
    for name in sinks_named(settings, sink):
        try:
            answer = await ask(settings, "dead", {"sink": name})
            found[name] = [DeadLetter.of(value) for value in answer]
        except NotRunning:
            found |= await _at_rest(settings, name)
        except ControlError as error:  # without letters because it sets none aside: no more to say
            if sink is not None or error.remote == SinkUnavailable.__name__:
                raise
    return found


async def held(settings: Settings) -> list[Held]:
    """How many rows each sink has set aside, and for how long: for the doctor. Sinks without any are left out."""
    now = time.time()
    return [
        Held(
            name,
            len(some),
            max(0.0, now - min(letter.since for letter in some)),
            tuple(sorted({letter.table for letter in some})),
        )
        for name, some in (await letters(settings)).items()
        if some
    ]


async def try_again(settings: Settings, sink: str, numbers: Sequence[int] | None) -> list[Retried]:
    """Tries letters (None: all) again, each with all others of its keys, in order."""
    sinks_named(settings, sink)
    try:
        answer = await ask(settings, "dead_retry", {"sink": sink, "numbers": numbers}, timeout=None)
        return [Retried(**{**value, "table": TableId(*value["table"])}) for value in answer]
    except NotRunning:
        async with _open(settings, sink) as (aside, opened_sink, source):

            async def again(number: int, batch: Batch) -> DeadLetter | None:
                for relation in batch.relations:
                    await opened_sink.prepare(relation)
                return await aside.again(number, batch)

            return await retry(aside, numbers, source.revive, again)


async def drop(settings: Settings, sink: str, numbers: Sequence[int] | None) -> list[int]:
    """Forgets letters (None: all) for good."""
    sinks_named(settings, sink)
    try:
        answer: list[int] = await ask(settings, "dead_drop", {"sink": sink, "numbers": numbers})
        return answer
    except NotRunning:
        async with _open(settings, sink) as (aside, _, _):
            return await aside.drop(numbers)


def row_of(letter: DeadLetter) -> dict[str, Any]:
    """The letter's change as in docs/reference/jsonl.md, its values as PostgreSQL's text or JSON."""
    line = letter_batch(letter, letter.relation, NATIVE or TWIN).json_lines()
    value: dict[str, Any] = json.loads(line)
    return value


async def _at_rest(settings: Settings, name: str) -> dict[str, list[DeadLetter]]:
    if not settings.pipeline.state_dir.is_dir():
        return {name: []}
    try:
        async with _open(settings, name) as (aside, _, _):
            return {name: list(aside.letters.values())}
    except _NoLetters:
        return {}


class _NoLetters(OperatorError):
    """The sink sets no rows aside."""


@asynccontextmanager
async def _open(settings: Settings, name: str) -> AsyncIterator[tuple[Aside, Any, PostgresSource]]:
    """The sink's store, opened as the pipeline would."""
    state_dir = settings.pipeline.state_dir
    async with (
        make_source(settings) as source,
        owned(state_dir),
        opened(settings, name, source.identity) as sink,
    ):
        if not isinstance(sink, SetsAside):
            raise _NoLetters(f"sink {name} sets no rows aside", hint="see: walcast sinks")
        beside = isinstance(sink, KeepsDeadLetters)
        store = sink.dead_letters() if beside else FileDeadLetters(dead_file(state_dir, name))  # type: ignore[attr-defined]
        aside = Aside(name, sink, sink.policies, store, {}, Metrics())  # type: ignore[arg-type]
        await aside.load()
        yield aside, sink, source
