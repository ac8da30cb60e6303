"""Comparisons without end while everything is written: no difference may be found, since there is none.

    python -m tests.soak_verify --rounds 10000 --seed 1

A round is one table compared at one position, under a fence of its own. Sessions write meanwhile: hot keys, keys that move
from range to range, long transactions, prepared ones, rolled-back ones, truncates, and commits that wait for a
synchronous standby that is not there until they are let go.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from tests.integration.verify_tools import duckdb, postgres, world

from walcast.app import logs
from walcast.testing.postgres import Database, PostgresFactory, PostgresServer

SETTINGS = {
    "max_prepared_transactions": 20,
    "synchronous_standby_names": "ghost",
    "synchronous_commit": "local",
    "max_connections": 100,
}
SCHEMA = """
create table hot (id bigint primary key, n bigint not null, t text, f float8, j jsonb, m numeric);
create table moving (a int, b int, note text, primary key (a, b));
create table named (name text primary key, n int);
create table plain (line text, n int);
alter table plain replica identity full;
insert into hot select n, 0, 'x', 0, '{}', 1.0 from generate_series(1, 600) n;
insert into moving select n % 50, n, 'm' from generate_series(1, 300) n;
insert into named select 'n' || n, n from generate_series(1, 300) n;
insert into plain select 'l' || n % 20, n % 5 from generate_series(1, 100) n;
create publication p for all tables;
"""


@dataclass
class Tally:
    """What a soak came to."""

    rounds: int = 0
    rows: int = 0
    transactions: int = 0
    differences: int = 0
    unsettled: int = 0
    skipped: int = 0
    seconds: float = 0.0


class Writers:
    """Sessions that write until they are stopped."""

    def __init__(self, database: Database, seed: int, count: int) -> None:
        self.transactions = 0
        self._database = database
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(seed * 100 + n,)) for n in range(count)]
        self._threads.append(threading.Thread(target=self._let_go, args=(seed,)))

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, seed: int) -> None:
        chance = random.Random(seed)
        with self._database.connect() as connection:
            while not self._stop.is_set():
                with contextlib.suppress(psycopg.errors.Error):
                    self._transaction(connection, chance, f"g{seed}_{self.transactions}")
                    self.transactions += 1
                if connection.info.transaction_status:
                    connection.rollback()
                time.sleep(chance.choice((0, 0.002, 0.01)))

    def _transaction(self, connection: psycopg.Connection[Any], chance: random.Random, name: str) -> None:
        run: Callable[..., Any] = connection.execute
        run("begin")
        if chance.random() < 0.1:
            run("set local synchronous_commit = on")
        for _ in range(chance.choice((1, 1, 2, 5))):
            run(_statement(chance))
        kind = chance.random()
        if kind < 0.05:
            run("savepoint s")
            run(_statement(chance))
            run("rollback to savepoint s")
        elif kind < 0.08:
            time.sleep(chance.random() * 0.1)
        if kind > 0.95:
            run("rollback")
        elif kind > 0.9:
            run(f"prepare transaction '{name}'")
            time.sleep(chance.random() * 0.02)
            run(f"{'commit' if chance.random() < 0.7 else 'rollback'} prepared '{name}'")
        else:
            run("commit")

    def _let_go(self, seed: int) -> None:
        """Lets commits that wait for the standby go on, now and then: cancelled, they count as committed."""
        chance = random.Random(seed)
        with self._database.server.connect() as connection:
            while not self._stop.is_set() or any(thread.is_alive() for thread in self._threads[:-1]):
                connection.execute(
                    "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
                )
                time.sleep(chance.random() * (0.02 if chance.random() < 0.95 else 0.5))


def _statement(chance: random.Random) -> str:
    hot, other = chance.choice((chance.randint(1, 20), chance.randint(1, 600))), chance.randint(1, 300)
    return chance.choices(
        (
            f"update hot set n = n + 1, t = repeat('x', {chance.randint(0, 50)}), f = random(), m = m + 0.10 where id = {hot}",
            f"insert into hot values ({chance.randint(2001, 2100)}, 1, 'new', '-0', '[1]', 2.00) on conflict do nothing",
            f"delete from hot where id = {chance.randint(2001, 2100)}",
            f"update hot set id = id + {chance.choice((-300, 1000))} where id = {chance.randint(301, 1900)}",
            f"update moving set a = {chance.randint(0, 60)} where b = {other}",
            f"update moving set a = a + 100, note = 'far' where b = {other} and a < 500",
            f"update named set n = n + 1 where name = 'n{other}'",
            f"update named set name = 'm' || name where name = 'n{other}'",
            f"insert into named values ('n{other}', 0) on conflict do nothing",
            f"update plain set n = n + 1 where line = 'l{chance.randint(0, 19)}' and n = {chance.randint(0, 5)}",
            f"insert into plain values ('l{chance.randint(0, 19)}', 0)",
            "truncate moving; insert into moving select n % 50, n, 'again' from generate_series(1, 300) n",
        ),
        (30, 5, 5, 5, 8, 3, 8, 2, 2, 1, 3, 0.2),
    )[0]


async def soak(
    server: PostgresServer,
    other: PostgresServer,
    folder: Path,
    *,
    rounds: int,
    seconds: float,
    seed: int,
    writers: int = 4,
    sinks: tuple[str, ...] = ("copy", "lake"),
    say: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Compares until there are so many rounds, or the time is over; then once more when nobody writes."""
    origin, target = Database.create(server), Database.create(other)
    origin.execute(SCHEMA)
    tally, began, chance = Tally(), time.monotonic(), random.Random(seed)
    makers = {"copy": lambda: postgres(target), "lake": lambda: duckdb(folder / "copy.duckdb")}
    made_of = {name: makers[name]() for name in sinks}
    try:
        async with world(origin, folder / "state", source={"allow_synchronous": True}, **made_of) as made:
            with Writers(origin, seed, writers) as writing:
                while tally.rounds < rounds and time.monotonic() < began + seconds:
                    sink = chance.choice(sinks)
                    report = await made.verify(
                        sink, span_rows=chance.choice((150, 5000)), hold=chance.choice((0.01, 0.2))
                    )
                    _add(tally, report)
                    tally.transactions = writing.transactions
                    tally.seconds = time.monotonic() - began
                    say(tally)
            await made.caught_up()
            for sink in sinks:
                report = await made.verify(sink)
                _add(tally, report)
                assert report.state == "equal", report
    finally:
        origin.drop()
        target.drop()
    tally.seconds = time.monotonic() - began
    return tally


