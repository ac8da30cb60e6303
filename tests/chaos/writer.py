"""What the source's users do meanwhile: small transactions of every kind, one after the other, seeded."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

SCHEMA = """
create table account (id bigint primary key, n bigint not null default 0, note text, big text);
create table entry (serial bigint not null, what text, amount numeric(12,3), flag boolean);
alter table entry replica identity full;
create table passing (id bigint primary key, what text);
create table "Odd Näme.ß" ("select" integer primary key, "a""b" text);
insert into account select n, 0, 'account ' || n, repeat(md5(n::text), 120) from generate_series(1, 300) n;
insert into entry select n, 'first', n / 8.0, n % 2 = 0 from generate_series(1, 200) n;
alter table account alter column big set storage external;
update account set big = repeat(md5(n::text), 120) where id % 3 = 0;
"""
TABLES = ("account", "entry", "passing", '"Odd Näme.ß"')

Connection = psycopg.AsyncConnection[Any]


class Writer:
    """Writes whenever `lock` is free. Faults of the source are lived through: it connects again."""

    def __init__(self, dsn: Callable[[], str], seed: int, pause: float = 0.004) -> None:
        self.lock = asyncio.Lock()
        self.transactions = 0
        self.failures = 0
        self._dsn = dsn
        self._random = random.Random(seed)
        self._pause = pause
        self._serial = 1000
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Writer:
        self._task = asyncio.create_task(self._run(), name="chaos writer")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._dsn(), connect_timeout=3
                ) as connection:
                    while True:
                        async with self.lock:
                            await self._one(connection)
                        await asyncio.sleep(self._pause)
            except psycopg.Error:
                self.failures += 1
                await asyncio.sleep(0.05)

    async def _one(self, connection: Connection) -> None:
        step = self._random.choices(_STEPS, _WEIGHTS)[0]
        async with connection.transaction():
            await step(self, connection)
        self.transactions += 1

    def serial(self, count: int) -> int:
        """So many numbers that were never used: the first of them."""
        self._serial += count
        return self._serial - count

    # -- the kinds of transactions

    async def _enter(self, connection: Connection) -> None:
        count = self._random.randint(1, 30)
        await connection.execute(
            "insert into entry select %s::bigint + n, md5(n::text), n / 7.0, n %% 2 = 0 from generate_series(0, %s::int) n",
            [self.serial(count), count - 1],
        )

    async def _count(self, connection: Connection) -> None:
        await connection.execute(
            "update account set n = n + 1 where id %% 37 = %s", [self._random.randint(0, 36)]
        )

    async def _rewrite(self, connection: Connection) -> None:
        await connection.execute(
            "update account set big = repeat(md5(random()::text), 100), note = null where id %% 50 = %s",
            [self._random.randint(0, 49)],
        )

    async def _move(self, connection: Connection) -> None:
        """A key change: the big text is not sent."""
        await connection.execute(
            "update account set id = (select max(id) + 1 from account) where id = (select min(id) from account)"
        )

    async def _replace(self, connection: Connection) -> None:
        key = self._random.randint(1, 100_000)
        await connection.execute("delete from account where id = %s", [key])
        await connection.execute("insert into account values (%s, 1, 'anew', 'x')", [key])
        await connection.execute(
            "delete from account where id in (select id from account order by id desc offset 300)"
        )

    async def _sweep(self, connection: Connection) -> None:
        await connection.execute("truncate passing")
        await connection.execute(
            "insert into passing select %s::bigint + n, 'passing' from generate_series(1, 20) n",
            [self.serial(21)],
        )

    async def _clear(self, connection: Connection) -> None:
        """Keeps the tables small."""
        await connection.execute("truncate entry")
        await self._enter(connection)

    async def _undo(self, connection: Connection) -> None:
        """Subtransactions, some of them undone."""
        for _ in range(self._random.randint(2, 8)):
            with contextlib.suppress(psycopg.Rollback):
                async with connection.transaction():
                    await self._enter(connection)
                    if self._random.random() < 0.5:
                        raise psycopg.Rollback
        await connection.execute(
            'insert into "Odd Näme.ß" values (%s, %s) on conflict ("select") do update set "a""b" = excluded."a""b"',
            [self._random.randint(1, 50), "quo\"te 'é'\n"],
        )

    async def _flood(self, connection: Connection) -> None:
        """Big enough to be streamed before it commits and to be cut into parts; sometimes rolled back."""
        await connection.execute(
            "insert into passing select %s::bigint + n, repeat('x', 200) from generate_series(1, 1500) n",
            [self.serial(1501)],
        )
        if self._random.random() < 0.3:
            raise psycopg.Rollback
        await connection.execute("delete from passing where what like 'xxx%%' and id %% 3 <> 0")
        await connection.execute(
            "delete from passing where id < (select max(id) from passing) - 1600 and what like 'xxx%%'"
        )


_KINDS: list[tuple[int, Callable[[Writer, Connection], Awaitable[None]]]] = [
    (30, Writer._enter),
    (20, Writer._count),
    (6, Writer._rewrite),
    (8, Writer._move),
    (8, Writer._replace),
    (4, Writer._sweep),
    (1, Writer._clear),
    (8, Writer._undo),
    (2, Writer._flood),
]
_STEPS = [step for _, step in _KINDS]
_WEIGHTS = [weight for weight, _ in _KINDS]
