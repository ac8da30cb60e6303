"""Whether a node can follow the primary: what its files or its own word say of its history. Pure."""

from __future__ import annotations

from typing import Final

from walcast.cluster.observed import Node
from walcast.model import Lsn
from walcast.model.token import TimelineHistory

_AS_PRIMARY: Final = ("in production", "shut down", "shutting down", "in crash recovery", "starting up")
"""States of the control file that only a server that was no replica leaves behind."""


def diverged(node: Node, history: TimelineHistory) -> str | None:
    """Why a node cannot follow that history, None when it can. Its own history holds what that one does not."""
    timeline = node.timeline
    if timeline is None:
        return None
    facts, files = node.facts, node.files
    if facts is not None and not facts.in_recovery:
        return f"it takes writes of its own, on timeline {timeline}"
    fork = history.end_of(timeline)
    if fork is None and timeline != history.timeline:
        return f"it is on timeline {timeline}, which is no ancestor of {history.timeline}"
    if facts is not None:
        end = max(facts.received or Lsn(0), facts.replayed or Lsn(0))
        return (
            f"it has WAL up to {end}, the history left timeline {timeline} at {fork}"
            if fork and end > fork
            else None
        )
    control = files.control if files else None
    if files is None or control is None or files.fresh or control.state not in _AS_PRIMARY:
        return None
    if fork is None:
        return None if files.standby else f"it was a primary on timeline {timeline}, too"
    if not control.clean:
        return f"it was the primary of timeline {timeline} and crashed: what it wrote last may be its alone"
    return (
        None
        if control.checkpoint < fork
        else f"it wrote beyond {fork}, where the history left timeline {timeline}"
    )


def was_primary(node: Node) -> bool:
    """It is, or was when it last ran, no replica."""
    if node.facts is not None:
        return not node.facts.in_recovery
    files = node.files
    if files is None or not files.data:
        return False
    if files.control is None or files.fresh:
        return not files.standby
    return not files.standby or files.control.state in _AS_PRIMARY
