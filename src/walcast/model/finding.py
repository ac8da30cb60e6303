"""What a check found, and the safe step that puts it right."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from walcast.model.errors import WalcastError

Level = Literal["error", "warning", "notice"]
LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "notice")
"""The worst first."""


@dataclass(frozen=True, slots=True)
class Fix:
    """A step that is safe whatever else goes on, as a value: `action` names who can do it, `target` what it is done to,
    `summary` says it to a person (`drop publication x`)."""

    action: str
    target: str
    summary: str


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: it will not run, or would break something at the source; `warning`: it runs, but somebody should know;
    `notice`: a choice that was made. `name` is constant, `hint` says what to do.

    `where` is the source, a sink's name or a path; `since` when it began, where that can be known.
    """

    level: Level
    name: str
    message: str
    hint: str | None = None
    where: str = "source"
    since: datetime | None = None
    fix: Fix | None = None

    def __str__(self) -> str:
        return f"{self.level}: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")


def finding_of(error: WalcastError, name: str, level: Level = "error", where: str = "source") -> Finding:
    """An error as a finding."""
    return Finding(level, name, error.message, error.hint, where)
