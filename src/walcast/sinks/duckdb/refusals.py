"""Which rows of a batch DuckDB refuses. An error ends its transaction, so rows are tried by halves, outside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, pairwise

from walcast.model import Batch

Tries = Callable[[Batch], bool]


def unfit(batch: Batch, places: Sequence[int], fits: Tries, most: int) -> list[int]:
    """The places of rows that do not fit, whatever the others are; at most so many."""
    found: list[int] = []
    waiting = [list(places)]
    while waiting and len(found) < most:
        some = waiting.pop()
        if not some or fits(only(batch, some)):
            continue
        if len(some) == 1:
            found += some
        else:
            half = len(some) // 2
            waiting += [some[half:], some[:half]]
    return found


def in_the_way(batch: Batch, places: Sequence[int], applies: Tries, most: int) -> list[int]:
    """The places of rows that cannot be applied after those before them; at most so many."""
    found: list[int] = []
    start, left = 0, list(places)
    while len(found) < most:
        if applies(only(batch, left)):
            return found
        low, high = start, len(left) - 1  # the first `low` rows apply, the first `high + 1` do not
        while low < high:
            middle = (low + high) // 2
            if applies(only(batch, left[: middle + 1])):
                low = middle + 1
            else:
                high = middle
        found.append(left.pop(low))
        start = low
    return found


def only(batch: Batch, places: Sequence[int]) -> Batch:
    """The batch with these changes alone, which are in order."""
    kept = [-1, *places, len(batch)]
    gaps = (range(one + 1, other) for one, other in pairwise(kept))
    return batch.without(list(chain.from_iterable(gaps)))
