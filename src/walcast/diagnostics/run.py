"""Opens the case once, makes every check at the same time, and sorts what they found."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from walcast.diagnostics.case import Case, Limits, Setup
from walcast.diagnostics.checks import CHECKS, Check
from walcast.model import LEVELS, Finding, Level, WalcastError, finding_of
from walcast.postgres.catalog import identity
from walcast.postgres.connect import application_name, connect
from walcast.postgres.faults import explain
from walcast.postgres.preflight import read_facts
from walcast.postgres.preflight.server import version_finding

Status = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Checked:
    """A check that was made; `findings` the worst first. `skipped`: the source could not be asked."""

    name: str
    findings: tuple[Finding, ...]
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All of them in the order of the list. `took` in seconds."""

    checks: tuple[Checked, ...]
    took: float

    @property
    def findings(self) -> list[Finding]:
        """Every finding, the worst first."""
        found = [finding for check in self.checks for finding in check.findings]
        return sorted(found, key=lambda finding: LEVELS.index(finding.level))

    @property
    def worst(self) -> Level | None:
        """None when nothing was found."""
        return self.findings[0].level if self.findings else None


@contextlib.asynccontextmanager
async def opened(
    setup: Setup,
    status: Status,
    *,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[tuple[Case, Finding | None]]:
    """The case, with its connection, and why the source cannot be asked, if so."""
    case = Case(setup, limits or Limits(), clock)
    async with contextlib.AsyncExitStack() as stack:
        problem, _ = await asyncio.gather(_open_source(case, stack), _take_status(case, status))
        yield case, problem


async def examine(case: Case, problem: Finding | None, only: Sequence[str] = ()) -> Report:
    """Makes every check (or those of `only`) at the same time. A check that fails itself is a finding."""
    began = time.monotonic()
    chosen = [check for check in CHECKS if not only or check.name in only]
    made = await asyncio.gather(*(_make(check, case, problem) for check in chosen))
    return Report(tuple(made), time.monotonic() - began)


async def _open_source(case: Case, stack: contextlib.AsyncExitStack) -> Finding | None:
    try:
        name = application_name(case.setup.name, "doctor")
        connection = await stack.enter_async_context(await connect(case.setup.source.dsn, application=name))
        for finding in version_finding(connection.info.server_version):
            return finding
        case.facts = await read_facts(connection, case.setup.source)
        case.identity = await identity(connection)
    except WalcastError as error:
        return finding_of(error, "connection")
    except psycopg.Error as error:
        return finding_of(explain(error, "reading the source's catalog"), "connection")
    return None


async def _take_status(case: Case, status: Status) -> None:
    try:
        case.status = await status()
    except WalcastError as error:
        case.status_problem = finding_of(error, "no_status", where="pipeline")


async def _make(check: Check, case: Case, problem: Finding | None) -> Checked:
    if check.name == "connection" and problem is not None:
        return Checked(check.name, (problem,))
    if check.source and case.facts is None:
        return Checked(check.name, (), skipped=True)
    try:
        found = list(await check.look(case))
    except psycopg.Error as error:
        found = [finding_of(explain(error, f"check {check.name}"), "check_failed", "warning")]
    except WalcastError as error:
        found = [finding_of(error, "check_failed", "warning")]
    return Checked(check.name, tuple(sorted(found, key=lambda finding: LEVELS.index(finding.level))))
