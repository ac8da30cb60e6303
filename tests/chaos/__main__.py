"""`make chaos`: a pipeline under random faults for a bounded time; the seed replays it."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import time
from collections import Counter

from tests.chaos import faults, huge
from tests.chaos.stage import Lost, stage, summary, temporary


async def play(seed: int, seconds: float, cycles: int | None, only: tuple[str, ...]) -> int:
    """Fault after fault; after each the copies are compared with the source. 1 when something was lost or doubled."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # small disks are unmounted
    folder, done, begun = temporary("run"), Counter[str](), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    failure = ""
    death = "slot.created=kill" if random.Random(seed).random() < 0.5 else ""
    async with stage(folder, seed, death=death) as made:
        _say(f"chaos: seed {seed}, servers up, first copy made after {time.monotonic() - begun:.1f} s")
        begun = time.monotonic()
        number = 0
        while time.monotonic() - begun < seconds and (cycles is None or number < cycles):
            number += 1
            chosen = faults.choose(made, only)
            at = time.monotonic()
            try:
                await chosen.do(made)
                await made.settle(whole=number % 50 == 0, verify=not chosen.kill or number % 5 == 0)
            except Lost as lost:
                failure = f"cycle {number}, {chosen.name}: {lost}"
                break
            done[chosen.name] += 1
            _say(
                f"{number:5d}  {chosen.name:45s} equal after {time.monotonic() - at:5.1f} s  {made.kills} kills"
            )
        if not failure:
            try:
                await made.settle(whole=True)
            except Lost as lost:
                failure = f"the end: {lost}"
        print(
            summary(
                ok=not failure,
                seed=seed,
                cycles=number,
                kills=made.kills,
                checks=made.checks,
                verified=made.verified,
                transactions=made.writer.transactions,
                handler_calls=made.handled.calls,
                seconds=round(time.monotonic() - begun, 1),
                faults=dict(sorted(done.items())),
            )
        )
    if failure:
        _say(
            f"LOST in {failure}\nreplay: make chaos SEED={seed}; the pipeline's log and the state are in {folder}"
        )
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


async def play_huge(seed: int, rows: int) -> int:
    """One transaction of so many rows."""
    folder, begun = temporary("huge"), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        found = await huge.play(folder, seed, rows)
    except Lost as lost:
        _say(f"LOST: {lost}\nreplay: make chaos HUGE={rows} SEED={seed}; the pipeline's log is in {folder}")
        return 1
    print(summary(ok=True, seed=seed, seconds=round(time.monotonic() - begun, 1), **found))
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="at most so long (120)")
    parser.add_argument("--cycles", type=int, default=None, help="at most so many faults")
    parser.add_argument("--seed", type=int, default=None, help="what a run printed: the same faults again")
    parser.add_argument("--only", default="", help="faults whose names contain one of these words, by commas")
    parser.add_argument(
        "--huge", type=int, default=None, metavar="ROWS", help="one transaction of so many rows"
    )
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 31)
    only = tuple(filter(None, arguments.only.split(",")))
    try:
        if arguments.huge:
            return asyncio.run(play_huge(seed, arguments.huge))
        return asyncio.run(play(seed, arguments.seconds, arguments.cycles, only))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
