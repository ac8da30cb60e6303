"""Peak memory of our process (ru_maxrss): a huge transaction, many bytes, a sink that stalls while the source goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from psycopg import sql

from benchmarks import workloads
from benchmarks.harness import Contest, Plan, child
from benchmarks.servers import Backlog, digest, server
from benchmarks.workloads import Workload
from walcast.postgres.local import LocalServer

_MB: Final = 1 << 20
_WIDE: Final = 1200
"""Bytes of a wide row."""
_STALL: Final = 5.0
"""Seconds."""


class _Case(NamedTuple):
    title: str
    workload: Workload
    kind: str


def contests(plan: Plan) -> Iterator[Contest]:
    rows = plan.rows(10_000_000 if plan.full else 1_000_000)
    wide = plan.rows((1 << 30 if plan.full else 256 * _MB) // _WIDE)
    with server() as source, server() as target:
        target.execute("create database copy")
        for case in (
            _Case(
                f"one transaction of {rows:,} rows to PostgreSQL",
                workloads.one_transaction("big", rows),
                "postgres",
            ),
            _Case(
                f"{wide * _WIDE / 1e6:,.0f} MB of rows to PostgreSQL",
                workloads.wide_rows("wide", wide),
                "postgres",
            ),
            _Case(
                f"a sink stalled for {_STALL:g} s before {rows:,} rows",
                workloads.inserts("inserted", rows),
                "null",
            ),
        ):
            line = Contest(f"memory: {case.title}", "", "200 MB", "400 MB")
            if plan.wants(line.name):
                yield _measured(line, case, source, target)


def _measured(line: Contest, case: _Case, source: LocalServer, target: LocalServer) -> Contest:
    """Once: it is a maximum."""
    table = case.workload.table
    backlog = Backlog(source, table, case.workload.setup, case.workload.work)
    with backlog.slot() as slot:
        run = child(
            "benchmarks.pipelines:replicate",
            kind=case.kind,
            target=target.dsn("copy") if case.kind == "postgres" else str(_STALL),
            dsn=source.dsn(),
            slot=slot,
            publication=table,
            end=backlog.end,
            rows=backlog.rows,
        )
    if case.kind == "postgres":
        if digest(target, "copy", table) != digest(source, "postgres", table):
            raise SystemExit(f"{line.name}: the copy is not equal to its source")
        target.execute(sql.SQL("drop table {}").format(sql.Identifier(table)), database="copy")
        target.execute("drop schema walcast cascade", database="copy")
    backlog.close()
    line.ours.append(run)
    line.figure = f"{run.peak / _MB:.0f} MB"
    return line
