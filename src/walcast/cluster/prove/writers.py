"""Clients that write and remember: what was acknowledged, how, when, and whether a replica showed it at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from walcast.cluster.commit import Outcome, commit
from walcast.cluster.local import LocalCluster

_WRITERS: Final = 3


@dataclass(slots=True)
class Ledger:
    """What the clients know. `begun` counts up; an entry's number is the row's key."""

    begun: int = 0
    replicated: set[int] = field(default_factory=set)
    local: set[int] = field(default_factory=set)
    unknown: dict[int, Outcome] = field(default_factory=dict)
    reads: int = 0
    stale: int = 0

    @property
    def acknowledged(self) -> int:
        return len(self.replicated)


class Writers:
    """Several clients of the primary, each with a connection to every replica that is read; an async context manager."""

    def __init__(self, cluster: LocalCluster, readers: Sequence[str] = ()) -> None:
        self.ledger = Ledger()
        self._cluster = cluster
        self._primary = cluster.desired.primary
        self._readers = tuple(readers)
        self._numbers = itertools.count(1)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        """Clients that have not lost their connection. Raises what one has failed with."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return sum(not task.done() for task in self._tasks)

    async def __aenter__(self) -> Writers:
        async with await self._connect(self._primary) as connection:
            await connection.execute("drop table if exists proof")
            await connection.execute("create table proof (n int primary key)")
            await connection.commit()
        for name in self._readers:
            await self._table_at(name)
        self._tasks = [asyncio.create_task(self._write()) for _ in range(_WRITERS)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Has every client end after the commit that it is in."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _write(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(await self._connect(self._primary))
            readers = [await stack.enter_async_context(await self._connect(name)) for name in self._readers]
            for reader in readers:
                await reader.set_autocommit(True)
            while not self._stop.is_set():
                number = next(self._numbers)
                self.ledger.begun = number
                try:
                    await connection.execute("insert into proof values (%s)", [number])
                    outcome = await commit(connection)
                except psycopg.OperationalError:
                    return  # it was not yet in its commit: nobody was told anything
                if outcome.kind == "unknown":
                    self.ledger.unknown[number] = outcome
                    return
                (self.ledger.replicated if outcome.kind == "replicated" else self.ledger.local).add(number)
                if connection.closed:
                    return
                for reader in readers:
                    await self._read(reader, number)

    async def _read(self, reader: Any, number: int) -> None:
        with contextlib.suppress(psycopg.OperationalError):
            found = await reader.execute("select from proof where n = %s", [number])
            self.ledger.reads += 1
            self.ledger.stale += await found.fetchone() is None

    async def _table_at(self, name: str) -> None:
        """Waits until a replica has the table."""
        async with await self._connect(name) as connection:
            await connection.set_autocommit(True)
            while True:
                found = await (await connection.execute("select to_regclass('proof')")).fetchone()
                if found is not None and found[0] is not None:
                    return
                await asyncio.sleep(0.01)

    async def _connect(self, name: str) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._cluster.dsn(name), application_name="walcast:proof", prepare_threshold=None
        )


async def present(cluster: LocalCluster, name: str) -> set[int]:
    """The rows that a node has."""
    async with await psycopg.AsyncConnection.connect(cluster.dsn(name)) as connection:
        rows = await (await connection.execute("select n from proof")).fetchall()
    return {row[0] for row in rows}
