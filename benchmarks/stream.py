"""Stream, decode to Arrow, null sink; against pg_recvlogical writing binary pgoutput to /dev/null."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.harness import Backlog, Contest, child, pg_recvlogical, run_of, source_server
from walcast.model import Lsn, TypeChoices
from walcast.postgres.source import PostgresSource, SourceConfig

COLUMNS = "id bigint primary key, customer integer, amount float8, at timestamptz, note text"
INSERT = "insert into {t} select n, n % 1000, n / 3.0, '2026-01-01'::timestamptz + n * interval '1 s', 'note ' || n from generate_series({a}, {b}) n"


def _one_transaction(rows: int, table: str) -> Any:
    def work(connection: Any) -> int:
        connection.execute(INSERT.format(t=table, a=1, b=rows))
        return rows

    return work


def _small_transactions(count: int, table: str) -> Any:
    def work(connection: Any) -> int:
        connection.execute("set synchronous_commit = off")
        connection.execute(
            f"do $$ begin for i in 1..{count} loop insert into {table} values (i, i % 1000, i / 3.0, now(), 'note ' || i); commit; end loop; end $$"
        )
        return count

    return work


def _wide(rows: int, table: str) -> Any:
    def work(connection: Any) -> int:
        connection.execute(f"insert into {table} select n, n % 1000, n / 3.0, now(), repeat(md5(n::text), 36) from generate_series(1, {rows}) n")
        return rows

    return work


def _changes(rows: int, table: str, statement: str) -> Any:
    def work(connection: Any) -> int:
        connection.execute("set synchronous_commit = off")
        connection.execute(
            f"do $$ begin for i in 0..{rows // 100 - 1} loop {statement}; commit; end loop; end $$".replace("{t}", table)
        )
        return rows

    return work


def backlogs() -> Iterator[tuple[str, str, list[str], Any, tuple[str, str]]]:
    """(title, table, setup, work, goals over TCP and the socket)"""
    create = "create table {t} ({c})"
    fill = INSERT
    made = lambda t: [create.format(t=t, c=COLUMNS)]  # noqa: E731
    filled = lambda t, n: [*made(t), fill.format(t=t, a=1, b=n)]  # noqa: E731
    yield "one transaction of 500k inserts", "big", made("big"), _one_transaction(500_000, "big"), ("1.8x", "1.4x")
    yield "200k one-row transactions", "small", made("small"), _small_transactions(200_000, "small"), ("2.3x", "1.1x")
    yield "100k rows of 1.2 KB", "wide", made("wide"), _wide(100_000, "wide"), ("1.1x", "1.1x")
    yield (
        "200k updates by 100", "updates", filled("updates", 200_000),
        _changes(200_000, "updates", "update {t} set amount = amount + 1, note = note || '.' where id between i * 100 + 1 and i * 100 + 100"),
        ("1.1x", "1.1x"),
    )  # fmt: skip
    yield (
        "200k deletes by 100", "deletes", filled("deletes", 200_000),
        _changes(200_000, "deletes", "delete from {t} where id between i * 100 + 1 and i * 100 + 100"),
        ("1.1x", "1.1x"),
    )  # fmt: skip


def contests(runs: int) -> Iterator[Contest]:
    with source_server() as server:
        for title, table, setup, work, goals in backlogs():
            backlog = Backlog(server, table, setup, work)
            for way, goal in zip(("TCP", "socket"), goals, strict=True):
                host = "127.0.0.1" if way == "TCP" else str(server.folder)
                dsn = f"host={host} port={server.port} user=postgres dbname=postgres password={server.password}"
                contest = Contest(f"{title}, {way}", "pg_recvlogical", goal)
                for turn in range(runs + 1):
                    with backlog.slot() as slot:
                        ours = run_of(child("benchmarks.stream", "--drain", dsn, slot, table, backlog.end, str(backlog.rows)))
                    with backlog.slot() as slot:
                        theirs = pg_recvlogical(backlog, slot, dsn)
                    if turn:  # the first pair warms the server up
                        contest.ours.append(ours)
                        contest.theirs.append(theirs)
                yield contest
            backlog.close()


async def drain(dsn: str, slot: str, publication: str, end: Lsn) -> tuple[float, int]:
    """Reads to `end`, every relation of every batch turned into Arrow and dropped."""
    config = SourceConfig(dsn=dsn, slot=slot, publication=publication)
    changes = 0
    async with PostgresSource(config, pipeline="bench") as source:
        begin = time.perf_counter()
        async for batch in source.stream(None):
            for relation in batch.relations:
                batch.table(relation, TypeChoices()).__arrow_c_stream__(None)
            changes += len(batch)
            if batch.checkpoint is not None:
                await source.confirm(batch.checkpoint.through)
                if batch.checkpoint.through >= end:
                    break
        return time.perf_counter() - begin, changes


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--drain", nargs=5, metavar=("DSN", "SLOT", "PUBLICATION", "END", "ROWS"), required=True)
    dsn, slot, publication, end, rows = parser.parse_args(arguments).drain
    seconds, changes = asyncio.run(drain(dsn, slot, publication, Lsn.parse(end)))
    if changes != int(rows):
        raise SystemExit(f"read {changes} changes of {rows}")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "rows": changes, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
