"""`walcast doctor`: what is configured and how it goes, as the checks want it."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from walcast.app import deadletters, mapping, operations, registry
from walcast.app.compose import source_config
from walcast.app.settings import Settings, SinkSettings
from walcast.diagnostics import CHECKS, Aside, Case, Report, Setup, SinkSetup, apply, examine, opened
from walcast.model import (
    ConfigError,
    Examinable,
    Finding,
    Fix,
    OperatorError,
    SinkContext,
    SourceIdentity,
    WalcastError,
    finding_of,
)
from walcast.model.secret import Secret
from walcast.postgres.connect import describe

_UNKNOWN = SourceIdentity(0, 0, 0, "")


class Doctor:
    """One visit: `look` makes the checks, `fix` one safe step; both as often as wanted."""

    def __init__(self, case: Case, problem: Finding | None, only: Sequence[str]) -> None:
        self._case = case
        self._problem = problem
        self._only = only

    @property
    def running(self) -> bool:
        """Whether the pipeline answered."""
        return self._case.running

    async def look(self) -> Report:
        return await examine(self._case, self._problem, self._only)

    async def fix(self, fix: Fix) -> None:
        """Raises WalcastError."""
        try:
            await apply(self._case, fix)
        except OSError as error:
            raise OperatorError(f"{fix.target}: {error.strerror}", hint="see who owns it") from None


@contextlib.asynccontextmanager
async def visit(
    settings: Settings, *, sink: str | None = None, only: Sequence[str] = ()
) -> AsyncIterator[Doctor]:
    """Opens what the checks look at. Raises ConfigError for a sink or a check that is not there."""
    for name in only:
        _known("check", name, [check.name for check in CHECKS])
    if sink is not None:
        _known("sink", sink, [item.name for item in settings.sinks])

    async def status() -> Mapping[str, Any]:
        found = await operations.status(settings)
        chosen = [line for line in found["sinks"] if sink in (None, line["name"])]
        return {**found, "sinks": chosen}

    async with opened(_setup(settings, sink), status) as (case, problem):
        yield Doctor(case, problem, only)


def _known(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise ConfigError(
            f"there is no {what} {name!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"{what}s: {', '.join(names) or 'none yet'}",
        )


def _setup(settings: Settings, sink: str | None) -> Setup:
    return Setup(
        name=settings.pipeline.name,
        state_dir=settings.pipeline.state_dir,
        source=source_config(settings),
        sinks=tuple(_sink(settings, item) for item in settings.sinks if sink in (None, item.name)),
        file=settings.path,
        holds_secret=_holds_secret(settings),
        wal_budget=settings.engine.wal_budget,
        wal_warning=settings.engine.wal_warning,
        listen=settings.http.listen,
        aside=lambda: _aside(settings, sink),
    )


async def _aside(settings: Settings, sink: str | None) -> list[Aside]:
    if not settings.pipeline.state_dir.is_dir():  # looking would make the stores
        return []
    return [
        Aside(held.sink, held.count, held.oldest, [str(table) for table in held.tables])
        for held in await deadletters.held(settings)
        if sink in (None, held.sink)
    ]


def _sink(settings: Settings, item: SinkSettings) -> SinkSetup:
    fields = {field.name: field.metadata for field in dataclasses.fields(item.config)}
    values = {name: getattr(item.config, name) for name in fields}
    paths = tuple(value for value in values.values() if isinstance(value, Path))
    where = [str(path.absolute()) for path in paths]
    for name, value in values.items():
        if isinstance(value, Secret) and not fields[name].get("password"):
            where.append(describe(value))
        elif fields[name].get("place"):
            where.append(str(value))
    names = [str(getattr(item.config, name, "")) for name in ("schema", "schemas")]
    place = "\0".join([item.type, *where, *names]) if where else f"{item.type}\0{item.name}"
    return SinkSetup(item.name, item.type, place, paths, _examination(settings, item))


def _examination(
    settings: Settings, item: SinkSettings
) -> Callable[[SourceIdentity | None], Awaitable[Sequence[Finding]]]:
    """Makes the sink, which is not opened, and asks it if it can be asked."""

    async def look(identity: SourceIdentity | None) -> Sequence[Finding]:
        context = SinkContext(
            settings.pipeline.name, item.name, identity or _UNKNOWN, str(settings.pipeline.state_dir)
        )
        try:
            entry = registry.sink(item.type)
            sink = entry.build(item.config, context)
            found = await sink.examine() if isinstance(sink, Examinable) else ()
            if entry.derived and settings.mapping:
                found = [
                    *found,
                    *await mapping.check(settings, sorted(entry.load().kinds), item.config.targets),
                ]
        except WalcastError as error:
            return [finding_of(error, "target", where=item.name)]
        return [dataclasses.replace(finding, where=item.name) for finding in found]

    return look


def _holds_secret(settings: Settings) -> bool:
    """Whether a password of one of the DSNs stands in the file itself."""
    if settings.path is None:
        return False
    configs = [settings.source, *(sink.config for sink in settings.sinks)]
    found = [(getattr(c, f.name), f.metadata) for c in configs for f in dataclasses.fields(c)]
    secrets = [(value, metadata) for value, metadata in found if isinstance(value, Secret)]
    passwords = {value.reveal() if m.get("password") else _password(value) for value, m in secrets} - {""}
    try:
        text = settings.path.read_text(encoding="utf-8")
    except OSError:
        return False
    return any(password in text for password in passwords)


def _password(secret: Secret) -> str:
    try:
        return str(conninfo_to_dict(secret.reveal()).get("password") or "")
    except psycopg.Error:
        return ""