def _add(tally: Tally, report: Any) -> None:
    tally.rows += report.rows
    for table in report.tables:
        tally.rounds += table.fences
        tally.differences += table.total
        tally.unsettled += table.unsettled_rows + table.unsettled_ranges
        tally.skipped += table.state == "skipped"
        if table.total or table.state == "skipped":
            print(report.sink, table, file=sys.stderr)


@contextlib.contextmanager
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """The source, whose commits may wait, and the copy's server, whose do not."""
    factory = PostgresFactory()
    try:
        yield factory(18, settings=SETTINGS), factory(18)
    finally:
        factory.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sinks", default="copy,lake", help="of copy (PostgreSQL) and lake (DuckDB)")
    options = parser.parse_args()
    logs.configure("warning", "text")
    last = [0.0]

    def say(tally: Tally) -> None:
        if tally.seconds > last[0] + 10:
            last[0] = tally.seconds
            print(tally, file=sys.stderr)

    with servers() as (server, other), tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(
            soak(
                server,
                other,
                Path(folder),
                rounds=options.rounds,
                seconds=options.seconds,
                seed=options.seed,
                sinks=tuple(options.sinks.split(",")),
                say=say,
            )
        )
    print(tally)
    raise SystemExit(1 if tally.differences or tally.skipped else 0)


if __name__ == "__main__":
    main()
