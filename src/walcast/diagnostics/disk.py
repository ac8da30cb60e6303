"""When the source's disk is full, and when a slot is lost, if WAL goes on being written as it is."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, LiteralString

import psycopg

from walcast.diagnostics.case import Case
from walcast.diagnostics.wal import holds, read_slots
from walcast.diagnostics.wording import size, span
from walcast.model import Finding, Lsn

_DAY: Final = 86400.0
_LEAST_SPAN: Final = 60.0
"""A history of WAL files shorter than this says less than a measurement."""

_POSITION: Final[LiteralString] = """
select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_lsn() end::text
"""
_FILES: Final[LiteralString] = """
select name, size, extract(epoch from pg_catalog.clock_timestamp() - modification)::float8 from pg_catalog.pg_ls_waldir()
"""


async def check_disk(case: Case) -> Sequence[Finding]:
    slots = await read_slots(case)
    holders = [slot for slot in slots if holds(case, slot)]
    room = await _room(case)
    found = []
    if room is not None and room < case.limits.free:
        found.append(
            Finding(
                "error",
                "disk_low",
                f"{size(room)} are left on the disk of the source's WAL",
                "free space there; `walcast doctor --only wal` says who holds WAL",
            )
        )
    if not holders:
        return found
    rate = await _rate(case)
    if rate <= 0:
        return found
    worst = holders[0]
    if room is not None and (left := room / rate) < case.limits.horizon:
        found.append(
            Finding(
                "error" if left < _DAY else "warning",
                "disk_full_soon",
                f"at {size(rate)} of WAL a second the source's disk ({size(room)} left) is full in {span(left)}:"
                f" slot {worst.name} holds it",
                "see the finding on who holds WAL; max_slot_wal_keep_size puts an end to it",
            )
        )
    for slot in holders:
        if (
            slot.safe_wal_size is not None
            and (left := max(0, slot.safe_wal_size) / rate) < case.limits.horizon
        ):
            found.append(
                Finding(
                    "error" if left < _DAY else "warning",
                    "slot_lost_soon",
                    f"at {size(rate)} of WAL a second slot {slot.name} is lost in {span(left)}"
                    f" (max_slot_wal_keep_size leaves it {size(max(0, slot.safe_wal_size))})",
                    "see the finding on who holds WAL; or raise max_slot_wal_keep_size",
                )
            )
    return found


async def _rate(case: Case) -> float:
    """Bytes of WAL a second: of the last day where its files tell, else what the pipeline has seen of it, else measured."""
    before = await _position(case)
    history = _of_files(await _files(case), before)
    if history is not None:
        return history
    source = case.status["source"] if case.status is not None else {}
    if (source.get("wal_watched") or 0.0) >= case.limits.watched:
        return float(source["wal_rate"])
    began = time.monotonic()
    await asyncio.sleep(case.limits.window)
    return (await _position(case) - before) / (time.monotonic() - began)


async def _position(case: Case) -> Lsn:
    ((text,),) = await case.rows(_POSITION)
    return Lsn.parse(text)


async def _files(case: Case) -> list[tuple[str, int, float]]:
    """WAL files with size and age in seconds; none when this role may not look (pg_monitor may)."""
    try:
        return [(row[0], row[1], row[2]) for row in await case.rows(_FILES)]
    except psycopg.errors.InsufficientPrivilege:
        return []


def _of_files(files: Sequence[tuple[str, int, float]], now: Lsn) -> float | None:
    """The rate since the oldest file of the last day was finished. Recycled files have names yet to come: left out."""
    oldest: tuple[float, int] | None = None
    for name, length, age in files:
        if len(name) != 24 or not _LEAST_SPAN <= age <= _DAY:
            continue
        try:
            end = (int(name[8:16], 16) << 32) + (int(name[16:], 16) + 1) * length
        except ValueError:  # a history or a partial file
            continue
        if end <= now and (oldest is None or age > oldest[0]):
            oldest = (age, end)
    return None if oldest is None else (now - oldest[1]) / oldest[0]


async def _room(case: Case) -> int | None:
    """What is left for WAL: of `source.wal_disk`, else of the disk itself when the server runs on this machine."""
    total = case.setup.source.wal_disk
    if total is not None:
        return max(0, total - sum(length for _, length, _ in await _files(case)))
    folder = await case.setting("data_directory") if _local(case) else None
    if folder is None or not Path(folder).exists():
        return None
    for place in (Path(folder) / "pg_wal", Path(folder), *Path(folder).parents):
        try:
            state = os.statvfs(place)
        except OSError:  # a folder that is closed to us
            continue
        return state.f_bavail * state.f_frsize
    return None


def _local(case: Case) -> bool:
    host = case.connection.info.hostaddr or case.connection.info.host
    try:
        return host.startswith("/") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
