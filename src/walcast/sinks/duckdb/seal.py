"""Whether a DuckDB file is as Walcast left it: another program may write to it while no pipeline has it open.

DuckDB has no trigger that could tell. But a write changes the file's size and time: they are noted when the file is closed
and compared when it is opened. A process that was killed left no note; then only a comparison can tell.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from walcast.model import Finding

log = logging.getLogger("walcast.sinks.duckdb")


@dataclass(frozen=True, slots=True)
class _Note:
    """The file as it was closed, and the time (Unix, seconds) of the last write of somebody else; None: not known, none."""

    size: int | None = None
    changed: int | None = None
    foreign: float | None = None


class Seal:
    """The note on one file, beside it. `examine` may be asked by another process."""

    def __init__(self, path: Path, sink: str) -> None:
        self._path = path
        self._file = path.with_name(f"{path.name}.closed")
        self._sink = sink

    def broken(self) -> float | None:
        """When another program wrote to the file since it was closed here; None: it did not, or nobody knows. To be asked
        before the file is opened."""
        return self._written(self._read())

    def take(self, written: float | None) -> None:
        """It is open: from now on its changes are our own. Logs, once an opening, that it was written by another program."""
        foreign = written or self._read().foreign
        if foreign is not None:
            hint = "see `walcast doctor`; `walcast verify` says whether it differs"
            log.warning("foreign_write", extra={"sink": self._sink, "file": str(self._path), "hint": hint})
        self._write(_Note(foreign=foreign))

    def put(self) -> None:
        """It was closed, whole."""
        with contextlib.suppress(OSError):
            state = self._path.stat()
            self._write(_Note(state.st_size, state.st_mtime_ns, self._read().foreign))

    def examine(self) -> list[Finding]:
        note = self._read()
        written = self._written(note) or note.foreign
        if written is None:
            return []
        return [
            Finding(
                "warning",
                "foreign_write",
                f"{self._path} was written by another program: it may differ from the source",
                f"walcast verify {self._sink} --repair, then remove {self._file}",
                since=datetime.fromtimestamp(written, UTC),
            )
        ]

    def _written(self, note: _Note) -> float | None:
        """When somebody else wrote to it since it was closed."""
        if note.changed is None:
            return None
        try:
            state = self._path.stat()
        except OSError:
            return None
        same = (state.st_size, state.st_mtime_ns) == (note.size, note.changed)
        return None if same else state.st_mtime

    def _read(self) -> _Note:
        try:
            return _Note(**json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return _Note()

    def _write(self, note: _Note) -> None:
        """Nothing depends on it: what cannot be noted is not known."""
        with contextlib.suppress(OSError):
            if note == _Note():
                self._file.unlink(missing_ok=True)
                return
            beside = self._file.with_suffix(".new")
            beside.write_text(json.dumps(asdict(note)))
            os.replace(beside, self._file)
