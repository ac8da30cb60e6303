"""Other stores against our own null sink: the same pipeline, the same backlog, nothing written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import duckdb

from benchmarks import workloads
from benchmarks.harness import Contest, Plan, Run, child
from benchmarks.servers import Backlog, server

_ROWS: Final = 500_000
_STORES: Final = (("duckdb", "DuckDB", "0.6x"), ("jsonl", "JSON Lines", "0.7x"))


def contests(plan: Plan) -> Iterator[Contest]:
    rows = plan.rows(_ROWS)
    with server() as source, tempfile.TemporaryDirectory() as folder:
        lines = [
            (kind, way, Contest(f"to {name}: {rows:,} inserts by 1,000, {way}", "null sink", goal, "-"))
            for kind, name, goal in _STORES
            for way in ("tcp", "socket")
        ]
        if any(plan.wants(line.name) for _, _, line in lines):
            workload = workloads.inserts("inserted", rows)
            backlog = Backlog(source, workload.table, workload.setup, workload.work)
        for kind, way, line in lines:
            if plan.wants(line.name):
                store = _Store(backlog, source.dsn(via="tcp" if way == "tcp" else "socket"), Path(folder))
                yield line.alternate(plan.runs, partial(store.run, kind), partial(store.run, "null"))


class _Store:
    def __init__(self, backlog: Backlog, dsn: str, folder: Path) -> None:
        self._backlog = backlog
        self._dsn = dsn
        self._folder = folder

    def run(self, kind: str) -> Run:
        """One replication into a new store."""
        with self._backlog.slot() as slot, tempfile.TemporaryDirectory(dir=self._folder) as fresh:
            target = Path(fresh) / "store"
            run = child(
                "benchmarks.pipelines:replicate",
                kind=kind,
                target="" if kind == "null" else str(target),
                dsn=self._dsn,
                slot=slot,
                publication=self._backlog.name,
                end=self._backlog.end,
                rows=self._backlog.rows,
            )
            found = self._backlog.rows if kind == "null" else _count(kind, target, self._backlog.name)
        if found != self._backlog.rows:
            raise SystemExit(f"{kind} has {found} rows of {self._backlog.rows}")
        return run


def _count(kind: str, target: Path, table: str) -> int:
    """Distinct keys in the store; in files, lines that are inserts."""
    if kind == "jsonl":
        return sum(file.read_bytes().count(b'"op":"insert"') for file in target.iterdir())
    with duckdb.connect(str(target), read_only=True) as connection:
        row = connection.execute(f"select count(distinct id) from public.{table}").fetchone()
    return int(row[0]) if row else 0
