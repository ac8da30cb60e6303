"""Reads walcast.toml and says, for any key, on which line it stands."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from walcast.model import ConfigError

_TABLE = re.compile(r"^\s*\[([^\[\]]+)\]")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
ENVIRONMENT_PREFIX = "WALCAST_"
_TABLES = frozenset({"PIPELINE", "ENGINE", "SOURCE", "HTTP", "SINKS"})
"""Not LOG: WALCAST_LOG_LEVEL and WALCAST_LOG_FORMAT are the command line's, and mean the same."""


class TomlFile:
    """A parsed file with the line of each key."""

    def __init__(self, path: Path | None, text: str = "") -> None:
        self.path = path
        self.text = text
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"{path}: not valid TOML: {error}", hint="text needs quotes, and a table its [name]"
            ) from error
        self._lines = dict(_lines(text))
        self._environment: dict[tuple[str, ...], str] = {}

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        try:
            return cls(path, path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: there is no such file", hint="make one with: walcast init") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error

    def overlay(self, environment: Mapping[str, str]) -> None:
        """Lays `WALCAST_SOURCE__DSN=...` over `source.dsn`: two underscores go one table down. Variables of other shapes
        are not settings; one that looks like one with an underscore missing is refused."""
        for name, value in sorted(environment.items()):
            if not name.startswith(ENVIRONMENT_PREFIX):
                continue
            rest = name.removeprefix(ENVIRONMENT_PREFIX)
            path = tuple(rest.lower().split("__"))
            if len(path) == 1:
                section, _, key = rest.partition("_")
                if section in _TABLES and key:
                    raise ConfigError(
                        f"{name}: a setting has two underscores after its table",
                        hint=f"did you mean {ENVIRONMENT_PREFIX}{section}__{key}?",
                    )
                continue
            table: Any = self.data
            for step in path[:-1]:
                table = table.setdefault(step, {})
                if not isinstance(table, dict):
                    raise ConfigError(f"{name}: {step!r} is not a table in {self.path}")
            table[path[-1]] = value
            self._environment[path] = name

    def locate(self, path: tuple[str, ...]) -> str:
        """`walcast.toml:12: source.dsn`, or the environment variable that set it."""
        if path in self._environment:
            return f"{self._environment[path]}"
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), None)
        name = os.path.relpath(self.path) if self.path else "settings"
        dotted = ".".join(path)
        return f"{name}:{line}: {dotted}" if line else f"{name}: {dotted}" if dotted else name


def _lines(text: str) -> list[tuple[tuple[str, ...], int]]:
    """Every table and key with its line. Good enough for messages: inline tables count as one line."""
    found: list[tuple[tuple[str, ...], int]] = []
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = _split(header[1])
            found.append((table, number))
        elif key := _KEY.match(line):
            found.append(((*table, *_split(key[1])), number))
    return found


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
