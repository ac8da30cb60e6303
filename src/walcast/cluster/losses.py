"""What a failover would lose: the WAL that the old primary wrote and the new one never got."""

from __future__ import annotations

import asyncio
import re
import subprocess
from dataclasses import dataclass
from typing import Final

from walcast.cluster.local import LocalCluster
from walcast.cluster.operations import most_advanced
from walcast.model import Lsn, OperatorError
from walcast.postgres.local.binaries import tool
from walcast.postgres.local.controlfile import read_control

_RECORD: Final = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+).*desc: (\w+)")


@dataclass(frozen=True, slots=True)
class Loss:
    """`commits` transactions that the old primary has on its disk beyond `have`, where the new one's WAL ends, and before
    `end`. Under a synchronous profile they were never acknowledged as replicated. `better` is a replica that has received
    more."""

    old: str
    new: str
    have: Lsn
    end: Lsn
    commits: int
    better: str = ""

    def __str__(self) -> str:
        if not self.commits:
            return f"nothing: {self.old} has no commit beyond {self.have}"
        return (
            f"{self.commits} commit{'s' if self.commits != 1 else ''} of {self.old} that {self.new} does not have "
            f"({max(0, self.end - self.have):,} bytes of WAL after {self.have})"
            + (f"; {self.better} has more of it" if self.better else "")
        )


async def what_is_lost(cluster: LocalCluster, name: str) -> Loss | None:
    """Reads the old primary's WAL on disk with pg_waldump. None when there is none to read, or no program for it."""
    old = cluster.desired.primary
    ranking = most_advanced(await cluster.observe())
    have = dict(ranking).get(name)
    instance = cluster.instance(old)
    control = read_control(instance.data)
    if have is None or control is None or old == name:
        return None
    try:
        program = tool(cluster.binaries, "pg_waldump")
    except OperatorError:
        return None
    # a record that straddles is read from its beginning: begin at the last checkpoint where that is earlier
    records = [program, "-p", str(instance.data / "pg_wal"), "-t", str(control.timeline)]
    text = await asyncio.to_thread(_output, [*records, "-s", str(min(have, control.redo))])
    end, commits = have, 0
    for line in text.splitlines():
        found = _RECORD.search(line)
        if found is None or (at := Lsn.parse(found[1])) < have:
            continue
        end = max(end, at)
        commits += found[2] in ("COMMIT", "COMMIT_PREPARED")
    best, received = ranking[0]
    return Loss(old, name, have, end, commits, best if received > have else "")


def _output(command: list[str]) -> str:
    """It ends with an error where the WAL ends: that is as it should be."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
