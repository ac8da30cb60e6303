"""Reads `global/pg_control`: what a data directory says of itself when no server runs on it.

The fields read here have been at the same place since PostgreSQL 11 (src/include/catalog/pg_control.h); the file is
written whole and in the machine's byte order. Not every installation has `pg_controldata`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walcast.model import Lsn, OperatorError

_HEAD: Final = struct.Struct("=QIIi4xqQQI")
"""System identifier, version of the file, catalogue version, state, time, checkpoint, its redo point, its timeline."""
_STATES: Final = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)
CLEAN: Final = ("shut down", "shut down in recovery")
_KNOWN: Final = range(1100, 10_000)


@dataclass(frozen=True, slots=True)
class ControlData:
    """`state` in the words of pg_controldata. `checkpoint` is where the last checkpoint's record starts; after a clean stop
    of a primary nothing but that record follows."""

    system_id: int
    state: str
    checkpoint: Lsn
    redo: Lsn
    timeline: int

    @property
    def clean(self) -> bool:
        """It was stopped properly: no crash recovery is due."""
        return self.state in CLEAN


def read_control(data: Path) -> ControlData | None:
    """None when there is none. Raises OperatorError when it is not one that is known."""
    path = data / "global" / "pg_control"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}", hint="is the folder yours?") from None
    if len(content) < _HEAD.size:
        raise OperatorError(f"{path} is cut short", hint="this data directory is broken: make the node anew")
    system_id, version, _, state, _, checkpoint, redo, timeline = _HEAD.unpack_from(content)
    if version not in _KNOWN or not 0 <= state < len(_STATES):
        raise OperatorError(
            f"{path} is not a control file of PostgreSQL 13-18",
            hint="was the folder made on another kind of machine?",
        )
    return ControlData(system_id, _STATES[state], Lsn(checkpoint), Lsn(redo), timeline)
