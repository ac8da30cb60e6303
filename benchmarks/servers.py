"""Servers with a backlog to replicate, and the server's own reader."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from psycopg import sql

from benchmarks.harness import Run
from walcast.model import OperatorError
from walcast.postgres.local import Binaries, LocalServer, find

VERSION: Final = 18
_DIGEST: Final = sql.SQL("select count(*), sum(hashtextextended(t::text, 0)::numeric), sum(id) from {} t")


def server(binaries: Binaries | None = None, **settings: object) -> LocalServer:
    """PostgreSQL 18 as it comes, but for logical decoding, room for the backlog, and no housekeeping in between."""
    defaults: dict[str, object] = {
        "wal_level": "logical",
        "max_wal_size": "16GB",
        "checkpoint_timeout": "1h",
        "shared_buffers": "512MB",
        "max_replication_slots": 40,
        "max_wal_senders": 40,
        "autovacuum": "off",
    }
    return LocalServer(VERSION, settings={**defaults, **settings}, durable=True, binaries=binaries)


class Backlog:
    """A table, its publication, work done to it, and a slot from before the work: copies of it replay the work.

    `end` is where the last commit of the work ends, `rows` the changes that it made.
    """

    def __init__(
        self, server: LocalServer, name: str, setup: Sequence[str], work: Callable[[Any], int]
    ) -> None:
        self.server, self.name = server, name
        self._serial = 0
        with server.connect() as connection:
            for statement in setup:
                connection.execute(statement)
            connection.execute(sql.SQL("create publication {0} for table {0}").format(sql.Identifier(name)))
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
            self.rows = work(connection)
            row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
            connection.execute("checkpoint")
        assert row is not None
        self.end: str = row[0]

    @contextmanager
    def slot(self) -> Iterator[str]:
        """A copy of the slot: the same backlog again."""
        self._serial += 1
        name = f"{self.name}_{self._serial}"
        self.server.execute("select pg_copy_logical_replication_slot(%s, %s)", [self.name, name])
        try:
            yield name
        finally:
            drop_slot(self.server, name)

    def close(self) -> None:
        self.server.execute("select pg_drop_replication_slot(%s)", [self.name])
        name = sql.Identifier(self.name)
        self.server.execute(sql.SQL("drop publication {0}; drop table {0}").format(name))


def drop_slot(server: LocalServer, name: str) -> None:
    """Drops the slot, if it is there, as soon as its last reader has let go of it."""
    while server.execute("select from pg_replication_slots where slot_name = %s and active", [name]):
        time.sleep(0.02)
    server.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", [name]
    )


@contextmanager
def database(target: LocalServer, seed: str) -> Iterator[str]:
    """A copy of the database `seed`, for one run. Origins outlive their database, and a server has room for ten."""
    target.execute(sql.SQL("create database run template {} strategy file_copy").format(sql.Identifier(seed)))
    try:
        yield "run"
    finally:
        target.execute("drop database run with (force)")
        target.execute(
            "select pg_replication_origin_drop(roname) from pg_replication_origin where roname like 'walcast:%'"
        )
        target.execute("checkpoint")


def digest(server: LocalServer, database: str, table: str) -> list[tuple[Any, ...]]:
    """Rows and a sum over their contents: equal for equal tables."""
    return server.execute(_DIGEST.format(sql.Identifier(table)), database=database)


def pg_recvlogical(backlog: Backlog, slot: str, dsn: str) -> Run:
    """The server's own reader: decodes nothing, writes to /dev/null."""
    options = {"proto_version": "1", "publication_names": backlog.name, "binary": "true"}
    command = [program("pg_recvlogical"), "--start", "--no-loop", "-S", slot, "-d", dsn, "-f", "/dev/null"]
    command += ["--endpos", backlog.end, *(f"--option={name}={value}" for name, value in options.items())]
    begin = time.perf_counter()
    run(command)
    return Run(time.perf_counter() - begin, backlog.rows)


def program(name: str) -> str:
    """The path of a program that comes with the servers."""
    return find(VERSION, tools=(name,)).program(name)


def run(command: Sequence[str]) -> None:
    """Raises OperatorError with what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OperatorError(f"{command[0]} failed: {done.stderr.strip()}")
