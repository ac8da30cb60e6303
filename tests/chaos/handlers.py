"""The handlers of the chaos pipeline: they write down every change they are given, and run out of memory on request."""

from __future__ import annotations

import json
import os
import resource
import threading
from pathlib import Path

import walcast
from walcast.model import UNCHANGED, Change

handlers = walcast.Handlers()
FILE = "CHAOS_HANDLED"
STARVE = "CHAOS_STARVE"
_OUT: dict[str, int] = {}
_ONE = threading.Lock()


@handlers.on("public.*")
def note(change: Change) -> None:
    """One line a change, in one write: a killed process leaves whole lines."""
    _starve(Path(os.environ[STARVE]))
    path = os.environ[FILE]
    if path not in _OUT:
        _OUT[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    assert change.relation is not None
    new = change.new and {name: None if value is UNCHANGED else value for name, value in change.new.items()}
    kept = [name for name, value in (change.new or {}).items() if value is UNCHANGED]
    said: dict[str, object] = {
        "table": change.relation.table.name,
        "op": change.op,
        "new": new,
        "old": change.old,
        "kept": kept,
    }
    said["at"] = [change.position.commit_lsn, change.position.ordinal]
    os.write(_OUT[path], json.dumps(said, default=str).encode() + b"\n")


def _starve(order: Path) -> None:
    """While the file is there: one byte of it goes with each time the memory ran out."""
    if not order.exists():
        return
    with _ONE:
        if order.exists() and (left := order.stat().st_size):
            os.truncate(order, left - 1)
            _run_out()


def _run_out() -> None:
    """For the whole process: its other threads may meet the limit, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), hard))
    try:
        hoard = [bytearray(8 << 20) for _ in range(1000)]
        raise AssertionError(f"{len(hoard)} blocks, and still memory")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
