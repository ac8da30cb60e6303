"""Sizes and times as a person reads them in a finding."""

from __future__ import annotations

from datetime import UTC, datetime


def size(count: float) -> str:
    """`1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 hours`, `2.1 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def moment(stamp: float) -> datetime:
    """Unix time as an aware datetime."""
    return datetime.fromtimestamp(stamp, UTC)
