"""What the doctor's tests share: one visit to a source, and its findings by name."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from walcast.diagnostics import Limits, Report, Setup, examine, opened
from walcast.model import Finding
from walcast.model.secret import Secret
from walcast.postgres.config import SourceConfig

AT_REST: dict[str, Any] = {
    "running": False,
    "state": "stopped",
    "source": {"error": None, "position": None},
    "sinks": [],
}


async def visit(
    dsn: str,
    *only: str,
    status: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
    setup: Mapping[str, Any] | None = None,
    **source: Any,
) -> Report:
    """Makes these checks (all: none named)."""
    config = SourceConfig(dsn=Secret(dsn), **{"include": ("*.*",)} | source)
    chosen: dict[str, Any] = {"name": "t", "state_dir": Path("/tmp"), "source": config} | dict(setup or {})

    async def taken() -> Mapping[str, Any]:
        return status or AT_REST

    async with opened(Setup(**chosen), taken, limits=limits, clock=clock) as (case, problem):
        return await examine(case, problem, only)


async def found(dsn: str, *only: str, **options: Any) -> dict[str, Finding]:
    """The findings by name; each says what to do, unless it is a choice that was made."""
    report = await visit(dsn, *only, **options)
    for finding in report.findings:
        assert finding.hint or finding.level == "notice", finding
        assert finding.name != "check_failed", finding
    return {finding.name: finding for finding in reversed(report.findings)}


def own_address() -> str:
    """This machine's address on its network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect(("192.0.2.1", 9))
        return str(line.getsockname()[0])
