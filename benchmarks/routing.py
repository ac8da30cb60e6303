"""Reads through the router: what it adds to a bare pool, and whether a read with a token is ever stale.

A primary and two replicas whose replay is held and let go all the time. Each session writes its own row and then reads it
back many times, with the token of the write and, for one read in ten, without: the stale reads among those show that
there was something to see.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import psycopg
from psycopg_pool import ConnectionPool

from benchmarks.harness import Contest, Plan, child, percentile
from benchmarks.servers import server
from walcast import Router
from walcast.postgres.local import LocalServer

_READS: Final = 1_000_000
_SESSIONS: Final = 4
_READS_A_WRITE: Final = 20
_WITHOUT_EVERY: Final = 10
_TIMED: Final = 20_000
_CHANGE: Final = (0.02, 0.4)
"""Seconds between two changes of what the replicas replay."""


def contests(plan: Plan) -> Iterator[Contest]:
    added = Contest("routing: one read of a known token", "the bare pool", "p50 +0.2 ms", "p50 +0.5 ms")
    reads = plan.rows(_READS)
    stale = Contest(
        f"routing: {reads:,} reads at {_SESSIONS} sessions, concurrent writes, moving lag",
        "the same without tokens",
        "0 stale with tokens",
        "0 stale with tokens",
    )
    if not any(plan.wants(line.name) for line in (added, stale)):
        return
    with server() as primary, primary.standby("one") as one, primary.standby("two") as two:
        primary.execute("create table rows (id int primary key, n int not null)")
        primary.execute("insert into rows select id, 0 from generate_series(0, 99) id")
        dsns = [member.dsn() for member in (primary, one, two)]
        if plan.wants(added.name):
            timed = max(1000, round(_TIMED * plan.scale))
            added.alternate(
                plan.runs,
                lambda: child("benchmarks.routing:routed", dsns=dsns, reads=timed),
                lambda: child("benchmarks.routing:bare", dsns=dsns, reads=timed),
            )
            ours, theirs = (min(run.extra["p50"] for run in runs) for runs in (added.ours, added.theirs))
            added.figure = f"p50 {ours:.3f} ms, +{ours - theirs:.3f} ms"
            added.baseline_figure = f"p50 {theirs:.3f} ms"
            yield added
        if plan.wants(stale.name):
            with _moving(one, two):
                stale.ours = [child("benchmarks.routing:stale", dsns=dsns, reads=reads)]
            told = stale.ours[0].extra
            stale.figure = f"{told['stale']:,} stale; {stale.ours[0].rate:,.0f} reads/s, {told['on_replicas']:.0%} on replicas"
            stale.baseline_figure = f"{told['stale_without']:,} of {told['reads_without']:,} stale"
            yield stale


@contextmanager
def _moving(*replicas: LocalServer) -> Iterator[None]:
    """Each replica's replay stops and goes on, at times both stand still."""
    ended = threading.Event()

    def move() -> None:
        chance = random.Random(7)
        connections = [replica.connect() for replica in replicas]
        while not ended.wait(chance.uniform(*_CHANGE)):
            for connection in connections:
                held = chance.random() < 0.5
                connection.execute(
                    "select pg_wal_replay_pause()" if held else "select pg_wal_replay_resume()"
                )
        for connection in connections:
            connection.execute("select pg_wal_replay_resume()")
            connection.close()

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
    finally:
        ended.set()
        mover.join()


async def routed(dsns: list[str], reads: int) -> dict[str, Any]:
    """Reads of a token that both replicas are known to have."""
    with Router[psycopg.Connection[Any]](dsns) as router:
        token = router.token()

        def read() -> None:
            with router.read(token, wait=10) as lease:
                lease.connection.execute("select n from rows where id = 1").fetchone()

        return _time(read, reads)


async def bare(dsns: list[str], reads: int) -> dict[str, Any]:
    """The same transaction on a pool of psycopg's own, without a router."""

    def configure(connection: psycopg.Connection[Any]) -> None:
        connection.read_only = True

    with ConnectionPool(dsns[1], min_size=1, configure=configure) as pool:

        def read() -> None:
            with pool.connection() as connection:
                connection.execute("select n from rows where id = 1").fetchone()

        return _time(read, reads)


def _time(read: Callable[[], None], reads: int) -> dict[str, Any]:
    for _ in range(200):
        read()
    taken = []
    begin = time.perf_counter()
    for _ in range(reads):
        before = time.perf_counter()
        read()
        taken.append((time.perf_counter() - before) * 1000)
    seconds = time.perf_counter() - begin
    taken.sort()
    return {"seconds": seconds, "rows": reads, "p50": percentile(taken, 0.5), "p99": percentile(taken, 0.99)}


async def stale(dsns: list[str], reads: int) -> dict[str, Any]:
    """Sessions that read back what they wrote."""
    with Router[psycopg.Connection[Any]](dsns, max_size=_SESSIONS + 1) as router:
        sessions = [_Session(router, number, reads // _SESSIONS) for number in range(_SESSIONS)]
        threads = [threading.Thread(target=partial(_Session.run, session)) for session in sessions]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
    for session in sessions:
        if session.failure is not None:
            raise session.failure
    done = sum(session.reads for session in sessions)
    return {
        "seconds": seconds,
        "rows": done,
        "stale": sum(session.stale for session in sessions),
        "on_replicas": sum(session.on_replicas for session in sessions) / done,
        "reads_without": sum(session.reads_without for session in sessions),
        "stale_without": sum(session.stale_without for session in sessions),
    }


class _Session:
    """Writes one row and reads it back."""

    def __init__(self, router: Router[psycopg.Connection[Any]], number: int, reads: int) -> None:
        self._router, self._number, self._wanted = router, number, reads
        self.reads = self.stale = self.on_replicas = self.reads_without = self.stale_without = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            value = 0
            while self.reads < self._wanted:
                value += 1
                self._write_and_read(value)
        except Exception as error:
            self.failure = error

    def _write_and_read(self, value: int) -> None:
        with self._router.write() as write:
            write.connection.execute("update rows set n = %s where id = %s", [value, self._number])
        for turn in range(_READS_A_WRITE):
            if turn % _WITHOUT_EVERY == 0:
                self.reads_without += 1
                self.stale_without += self._read("any")[0] < value
            found, node = self._read(write.token)
            self.reads += 1
            self.stale += found < value
            self.on_replicas += node != "node1"

    def _read(self, fresh: Any) -> tuple[int, str]:
        with self._router.read(fresh) as lease:
            row = lease.connection.execute("select n from rows where id = %s", [self._number]).fetchone()
            assert row is not None
            return row[0], lease.node
