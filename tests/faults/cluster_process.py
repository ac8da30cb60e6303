"""An operator that is killed: changes a cluster, and ends by SIGKILL after one step, or in the middle of it.

    python -m tests.faults.cluster_process FOLDER CHANGE after        killed after its first step
    python -m tests.faults.cluster_process FOLDER CHANGE 25           killed 25 ms into its first step

CHANGE is `converge`, `switchover:NODE`, `promote:NODE` or `rejoin:NODE`. Prints each step as it begins; ends with 0 when there
was nothing to do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from walcast.cluster import operations as op
from walcast.cluster.desired import Desired
from walcast.cluster.local import LocalCluster
from walcast.cluster.steps import Step

_CHANGES = {
    "switchover": op.switched_over,
    "promote": op.promoted,
    "rejoin": op.rejoined,
    "remove": op.removed,
}


async def main(folder: str, change: str, when: str) -> None:
    kind, _, node = change.partition(":")

    def wanted(desired: Desired) -> Desired:
        return desired if kind == "converge" else _CHANGES[kind](desired, node)

    def on_step(step: Step, done: bool) -> None:
        if not done:
            print(type(step).__name__, step.node, flush=True)
        if done and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if not done and when != "after":
            threading.Timer(int(when) / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()

    async with LocalCluster.open(Path(folder)) as cluster:
        plan = await cluster.change(wanted, on_step)
        assert not plan.blocked, plan.blocked


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
