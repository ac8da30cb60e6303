"""What the benchmarks share: a server with a backlog, alternating runs, medians and ratios.

Contestants of one benchmark run in turn (A B A B ...), on the same server and the same backlog, each from a copy of
the same slot, so that a machine that speeds up or slows down does so for all of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from walcast.postgres.local import LocalServer, find


@dataclass(frozen=True, slots=True)
class Run:
    """One run: seconds of wall time, rows, and of our own process CPU seconds and peak memory in bytes."""

    seconds: float
    rows: int
    cpu: float = 0.0
    peak: int = 0


@dataclass(slots=True)
class Contest:
    """One line of the report: ours against a baseline."""

    name: str
    baseline: str
    goal: str
    unit: str = "rows/s"
    ours: list[Run] = field(default_factory=list)
    theirs: list[Run] = field(default_factory=list)
    note: str = ""
    figure: str = ""

    @property
    def ratio(self) -> float | None:
        """Median of the pairwise ratios of rates; None without a baseline."""
        pairs = [(b.seconds / b.rows) / (a.seconds / a.rows) for a, b in zip(self.ours, self.theirs, strict=False)]
        return statistics.median(pairs) if pairs else None

    @staticmethod
    def rate(runs: Sequence[Run]) -> float | None:
        return statistics.median(r.rows / r.seconds for r in runs) if runs else None

    def row(self) -> dict[str, Any]:
        spread = [b.rows / b.seconds for b in self.ours]
        return {
            "benchmark": self.name,
            "baseline": self.baseline,
            "ours": self.rate(self.ours),
            "ours_min": min(spread, default=None),
            "ours_max": max(spread, default=None),
            "theirs": self.rate(self.theirs),
            "ratio": self.ratio,
            "goal": self.goal,
            "cpu_seconds": statistics.median(r.cpu for r in self.ours) if self.ours else None,
            "peak_bytes": max((r.peak for r in self.ours), default=None),
            "runs": len(self.ours),
            "figure": self.figure,
            "note": self.note,
        }


def source_server(**settings: object) -> LocalServer:
    """PostgreSQL 18 as it comes, but for logical decoding and room for the backlog."""
    defaults: dict[str, object] = {
        "wal_level": "logical",
        "max_wal_size": "8GB",
        "checkpoint_timeout": "1h",
        "shared_buffers": "256MB",
        "max_replication_slots": 40,
        "max_wal_senders": 40,
        "autovacuum": "off",
    }
    return LocalServer(18, settings={**defaults, **settings}, durable=True)


class Backlog:
    """A publication, a slot that stays at the start, and the LSN where the backlog ends."""

    def __init__(self, server: LocalServer, name: str, setup: Sequence[str], work: Callable[[Any], int]) -> None:
        self.server, self.name = server, name
        self._serial = 0
        with server.connect() as connection:
            connection.autocommit = True
            for statement in setup:
                connection.execute(statement)
            connection.execute(f"create publication {name} for table {name}")  # noqa: S608  # our own names
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
            self.rows = work(connection)
            row = connection.execute("select pg_current_wal_flush_lsn()::text").fetchone()
            connection.execute("checkpoint")
        assert row is not None
        self.end: str = row[0]

    @contextmanager
    def slot(self) -> Iterator[str]:
        """A copy of the slot: the same backlog again."""
        self._serial += 1
        name = f"{self.name}_{self._serial}"
        self.server.execute(f"select pg_copy_logical_replication_slot('{self.name}', '{name}')")  # noqa: S608
        try:
            yield name
        finally:
            for _ in range(100):
                active = self.server.execute(f"select active from pg_replication_slots where slot_name = '{name}'")  # noqa: S608
                if not active or not active[0][0]:
                    break
                time.sleep(0.05)
            self.server.execute(f"select pg_drop_replication_slot('{name}')")  # noqa: S608

    def close(self) -> None:
        self.server.execute(f"select pg_drop_replication_slot('{self.name}')")  # noqa: S608
        self.server.execute(f"drop publication {self.name}")
        self.server.execute(f"drop table {self.name}")


def pg_recvlogical(backlog: Backlog, slot: str, dsn: str) -> Run:
    """The server's own reader: decodes nothing, writes to /dev/null."""
    binaries = find(18, tools=("pg_recvlogical",))
    command = [
        binaries.program("pg_recvlogical"), "--start", "--no-loop", "-S", slot, "-d", dsn, "--endpos", backlog.end,
        "-o", "proto_version=1", "-o", f"publication_names={backlog.name}", "-o", "binary=true", "-f", "/dev/null",
    ]  # fmt: skip
    begin = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return Run(time.perf_counter() - begin, backlog.rows)


def child(module: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs one of our measurements in a fresh process; it prints one JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], check=True, capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_of(result: dict[str, Any]) -> Run:
    names = {f.name for f in dataclasses.fields(Run)}
    return Run(**{key: value for key, value in result.items() if key in names})


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpus": os.cpu_count(), "memory_gib": round(memory / 2**30, 1), "python": platform.python_version(), "system": platform.platform()}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| Benchmark | Walcast | Baseline | | Ratio | Goal | CPU s | Peak MB |",
        "|---|---:|---|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        ours = row["figure"] or f"{row['ours']:,.0f} rows/s"
        theirs = f"{row['theirs']:,.0f} rows/s" if row["theirs"] else "-"
        ratio = f"{row['ratio']:.2f}x" if row["ratio"] else "-"
        peak = f"{row['peak_bytes'] / 2**20:.0f}" if row["peak_bytes"] else "-"
        cpu = f"{row['cpu_seconds']:.2f}" if row["cpu_seconds"] else "-"
        lines.append(
            f"| {row['benchmark']} | {ours} | {row['baseline'] or '-'} | {theirs} | {ratio} | {row['goal']} | {cpu} | {peak} |"
        )
    return "\n".join(lines)
