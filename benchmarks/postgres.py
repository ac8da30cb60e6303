"""PostgreSQL to PostgreSQL: ours against a native subscription, both over a copy of the same slot into the same tables.

Long enough that the start of either does not count. Both copies commit without waiting for the disk. Ours counts as done when it is flushed and says so, the native one when
its last transaction is visible.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from psycopg import sql

from benchmarks import workloads
from benchmarks.harness import Contest, Plan, Run, child
from benchmarks.servers import Backlog, database, digest, server
from benchmarks.workloads import Workload
from walcast.postgres.local import LocalServer


class _Case(NamedTuple):
    title: str
    rows: int
    make: Callable[[str, int], Workload]
    table: str


_CASES: Final = (
    _Case("{} inserts by 1,000", 1_500_000, workloads.inserts, "inserted"),
    _Case("one transaction of {}", 1_000_000, workloads.one_transaction, "big"),
    _Case("{} one-row transactions", 400_000, workloads.one_row_transactions, "small"),
    _Case("{} updates by 100", 600_000, workloads.updates, "updated"),
)
_SEED: Final = "seed_{}"
_REACHED: Final = sql.SQL(
    "select o.remote_lsn >= %s::pg_lsn from pg_replication_origin_status o"
    " join pg_subscription s on o.external_id = 'pg_' || s.oid where s.subname = 'native'"
)


def contests(plan: Plan) -> Iterator[Contest]:
    with server() as source, server() as target:
        for case in _CASES:
            rows = plan.rows(case.rows)
            lines = {
                way: Contest(
                    f"PostgreSQL to PostgreSQL: {case.title.format(f'{rows:,}')}, {way}",
                    "native subscription",
                    "1.5x",
                    "1.0x",
                )
                for way in ("tcp", "socket")
            }
            if not any(plan.wants(line.name) for line in lines.values()):
                continue
            workload = case.make(case.table, rows)
            backlog = Backlog(source, workload.table, workload.setup, workload.work)
            _seed(target, workload)
            for way, line in lines.items():
                if plan.wants(line.name):
                    yield _contest(line, backlog, source, target, way, plan.runs)
            backlog.close()


def _contest(
    line: Contest, backlog: Backlog, source: LocalServer, target: LocalServer, way: Any, runs: int
) -> Contest:
    wanted = digest(source, "postgres", backlog.name)

    def contestant(measure: Callable[[str, str], Run]) -> Run:
        with backlog.slot() as slot, database(target, _SEED.format(backlog.name)) as name:
            run = measure(slot, name)
            if digest(target, name, backlog.name) != wanted:
                raise SystemExit(f"{line.name}: the copy is not equal to its source")
            return run

    def ours(slot: str, name: str) -> Run:
        return child(
            "benchmarks.pipelines:replicate",
            kind="postgres",
            target=target.dsn(name, via=way),
            dsn=source.dsn(via=way),
            slot=slot,
            publication=backlog.name,
            end=backlog.end,
            rows=backlog.rows,
        )

    def theirs(slot: str, name: str) -> Run:
        with _subscription(target, name, source.dsn(via=way), backlog.name, slot):
            begin = time.perf_counter()
            target.execute("alter subscription native enable", database=name)
            with target.connect(name) as connection:
                while connection.execute(_REACHED, [backlog.end]).fetchone() != (True,):
                    time.sleep(0.005)
            return Run(time.perf_counter() - begin, backlog.rows)

    return line.alternate(runs, lambda: contestant(ours), lambda: contestant(theirs))


def _seed(target: LocalServer, workload: Workload) -> None:
    """A database with the table as it was before the work; each run begins with a copy of it."""
    name = _SEED.format(workload.table)
    target.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with target.connect(name) as connection:
        for statement in workload.setup:
            connection.execute(statement)
        connection.execute("vacuum analyze")


@contextmanager
def _subscription(target: LocalServer, name: str, dsn: str, publication: str, slot: str) -> Iterator[None]:
    statement = sql.SQL(
        "create subscription native connection {} publication {} with"
        " (create_slot = false, slot_name = {}, enabled = false, copy_data = false, binary = true)"
    ).format(sql.Literal(dsn), sql.Identifier(publication), sql.Identifier(slot))
    target.execute(statement, database=name)
    try:
        yield
    finally:
        for change in ("disable", "set (slot_name = none)"):
            target.execute(sql.SQL("alter subscription native {}").format(sql.SQL(change)), database=name)
        target.execute("drop subscription native", database=name)
