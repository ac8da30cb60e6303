"""A journal in a file: what the pipeline must remember for sinks whose target cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from walcast.model import OperatorError


class FileJournal:
    """A small map in one JSON file. A save replaces the whole file (write, fsync, rename, fsync of the folder), so that
    a crash leaves the old map or the new one. Saves are serialized and run outside the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = asyncio.Lock()
        self._content: dict[str, Any] | None = None

    async def load(self) -> dict[str, Any]:
        """The map; empty when there is no file. Raises OperatorError when the file is not one of ours."""
        async with self._lock:
            return dict(await self._read())

    async def save(self, key: str, value: Any) -> None:
        """Durable when it returns. None deletes the key."""
        await self.update({key: value})

    async def update(self, values: dict[str, Any]) -> None:
        """Several keys in one durable step."""
        async with self._lock:
            content = dict(await self._read())
            content.update(values)
            content = {name: kept for name, kept in content.items() if kept is not None}
            # A thread cannot be cancelled: wait for it, so that no other save meets it in the file.
            writing = asyncio.ensure_future(asyncio.to_thread(_replace, self.path, content))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise
            self._content = content

    async def _read(self) -> dict[str, Any]:
        if self._content is None:
            self._content = await asyncio.to_thread(_load, self.path)
        return self._content


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise OperatorError(
            f"{path} is not a journal of Walcast",
            hint="restore the file; or remove it and copy the tables anew with `walcast resync --all`",
        )
    return content


def _replace(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with open(beside, "w") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(folder)
    finally:
        os.close(folder)
