"""What the benchmarks share: how contestants take turns, fresh child processes, and what a line of the report says.

Contestants of one benchmark run in turn (A B A B ...), on the same server and the same data, so that a machine that
speeds up or slows down does so for all of them; the ratio is the median of the ratios of such pairs. Each of our own
measurements runs in a fresh process, which prints one JSON object.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it is wanted. `scale` multiplies row counts, `match` is part of a benchmark's name."""

    runs: int = 5
    scale: float = 1.0
    full: bool = False
    match: str = ""

    def rows(self, count: int) -> int:
        """A row count at this scale, a multiple of 1,000."""
        return max(1, round(count * self.scale / 1000)) * 1000

    def wants(self, name: str) -> bool:
        return self.match.lower() in name.lower()


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: wall seconds, rows, and of our own process CPU seconds and peak memory in bytes."""

    seconds: float
    rows: int
    cpu: float = 0.0
    peak: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


@dataclass(slots=True)
class Contest:
    """One line of the report: ours against a baseline, if there is one.

    `figure` and `baseline_figure` replace the rates where rows per second is not what is measured.
    """

    name: str
    baseline: str
    goal: str
    floor: str
    ours: list[Run] = field(default_factory=list)
    theirs: list[Run] = field(default_factory=list)
    figure: str = ""
    baseline_figure: str = ""

    def alternate(self, runs: int, ours: Callable[[], Run], theirs: Callable[[], Run]) -> Contest:
        """Runs both in turn; one pair more than counts, to warm server and caches up, unless only one is wanted."""
        for turn in range(runs + (runs > 1)):
            pair = ours(), theirs()
            if pair[0].rows != pair[1].rows:
                raise SystemExit(f"{self.name}: {pair[0].rows} rows against {pair[1].rows}")
            if turn or runs == 1:
                self.ours.append(pair[0])
                self.theirs.append(pair[1])
        return self

    def tell_percentiles(self, digits: int) -> Contest:
        """Medians over the runs of each run's percentiles, in ms; a ratio of rates would say nothing."""
        self.figure, self.baseline_figure = (
            ", ".join(
                f"{name} {statistics.median(run.extra[name] for run in runs):.{digits}f} ms"
                for name in ("p50", "p99")
            )
            for runs in (self.ours, self.theirs)
        )
        return self

    def row(self) -> dict[str, Any]:
        """What the report says of it."""
        pairs = [] if self.figure else zip(self.ours, self.theirs, strict=False)
        ratios = [a.rate / b.rate for a, b in pairs]
        return {
            "benchmark": self.name,
            "baseline": self.baseline,
            "ours": _median(run.rate for run in self.ours),
            "theirs": _median(run.rate for run in self.theirs),
            "ratio": _median(ratios),
            "ratio_min": min(ratios, default=None),
            "ratio_max": max(ratios, default=None),
            "goal": self.goal,
            "floor": self.floor,
            "figure": self.figure,
            "baseline_figure": self.baseline_figure,
            "cpu_seconds": _median(run.cpu for run in self.ours),
            "peak_bytes": max((run.peak for run in self.ours), default=None),
            "runs": len(self.ours),
            "ours_seconds": [run.seconds for run in self.ours],
            "theirs_seconds": [run.seconds for run in self.theirs],
            "extra": [run.extra for run in self.ours if run.extra],
        }


def child(function: str, **arguments: Any) -> Run:
    """Runs a coroutine function (`module:function`), which returns seconds, rows and more, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.harness", function, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{function} failed:\n{done.stderr.strip()}\n{done.stdout.strip()}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def main(target: str, arguments: str) -> None:
    """The child process: one measurement, one JSON object."""
    module, function = target.split(":")
    result = asyncio.run(getattr(importlib.import_module(module), function)(**json.loads(arguments)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    made = {name: result.pop(name) for name in ("seconds", "rows")}
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    print(json.dumps({**made, "cpu": cpu, "peak": peak, "extra": result}))


async def probed(
    probes: int, write: Callable[[int], Awaitable[float]], seen: Callable[[int], Awaitable[bool]]
) -> dict[str, Any]:
    """One thing after the other: from the time that `write` gives (`time.perf_counter`) until it is `seen`; percentiles in
    ms. The first ten do not count."""
    taken = []
    begun = time.perf_counter()
    for number in range(probes + 10):
        begin = await write(number)
        while not await seen(number):
            pass
        taken.append(1000 * (time.perf_counter() - begin))
    counted = sorted(taken[10:])
    figures = {f"p{part}": percentile(counted, part / 100) for part in (50, 99)}
    return {"seconds": time.perf_counter() - begun, "rows": probes, **figures}


def percentile(sorted_values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of the values lie."""
    return sorted_values[min(len(sorted_values) - 1, int(part * len(sorted_values)))]


def _median(values: Any) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


if __name__ == "__main__":
    main(*sys.argv[1:])
