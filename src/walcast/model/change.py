"""Single changes, for those who ask for rows."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from walcast.model.lsn import Position
from walcast.model.relation import Relation

Operation = Literal["insert", "update", "delete", "truncate", "message", "snapshot"]


class Unchanged(enum.Enum):
    """The one value that stands for a TOASTed column that an update did not touch and did not send."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"

    def __bool__(self) -> bool:
        return False


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class Message:
    """A logical message (`pg_logical_emit_message`)."""

    prefix: str
    content: bytes
    transactional: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One row inserted, updated, deleted or read by a snapshot; a truncate; or a logical message.

    `new` maps column names to Python values (None for null, UNCHANGED for TOAST that was not sent). `old` holds
    the old key, or the whole old row under REPLICA IDENTITY FULL; None when the stream sent none. `key` is the
    row's key before the change. `relation` is None for messages only.
    """

    op: Operation
    position: Position
    relation: Relation | None
    new: dict[str, Any] | None = None
    old: dict[str, Any] | None = None
    xid: int = 0
    commit_time: datetime | None = None
    origin: str | None = None
    message: Message | None = None
    cascade: bool = False
    restart_identity: bool = False

    @property
    def row(self) -> dict[str, Any]:
        """The new row, or the old one when the row was deleted."""
        return self.new if self.new is not None else (self.old or {})

    @property
    def key(self) -> tuple[Any, ...]:
        """The values of the key before the change; of every column sent, when the relation has no key."""
        if self.relation is None:
            return ()
        row = self.old if self.old is not None else (self.new or {})
        names = [column.name for column in self.relation.columns if column.key] or list(row)
        return tuple(row.get(name) for name in names)
