"""The first copy of tables: ours against `psql` binary COPY out piped into `psql` binary COPY in.

Two tables of the same size. With one worker, the pipes run one after the other; with two, both at once.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from psycopg import sql

from benchmarks import workloads
from benchmarks.harness import Contest, Plan, Run, child
from benchmarks.servers import database, digest, drop_slot, program, server
from walcast.model import OperatorError
from walcast.postgres.local import LocalServer

_TABLES: Final = ("first", "second")
_ROWS: Final = 1_500_000
"""In each of the tables."""


def contests(plan: Plan) -> Iterator[Contest]:
    rows = plan.rows(_ROWS)
    with server() as source, server() as target:
        for name in _TABLES:
            source.execute(workloads.create(name))
            source.execute(workloads.fill(name, rows))
        source.execute(
            sql.SQL("create publication tables for table {}, {}").format(*map(sql.Identifier, _TABLES))
        )
        source.execute("vacuum analyze")
        target.execute("create database seed")
        for name in _TABLES:
            target.execute(workloads.create(name), database="seed")
        for workers in (1, 2):
            for way in ("tcp", "socket"):
                title = f"snapshot: 2 x {rows:,} rows, {workers} worker{'s' * (workers > 1)}, {way}"
                line = Contest(title, "psql COPY | psql COPY", "1.0x", "0.8x")
                if plan.wants(line.name):
                    yield _contest(line, source, target, workers, way, rows, plan.runs)


def _contest(
    line: Contest, source: LocalServer, target: LocalServer, workers: int, way: Any, rows: int, runs: int
) -> Contest:
    wanted = [digest(source, "postgres", name) for name in _TABLES]

    def contestant(measure: Callable[[str], Run]) -> Run:
        with database(target, "seed") as name:
            run = measure(name)
            if [digest(target, name, table) for table in _TABLES] != wanted:
                raise SystemExit(f"{line.name}: the copy is not equal to its source")
            return run

    def ours(name: str) -> Run:
        try:
            return child(
                "benchmarks.pipelines:copy",
                kind="postgres",
                target=target.dsn(name, via=way),
                dsn=source.dsn(via=way),
                publication="tables",
                workers=workers,
                rows=2 * rows,
            )
        finally:
            drop_slot(source, "bench_copy")

    def theirs(name: str) -> Run:
        begin = time.perf_counter()
        with ThreadPoolExecutor(workers) as threads:
            list(
                threads.map(
                    lambda table: _pipe(table, source.dsn(via=way), target.dsn(name, via=way)), _TABLES
                )
            )
        return Run(time.perf_counter() - begin, 2 * rows)

    return line.alternate(runs, lambda: contestant(ours), lambda: contestant(theirs))


def _pipe(table: str, source: str, target: str) -> None:
    psql = [program("psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--command"]
    sending = [*psql, f"copy {table} to stdout (format binary)", source]
    taking = [*psql, f"copy {table} from stdin (format binary)", target]
    with subprocess.Popen(sending, stdout=subprocess.PIPE) as out:
        done = subprocess.run(taking, stdin=out.stdout, capture_output=True, text=True, check=False)
    if done.returncode or out.returncode:
        raise OperatorError(f"psql failed: {done.stderr.strip()}")
