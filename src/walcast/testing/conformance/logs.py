"""What a log must have told, given what happened."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

from walcast.testing.conformance.world import Event


def told(
    found: Sequence[Event], events: Sequence[Event], order: Literal["commit", "key"], *, repeats: bool
) -> None:
    """Asserts that a log tells all events in order; with `repeats` it may go back and tell them again from there.

    A snapshot of a table that is in the log already may begin with a truncate of ordinal 0.
    """
    found = [event for event in found if not (event.op == "truncate" and event.ordinal == 0)]
    if order == "commit":
        _sequence(found, events, repeats)
        return
    lanes: dict[Hashable, tuple[list[Event], list[Event]]] = {}
    for side, whole in enumerate((found, events)):
        for event in whole:
            lanes.setdefault((event.table, event.key), ([], []))[side].append(event)
    for theirs, ours in lanes.values():
        _sequence(theirs, ours, repeats)


def _sequence(found: Sequence[Event], events: Sequence[Event], repeats: bool) -> None:
    at = farthest = 0
    places = {event: place for place, event in enumerate(events)}
    for event in found:
        if at < len(events) and event == events[at]:
            at += 1
        else:
            assert repeats, f"{event} is told where {events[at] if at < len(events) else 'the end'} belongs"
            assert event in places, f"{event} never happened"
            assert places[event] < farthest, f"{event} is told before its time"
            at = places[event] + 1
        farthest = max(farthest, at)
    assert farthest == len(events), f"{events[farthest]} is not told" if farthest < len(events) else ""
