"""No read with a token is stale while replicas are killed, restarted, held and promoted under it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.integration.routing_tools import Trio, trio

import walcast
from walcast.testing import PostgresServer

pytestmark = pytest.mark.xdist_group("routing")
_SECONDS = 8.0


class Session:
    """Writes its own row and reads it back, until it is told to end."""

    def __init__(
        self, router: walcast.Router[psycopg.Connection[Any]], number: int, ended: threading.Event
    ) -> None:
        self.router, self.number, self.ended = router, number, ended
        self.writes = self.reads = self.unserved = 0
        self.stale: list[str] = []
        self.nodes: set[str] = set()
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self.writes += 1
                self.turn(self.writes)
        except Exception as error:
            self.failure = error

    def turn(self, value: int) -> None:
        with self.router.write() as lease:
            lease.connection.execute("update t set n = %s where id = %s", [value, self.number])
        token = lease.token
        assert token is not None
        for _ in range(10):
            seen: list[str] = []

            def work(connection: psycopg.Connection[Any], seen: list[str] = seen) -> int:
                seen.append(str(connection.info.port))
                row = connection.execute("select n from t where id = %s", [self.number]).fetchone()
                assert row is not None
                return int(row[0])

            found = self.router.run(work, token)
            self.reads += 1
            self.nodes.add(seen[-1])
            if found < value:
                self.stale.append(f"{found} instead of {value} at {seen[-1]}")


@pytest.fixture
def own(postgres_factory: Callable[..., PostgresServer]) -> Any:
    with trio(postgres_factory) as found:
        found.primary.execute("insert into t select id, 0 from generate_series(2, 10) id")
        found.catch_up()
        yield found


def test_no_read_with_a_token_is_stale_while_replicas_die_and_return(own: Trio) -> None:
    chance = random.Random(1)
    ended = threading.Event()
    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=0.2, wait=0.05) as router:
        sessions = [Session(router, number, ended) for number in (2, 3, 4)]
        threads = [threading.Thread(target=session.run) for session in sessions]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + _SECONDS
        try:
            while time.monotonic() < deadline:
                replica = chance.choice([own.one, own.two])
                deed = chance.choice(["kill", "stop", "hold", "freeze"])
                _do(replica, deed, chance)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    for session in sessions:
        assert session.failure is None, session.failure
        assert not session.stale, session.stale
    assert sum(session.reads for session in sessions) > 100
    assert {str(own.one.port), str(own.two.port)} <= set.union(*(session.nodes for session in sessions))


def _do(replica: PostgresServer, deed: str, chance: random.Random) -> None:
    pause = chance.uniform(0.05, 0.5)
    if deed == "hold":
        replica.execute("select pg_wal_replay_pause()")
        time.sleep(pause)
        replica.execute("select pg_wal_replay_resume()")
    elif deed == "freeze":
        replica.pause()
        time.sleep(pause)
        replica.resume()
    else:
        replica.kill() if deed == "kill" else replica.stop("fast")
        time.sleep(pause)
        replica.start()
    time.sleep(0.2)
