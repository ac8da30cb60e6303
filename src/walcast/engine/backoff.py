"""How long to wait before trying again, and when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Backoff:
    """Exponential waits with jitter, bounded in time: `limit` seconds after the first failure there is no next.

    The clock starts with the first failure and is reset by success (`reset`), so that a target that comes and goes
    is not given up.
    """

    def __init__(
        self, first: float, most: float, limit: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._most, self._limit = first, most, limit
        self._clock = clock
        self._since: float | None = None
        self.attempts = 0

    def next(self) -> float | None:
        """Seconds to wait before the next attempt; None when the time is up."""
        now = self._clock()
        if self._since is None:
            self._since = now
        left = self._limit - (now - self._since)
        if left <= 0:
            return None
        wait = min(self._most, self._first * 2.0 ** min(self.attempts, 30))
        self.attempts += 1
        return float(min(wait * random.uniform(0.5, 1.0), left))

    def reset(self) -> None:
        self._since = None
        self.attempts = 0
