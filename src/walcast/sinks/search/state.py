"""What a folder of indexes holds: which generation of each collection serves, and the position. One small file, replaced whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from walcast.model import Checkpoint, OperatorError

NAME = "walcast.json"


@dataclass(slots=True)
class Serving:
    """A finished collection: its folder, the mapping's fingerprint, and its fields by kind."""

    folder: str
    fingerprint: str
    fields: list[tuple[str, str]]


@dataclass(slots=True)
class State:
    """`owner`: pipeline and sink that write here."""

    owner: str
    checkpoint: Checkpoint | None = None
    collections: dict[str, Serving] = field(default_factory=dict)
    token: str | None = None
    """What readers compare with a token of their own: `checkpoint` as one."""
    folders: int = 0
    """How many there have been: each gets a name of its own."""


def load(root: Path) -> State | None:
    """None when there is nothing yet. Raises OperatorError for a file that is no such thing."""
    try:
        found: dict[str, Any] = json.loads((root / NAME).read_bytes())
        at = found["checkpoint"]
        return State(
            found["owner"],
            None if at is None else Checkpoint.of(at),
            {
                name: Serving(item["folder"], item["fingerprint"], [(a, b) for a, b in item["fields"]])
                for name, item in found["collections"].items()
            },
            found.get("token"),
            found["folders"],
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, IndexError):
        raise OperatorError(
            f"{root / NAME} is damaged",
            hint="move the folder away and run again: it is made anew from a snapshot",
        ) from None


def save(root: Path, state: State) -> None:
    """Durable when it returns."""
    at = state.checkpoint
    plain = {
        "owner": state.owner,
        "checkpoint": at and at.numbers,
        "token": state.token,
        "collections": {name: asdict(item) for name, item in state.collections.items()},
        "folders": state.folders,
    }
    try:
        _replace(root, json.dumps(plain, indent=1))
    except OSError as error:
        raise OperatorError(
            f"{root / NAME} cannot be written: {error.strerror}",
            hint="is the disk full? free some space there, and check the permissions",
        ) from error


def _replace(root: Path, text: str) -> None:
    new = root / f"{NAME}.new"
    with open(new, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(root / NAME)
    folder = os.open(root, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
