"""An application beside the demo: a folder whose `python -m social` runs on a database of the demo's source.

--with-parent    it ends when its standard input does, which the kernel closes however the demo ends
--check          it goes through itself and prints one line of JSON; without it a line says its `url`

Lines that have `says` tell how far it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from walcast.model import OperatorError

DATABASE: Final = "social"
_PATIENCE: Final = 180.0
_ENDING: Final = 30.0


class Application:
    """Started, asked for its result, ended. `say` is told how far it is."""

    def __init__(self, folder: Path, log: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._log = log
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._told: asyncio.Task[dict[str, Any]] | None = None

    async def open(self, dsn: str, *, check: bool) -> None:
        """Raises OperatorError when the folder holds no such application."""
        if not (self._folder / "social" / "__main__.py").is_file():
            raise OperatorError(
                f"{self._folder} holds no application", hint="in a clone it is examples/social"
            )
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "social", "--with-parent"),
                *(["--check"] if check else []),
                cwd=self._folder,
                env={**os.environ, "SQLALCHEMY_DATABASE_URI": dsn},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the demo's
            )
        self._told = asyncio.create_task(self._listen())

    async def says(self) -> dict[str, Any]:
        """Its result. Never raises because of the application: what is wrong is in `error`."""
        assert self._told is not None
        return await self._told

    async def _listen(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while True:
                async with asyncio.timeout(_PATIENCE):
                    line = await self._process.stdout.readline()
                found: dict[str, Any] = json.loads(line)
                if "says" not in found:
                    return found
                self._say(f"the social network: {found['says']}")
        except (TimeoutError, ValueError):
            return {"ok": False, "error": self._log.read_text(errors="replace")[-1000:] or "it says nothing"}

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if self._told is not None:
            self._told.cancel()
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_ENDING):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
