"""Checks of this machine's files, and of settings that do not go together."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import LiteralString

from walcast.diagnostics.case import Case
from walcast.diagnostics.wording import size, span
from walcast.model import Finding, Fix
from walcast.postgres.slots import slot_state

_PASSING = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/mounts")
_SHORT = 10.0
_KEPT: LiteralString = """
select setting::int8 * 1024 * 1024 from pg_catalog.pg_settings where name = 'max_slot_wal_keep_size'
"""


async def check_files(case: Case) -> Sequence[Finding]:
    setup = case.setup
    found = []
    if setup.file is not None and setup.holds_secret and _open_to_others(setup.file):
        found.append(
            Finding(
                "error",
                "secret_readable",
                f"{setup.file} holds a password, and others may read it",
                f"chmod 600 {setup.file}",
                where=str(setup.file),
                fix=Fix("chmod", str(setup.file), f"chmod 600 {setup.file}"),
            )
        )
    if setup.state_dir.exists() and (kind := _passing(setup.state_dir)):
        found.append(
            Finding(
                "warning",
                "state_passes",
                f"the state directory is on {kind}: a restart of this machine forgets checkpoints and the slot's owner",
                "set pipeline.state_dir to a folder on a disk",
                where=str(setup.state_dir),
            )
        )
    return found + [finding for where, path in _places(case) for finding in _usable(case, where, path)]


def _places(case: Case) -> Iterator[tuple[str, Path]]:
    """Every folder or file that is written here, with who writes it."""
    yield "pipeline", case.setup.state_dir
    if case.setup.source.spool_dir is not None:
        yield "spool", Path(case.setup.source.spool_dir)
    for sink in case.setup.sinks:
        for path in sink.paths:
            yield sink.name, path


def _usable(case: Case, where: str, path: Path) -> list[Finding]:
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        return [
            Finding(
                "error",
                "not_writable",
                f"{path} cannot be written by this user",
                f"chown or chmod {nearest}, or choose another place",
                where=where,
            )
        ]
    state = os.statvfs(nearest)
    free = state.f_bavail * state.f_frsize
    if free >= case.limits.free:
        return []
    return [
        Finding(
            "warning",
            "disk_low",
            f"{size(free)} are left on the disk of {path}",
            "free space there, or choose another disk",
            where=where,
        )
    ]


def _open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def _passing(path: Path) -> str | None:
    """The kind of file system, when it forgets all at a restart."""
    try:
        mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    except OSError:
        return None
    resolved = str(path.resolve())
    above = [
        (where, kind)
        for where, kind in mounts
        if resolved == where or resolved.startswith(where.rstrip("/") + "/")
    ]
    kind = max(above, key=lambda item: len(item[0]), default=("", ""))[1]
    return kind if kind in _PASSING else None


async def check_configuration(case: Case) -> Sequence[Finding]:
    setup = case.setup
    found = [*_shared(case)]
    if not setup.sinks:
        found.append(
            Finding(
                "error",
                "no_sinks",
                "there is no sink",
                "add a [sinks.NAME] table; kinds: walcast sinks",
                where="pipeline",
            )
        )
    if setup.listen and not setup.listen.startswith(("127.", "localhost", "[::1]")):
        found.append(
            Finding(
                "notice",
                "metrics_open",
                f"http.listen = {setup.listen}: whoever reaches this machine reads the metrics, with table names",
                'http.listen = "127.0.0.1:9187", or a firewall',
                where="pipeline",
            )
        )
    return found


def _shared(case: Case) -> Iterator[Finding]:
    """Two sinks of one place overwrite each other."""
    first: dict[str, str] = {}
    for sink in case.setup.sinks:
        other = first.setdefault(sink.place, sink.name)
        if other != sink.name:
            yield Finding(
                "error",
                "place_shared",
                f"sinks {other} and {sink.name} write to the same place",
                "give each a place of its own",
                where=sink.name,
            )


async def check_budget(case: Case) -> Sequence[Finding]:
    """Settings of the pipeline against the server's."""
    budget, source = case.setup.wal_budget, case.setup.source
    found = []
    ((kept,),) = await case.rows(_KEPT)
    if budget is not None and 0 <= kept < budget:
        found.append(
            Finding(
                "warning",
                "budget_beyond_server",
                f"engine.wal_budget ({size(budget)}) is more than max_slot_wal_keep_size ({size(kept)}):"
                " the server drops the slot's WAL first",
                "make engine.wal_budget smaller, or max_slot_wal_keep_size larger",
                where="pipeline",
            )
        )
    if source.receive_timeout < _SHORT:
        found.append(
            Finding(
                "warning",
                "receive_timeout_short",
                f"source.receive_timeout is {span(source.receive_timeout)}: a short stall counts as a lost connection",
                "leave source.receive_timeout at 60s",
                where="pipeline",
            )
        )
    slot = await slot_state(case.connection, source.slot)
    if slot is not None and budget is not None and slot.retained >= budget * case.setup.wal_warning:
        found.append(
            Finding(
                "error" if slot.retained >= budget else "warning",
                "wal_budget",
                f"the slot keeps {size(slot.retained)} of WAL, of a budget of {size(budget)}",
                "see the finding on who holds WAL; engine.on_budget says what is done at the budget",
                where="pipeline",
            )
        )
    return found


async def check_targets(case: Case) -> Sequence[Finding]:
    found: list[Finding] = []
    for sink in case.setup.sinks:
        if sink.examine is not None:
            found += await sink.examine(case.identity)
    return found
