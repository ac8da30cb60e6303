"""Checks of the pipeline itself: what its sinks say, and whether checkpoints, slot and source belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from walcast.diagnostics.case import Case, through
from walcast.diagnostics.wording import moment, size
from walcast.model import Finding, Lsn


async def check_pipeline(case: Case) -> Sequence[Finding]:
    if case.status is None:  # without a source that is no news
        return [case.status_problem] if case.status_problem is not None and case.facts is not None else []
    found = []
    if not case.running:
        found.append(
            Finding(
                "notice",
                "not_running",
                f"no pipeline runs on {case.setup.state_dir}",
                "walcast run",
                where="pipeline",
            )
        )
    problem = case.status["source"]["error"]
    if isinstance(problem, Mapping):
        found.append(
            Finding("error", "source_error", problem["message"], problem["remedy"], where="pipeline")
        )
    return found


async def check_sinks(case: Case) -> Sequence[Finding]:
    found = []
    for sink in case.sinks:
        found += _sink(sink, case.running)
        found += [
            Finding(
                "error",
                "table_stopped",
                f"{table['table']} is stopped: {table['reason']}",
                table["hint"] or f"walcast resync '{table['table']}' --sink {sink['name']}",
                where=sink["name"],
            )
            for table in sink["stopped_tables"]
        ]
    return found


def _sink(sink: Mapping[str, Any], running: bool) -> list[Finding]:
    error, name = sink["error"], sink["name"]
    if sink["state"] == "paused":
        return [
            Finding(
                "warning",
                "sink_paused",
                f"sink {name} is paused: the slot keeps what it misses",
                f"walcast resume {name}",
                where=name,
            )
        ]
    if error is None:
        return []
    stopped = not running or sink["state"] == "stopped"
    if sink["state"] == "released":
        what, level, constant = "was let go and is copied anew when it is back", "error", "sink_released"
    elif stopped:
        what, level, constant = "has stopped" if running else "cannot be opened", "error", "sink_stopped"
    else:
        what, level, constant = f"is {sink['state']}", "warning", "sink_retrying"
    return [
        Finding(
            "error" if level == "error" else "warning",
            constant,
            f"sink {name} {what}: {error['message']}",
            error.get("remedy"),
            where=name,
        )
    ]


async def check_dead_letters(case: Case) -> Sequence[Finding]:
    if case.setup.aside is None:
        return []
    return [
        Finding(
            "warning",
            "dead_letters",
            f"{aside.count} {'row was' if aside.count == 1 else 'rows were'} set aside, of {', '.join(aside.tables)}: this"
            " copy does not have them",
            f"walcast dead list {aside.sink}; mend the cause, then walcast dead retry {aside.sink} --all",
            where=aside.sink,
            since=moment(case.clock() - aside.oldest),
        )
        for aside in await case.setup.aside()
    ]


async def check_checkpoints(case: Case) -> Sequence[Finding]:
    found: list[Finding] = []
    slot, identity = case.server.slot, case.identity
    for sink in case.sinks:
        at, name = through(sink), sink["name"]
        history = sink.get("history")
        if history and identity and int(history["system_id"]) != identity.system_id:
            found.append(
                Finding(
                    "error",
                    "another_source",
                    f"the copy is of system {history['system_id']}, the source is system {identity.system_id}",
                    f"check source.dsn; after a planned move: walcast switch; else walcast resync --all --sink {name}",
                    where=name,
                )
            )
            continue
        if at is None:
            continue
        if slot is None:
            found.append(
                Finding(
                    "error",
                    "slot_gone",
                    f"slot {case.setup.source.slot} is gone, and the copy stands at {at}: the changes since are lost",
                    f"walcast resync --all --sink {name} (makes a new slot); find out who dropped it",
                    where=name,
                )
            )
        elif slot.confirmed is not None and slot.confirmed > at and sink["state"] != "released":
            found.append(
                Finding(
                    "error",
                    "slot_ahead",
                    f"slot {slot.name} is at {slot.confirmed}, the copy only at {at}: the changes between are lost",
                    f"walcast resync --all --sink {name}; find out who advanced or re-created the slot",
                    where=name,
                )
            )
        position = _position(case)
        if position is not None and at > position:
            found.append(
                Finding(
                    "error",
                    "copy_ahead",
                    f"the copy is at {at}, {size(at - position)} ahead of its source: the source was restored, or failed"
                    " over to a standby that was late",
                    f"walcast resync --all --sink {name}; if the DSN leads to the wrong server, correct it",
                    where=name,
                )
            )
        elif not case.running and slot is not None and slot.confirmed is not None:
            found += _unconfirmed(case, name, at - slot.confirmed)
    return found


def _unconfirmed(case: Case, name: str, ahead: int) -> list[Finding]:
    """A checkpoint that is far ahead of the slot: WAL is kept that no copy needs."""
    if ahead < case.limits.retained:
        return []
    return [
        Finding(
            "notice",
            "slot_behind",
            f"the copy is {size(ahead)} ahead of what the slot was told",
            "walcast run: it confirms the slot at once",
            where=name,
        )
    ]


def _position(case: Case) -> int | None:
    """Where the source was when the status was taken."""
    text = case.status["source"]["position"] if case.status else None
    return Lsn.parse(text) if text else None
