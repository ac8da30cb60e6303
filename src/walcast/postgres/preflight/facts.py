"""What the checks are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from walcast.model import OperatorError, SlotState
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection
from walcast.postgres.wanted import Wanted


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
