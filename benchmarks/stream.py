"""Stream, decode to Arrow, null sink; against pg_recvlogical, which writes what it is sent to /dev/null."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from benchmarks import workloads
from benchmarks.harness import Contest, Plan, Run, child
from benchmarks.servers import Backlog, pg_recvlogical, server
from benchmarks.workloads import Workload
from walcast.model import Lsn, TypeChoices
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig


class _Case(NamedTuple):
    title: str
    rows: int
    make: Callable[[str, int], Workload]
    table: str
    goals: tuple[str, str]
    """Over TCP, over the Unix socket."""
    floor: str


_CASES: Final = (
    _Case("one transaction of {}", 500_000, workloads.one_transaction, "big", ("1.8x", "1.4x"), "1.1x"),
    _Case(
        "{} one-row transactions", 200_000, workloads.one_row_transactions, "small", ("2.3x", "1.1x"), "1.0x"
    ),
    _Case("{} rows of 1.2 KB", 200_000, workloads.wide_rows, "wide", ("1.1x", "1.1x"), "0.95x"),
    _Case("{} updates by 100", 600_000, workloads.updates, "updated", ("1.1x", "1.1x"), "0.95x"),
    _Case("{} deletes by 100", 600_000, workloads.deletes, "deleted", ("1.1x", "1.1x"), "0.95x"),
)
_WAYS: Final = ("tcp", "socket")


def contests(plan: Plan) -> Iterator[Contest]:
    with server() as source:
        for case in _CASES:
            rows = plan.rows(case.rows)
            lines = [
                Contest(
                    f"stream: {case.title.format(f'{rows:,}')}, {way}", "pg_recvlogical", goal, case.floor
                )
                for way, goal in zip(_WAYS, case.goals, strict=True)
            ]
            if not any(plan.wants(line.name) for line in lines):
                continue
            workload = case.make(case.table, rows)
            backlog = Backlog(source, workload.table, workload.setup, workload.work)
            for way, line in zip(_WAYS, lines, strict=True):
                if plan.wants(line.name):
                    yield _contest(
                        line, backlog, source.dsn(via="tcp" if way == "tcp" else "socket"), plan.runs
                    )
            backlog.close()


def _contest(line: Contest, backlog: Backlog, dsn: str, runs: int) -> Contest:
    def ours() -> Run:
        with backlog.slot() as slot:
            arguments = {"publication": backlog.name, "end": backlog.end, "rows": backlog.rows}
            return child("benchmarks.stream:drain", dsn=dsn, slot=slot, **arguments)

    def theirs() -> Run:
        with backlog.slot() as slot:
            return pg_recvlogical(backlog, slot, dsn)

    return line.alternate(runs, ours, theirs)


async def drain(dsn: str, slot: str, publication: str, end: str, rows: int) -> dict[str, Any]:
    """Reads to `end`; every relation of every batch becomes Arrow and is dropped."""
    stop = Lsn.parse(end)
    seen: Counter[str] = Counter()
    tables = 0
    async with PostgresSource(SourceConfig(Secret(dsn), slot=slot, publication=publication)) as source:
        begin = time.perf_counter()
        async for batch in source.stream(None):
            for relation in batch.relations:
                table = batch.table(relation, TypeChoices())
                table.__arrow_c_stream__(None)
                tables += 1
                seen.update(batch.counts(relation))
                del table
            if batch.checkpoint is not None:
                await source.confirm(batch.checkpoint.through)
                if batch.checkpoint.through >= stop or seen.total() >= rows:
                    break
            del batch
        seconds = time.perf_counter() - begin
        stats = source.stats()
    if seen.total() != rows:
        raise SystemExit(f"read {dict(seen)}, {rows} changes were made")
    return {"seconds": seconds, "rows": seen.total(), "tables": tables, **stats}
