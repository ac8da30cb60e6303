"""A primary and two replicas, and what can be done to them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from walcast.model import Lsn
from walcast.postgres.standing import take_token
from walcast.testing import PostgresServer


@dataclass(frozen=True, slots=True)
class Trio:
    primary: PostgresServer
    one: PostgresServer
    two: PostgresServer

    @property
    def dsns(self) -> dict[str, str]:
        return {"primary": self.primary.dsn(), "one": self.one.dsn(), "two": self.two.dsn()}

    def catch_up(self, *replicas: PostgresServer) -> None:
        """Waits until they have what the primary has now."""
        with self.primary.connect() as connection:
            position = take_token(connection).lsn
        for replica in replicas or (self.one, self.two):
            until(lambda replica=replica: replayed(replica) >= position)  # type: ignore[misc]


def hold(*replicas: PostgresServer) -> None:
    """Their replay stands still."""
    for replica in replicas:
        replica.execute("select pg_wal_replay_pause()")
        until(
            lambda replica=replica: replica.execute("select pg_get_wal_replay_pause_state()") == [("paused",)]
        )  # type: ignore[misc]


def release(*replicas: PostgresServer) -> None:
    for replica in replicas:
        replica.execute("select pg_wal_replay_resume()")


def replayed(replica: PostgresServer) -> Lsn:
    ((lsn,),) = replica.execute("select pg_last_wal_replay_lsn()::text")
    return Lsn.parse(lsn)


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for it; fails when it takes so long."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@contextlib.contextmanager
def trio(start: Callable[..., PostgresServer], version: int = 18) -> Iterator[Trio]:
    """Started servers with a table `t(id, n)` of one row."""
    primary = start(version)
    primary.execute("create table t (id int primary key, n int); insert into t values (1, 0)")
    with primary.standby("one") as one, primary.standby("two") as two:
        yield Trio(primary, one, two)
