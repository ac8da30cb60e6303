"""What a check says, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from walcast.model import OperatorError, SlotState, WalcastError
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection
from walcast.postgres.wanted import Wanted

Level = Literal["error", "warning", "notice"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: it will not run, or would break something at the source; `warning`: it runs, but somebody should know;
    `notice`: a choice that was made. `name` is constant, `hint` says what to do."""

    level: Level
    name: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.level}: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks look at, read once. `wanted` is None when the selection itself is wrong (`refusal` says how)."""

    connection: Connection
    config: SourceConfig
    settings: Mapping[str, Any]
    standby: bool
    slot: SlotState | None
    wanted: Wanted | None
    refusal: OperatorError | None

    @property
    def version(self) -> int:
        """server_version_num."""
        return self.connection.info.server_version


def finding_of(error: WalcastError, name: str, level: Level = "error") -> Finding:
    """An error as a finding."""
    return Finding(level, name, error.message, error.hint)
