"""What this process wrote lately, by transaction: the page that follows changes names those that it knows."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

KEPT: Final = 500
_known: OrderedDict[int, str] = OrderedDict()
_lock = Lock()


def did(db: Session, what: str) -> None:
    """Says what this transaction does."""
    db.flush()
    xid = db.scalar(text("select pg_current_xact_id()::text::bigint % 4294967296"))
    with _lock:
        _known[int(xid or 0)] = what
        if len(_known) > KEPT:
            _known.popitem(last=False)


def deeds(xids: list[int]) -> list[str]:
    """Of these transactions (32 bits)."""
    with _lock:
        return [_known[xid] for xid in xids if xid in _known]
