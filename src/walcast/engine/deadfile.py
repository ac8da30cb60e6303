"""Dead letters in a file of the state directory, for sinks whose target cannot hold them.

One line of JSON a step: a letter, or the numbers of those that are gone. Lines are appended and synced, so that a crash
can only cut off the last one; what is gone is left out when the file is next opened.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

from walcast.model import DeadLetter, OperatorError


def dead_file(state_dir: Path, sink: str) -> Path:
    """Where the dead letters of a sink are, whose target cannot hold them."""
    return state_dir / "sinks" / f"{sink}.dead.jsonl"


class FileDeadLetters:
    """Implements `walcast.model.DeadLetterStore`. The file may be read by its owner only: it holds rows."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> list[DeadLetter]:
        """Raises OperatorError when the file is not one of ours."""
        return await asyncio.to_thread(self._load)

    async def save(self, letters: Sequence[DeadLetter], gone: Sequence[int] = ()) -> None:
        await asyncio.to_thread(self._append, _lines(letters, gone))

    def _load(self) -> list[DeadLetter]:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return []
        lines = text.split("\n")[:-1]  # what has no end was cut off, and nobody was told that it is there
        letters: dict[int, DeadLetter] = {}
        try:
            for line in lines:
                item = json.loads(line)
                if "gone" in item:
                    for number in item["gone"]:
                        letters.pop(number, None)
                else:
                    letter = DeadLetter.of(item)
                    letters[letter.number] = letter
        except (ValueError, KeyError, TypeError, AttributeError):
            raise OperatorError(
                f"{self._path} does not hold dead letters of Walcast",
                hint="restore the file; or move it away, and copy the tables of its rows anew",
            ) from None
        if len(letters) < len(lines) or not text.endswith("\n"):
            self._replace(_lines(list(letters.values()), ()))
        return sorted(letters.values(), key=lambda letter: letter.number)

    def _append(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = not self._path.exists()
        self._write(self._path, os.O_APPEND, text)
        if new:
            self._sync_folder()

    def _replace(self, text: str) -> None:
        beside = self._path.with_name(self._path.name + ".new")
        self._write(beside, os.O_TRUNC, text)
        os.replace(beside, self._path)
        self._sync_folder()

    def _write(self, path: Path, how: int, text: str) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
        try:
            data = memoryview(text.encode())
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        finally:
            os.close(file)

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lines(letters: Sequence[DeadLetter], gone: Sequence[int]) -> str:
    items = [letter.as_json() for letter in letters]
    if gone:
        items.append({"gone": list(gone)})
    return "".join(json.dumps(item) + "\n" for item in items)
