"""The checkpoint file of a directory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walcast.model import FORMAT, Checkpoint, OperatorError, TableId, check_format

NAME: Final = ".walcast.json"


@dataclass(frozen=True, slots=True)
class State:
    """What is durable: up to `offset` of the open `file` (None: no file is open), and every closed file.

    `number` is the last file's, `opened` its Unix time. `tables` are those that some line mentions.
    """

    owner: str
    checkpoint: Checkpoint | None = None
    number: int = 0
    file: str | None = None
    offset: int = 0
    opened: float = 0.0
    tables: frozenset[TableId] = frozenset()

    @classmethod
    def load(cls, directory: Path, owner: str) -> State:
        """The directory's; a new one when it has none. Raises OperatorError when it is damaged or another sink's."""
        path = directory / NAME
        try:
            state = cls._parsed(path.read_bytes())
        except FileNotFoundError:
            return cls(owner)
        except (ValueError, KeyError, TypeError):
            raise OperatorError(
                f"{path} is damaged",
                hint="move the directory's files away and run again: they are made anew from a snapshot",
            ) from None
        if state.owner != owner:
            raise OperatorError(
                f"{directory} belongs to {state.owner}", hint="choose another directory for this sink"
            )
        return state

    def save(self, directory: Path) -> None:
        """Replaces the file; durable when it returns."""
        fresh = directory / (NAME + ".new")
        with open(fresh, "wb") as file:
            file.write(self._dumped())
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, directory / NAME)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _dumped(self) -> bytes:
        c = self.checkpoint
        return json.dumps(
            {
                "format": FORMAT,
                "owner": self.owner,
                "checkpoint": c and c.numbers,
                "number": self.number,
                "file": self.file,
                "offset": self.offset,
                "opened": self.opened,
                "tables": sorted(self.tables),
            }
        ).encode()

    @classmethod
    def _parsed(cls, data: bytes) -> State:
        item = json.loads(data)
        check_format(item.get("format", 0), "the directory's checkpoint")
        c = item["checkpoint"]
        checkpoint = c and Checkpoint.of(c)
        tables = frozenset(TableId(*table) for table in item["tables"])
        return cls(
            item["owner"], checkpoint, item["number"], item["file"], item["offset"], item["opened"], tables
        )
