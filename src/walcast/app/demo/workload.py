"""A shop's day: what the demo writes to the source while it is being copied."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import uuid
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, LiteralString, cast

import psycopg

from walcast.model import FatalError

SCHEMA: LiteralString = cast(Any, files(__package__).joinpath("schema.sql").read_text())

_CUSTOMERS = """
    insert into shop.customers (email, name, tier, address, tags, preferences, balance, born, active)
    select format('customer%%s@example.org', n), format('Customer %%s', n),
        (array['basic', 'silver', 'gold'])[1 + n %% 3]::shop.tier,
        row(format('%%s High Street', n), (array['Oslo', 'Porto', 'Łódź', '東京'])[1 + n %% 4], lpad(n::text, 5, '0'))::shop.address,
        case n %% 5 when 0 then '{}'::text[] when 1 then array['a "quoted" tag', null] else array['tag' || n %% 7] end,
        jsonb_build_object('theme', n %% 2 = 0, 'level', n %% 10, 'note', repeat('x', n %% 50)),
        (n * 37 %% 100000) / 100.0, date '1950-01-01' + n %% 20000, n %% 11 <> 0
    from generate_series(1, %(customers)s) n
"""
_PRODUCTS = """
    insert into shop.products (sku, title, description, price, weight, picture, on_sale)
    select format('SKU-%%s', n), format('Product %%s', n), repeat(md5(n::text), 100), n * 1.25, n / 7.0,
        decode(md5(n::text), 'hex'), case when n %% 3 = 0 then daterange(current_date, current_date + n %% 30) end
    from generate_series(1, %(products)s) n
"""
_ORDERS = """
    insert into shop.orders (id, placed, customer_id, total, note)
    select gen_random_uuid(), timestamptz '2025-06-01 12:00Z' + n * interval '17 minutes', 1 + n %% %(customers)s, n %% 500,
        case when n %% 4 = 0 then 'gift 🎁' end
    from generate_series(1, %(orders)s) n
"""
_LINES = """
    insert into shop.order_lines (order_id, line, sku, quantity, price)
    select id, line, format('SKU-%%s', 1 + abs(hashtext(id::text || line)) %% %(products)s), line, 1.5 * line
    from shop.orders, generate_series(1, 3) line
"""
_CURIOSITIES = """
    insert into shop.curiosities select n, (n - 500) * 60, n * 9007199254740993, n / 3.0, 'infinity'::float8, 1 / (n + 1.0), n::money,
        (n %% 32)::bit(5), repeat('10', n %% 9)::varbit, 'c' || n, int8send(n), date '0044-03-15 BC' + n * 1000,
        time '00:00' + n * interval '1 second', '12:00:00.5+05:30', timestamp 'epoch' + n * interval '1 day', '-infinity',
        n * interval '1 month 1 day 0.5 second', '{"spaced" :  [1, 2]}', jsonb_build_object('n', n), gen_random_uuid(),
        '192.168.0.1/24'::inet + n, '10.0.0.0/8', '08:00:2b:01:02:03', point(n, -n), box(point(0, 0), point(n, n)),
        '((0,0),(1,1),(2,0))', circle(point(1, 2), n), array[n, null, n], array[[1.0, 2.00], [n, 'NaN'::numeric]], array['null', null, '', '{"'],
        int4range(n, n + 5), tstzrange('-infinity', now()), int4multirange(int4range(1, 3), int4range(5, n + 9)),
        to_tsvector('english', 'the quick brown fox ' || n), '16/B374D848', 'gold', row('a,b', null, 'c"d')::shop.address
    from generate_series(1, %(curiosities)s) n
"""
LOAD: tuple[LiteralString, ...] = (_CUSTOMERS, _PRODUCTS, _ORDERS, _LINES, _CURIOSITIES)
DSN_VARIABLE = "WALCAST_DEMO_DSN"
SIZES = {"customers": 5000, "products": 500, "orders": 20000, "curiosities": 500}


async def load(dsn: str) -> None:
    """Creates the schema and its first rows."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(SCHEMA)
        for statement in LOAD:
            await connection.execute(statement, SIZES)


async def change_schema(dsn: str) -> None:
    """What a release does halfway: a column more, with a default, and a wider type. The stream tells of it with the
    table's next change."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("alter table shop.customers add column loyalty integer not null default 7")
        await connection.execute("alter table shop.order_lines alter column line type integer")
        await connection.execute("update shop.customers set loyalty = 8 where id = 1")
        await connection.execute(
            "insert into shop.order_lines values (gen_random_uuid(), 100000, 'SKU-1', 1, 1.25)"
        )


class Shop:
    """A process of its own that writes to the source until it is stopped, as an application would."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._process: asyncio.subprocess.Process | None = None
        self._counting: asyncio.Task[None] | None = None
        self.transactions = 0

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "walcast.app.demo.shop",
            env={**os.environ, DSN_VARIABLE: self._dsn},  # not an argument: those are for everybody to see
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the demo's
        )
        self._counting = asyncio.create_task(self._count())

    async def close(self) -> None:
        """Lets it finish its transaction."""
        if self._process is None or self._counting is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._counting
        if code := await self._process.wait():
            raise FatalError(f"the demo's workload ended with exit code {code}", hint="see its error above")

    @property
    def running(self) -> bool:
        return self._counting is not None and not self._counting.done()

    async def _count(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.transactions = int(line)


@dataclass(slots=True)
class Workload:
    """Writes until stopped: one connection, a random mix of transactions, seeded."""

    dsn: str
    seed: int = 1
    pause: float = 0.002
    transactions: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _serial: int = 0

    async def run(self) -> None:
        """Prints how many transactions were committed, now and then."""
        chance = random.Random(self.seed)
        steps = [
            (40, self._order),
            (25, self._touch),
            (10, self._price),
            (8, self._cart),
            (6, self._audit),
            (4, self._forget),
            (3, self._rename),
            (2, self._bulk),
            (1, self._sweep),
            (1, self._regret),
        ]
        weights = [weight for weight, _ in steps]
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            while not self.stopping.is_set():
                step = chance.choices(steps, weights)[0][1]
                await step(connection, chance)
                await connection.commit()
                self.transactions += 1
                if self.transactions % 50 == 0:
                    print(self.transactions, flush=True)
                await asyncio.sleep(self.pause)
        print(self.transactions, flush=True)

    async def _order(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        order, customer = uuid.UUID(int=chance.getrandbits(128), version=4), chance.randint(1, 5000)
        lines = chance.randint(1, 5)
        await c.execute(
            "insert into shop.orders (id, placed, customer_id, total) select %s, now(), id, %s from shop.customers where id = %s",
            (order, lines * 10, customer),
        )
        await c.execute(
            "insert into shop.order_lines select %s, n, 'SKU-' || n, n, n * 2.5 from generate_series(1, %s) n",
            (order, lines),
        )

    async def _touch(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        await c.execute(
            "update shop.customers set balance = balance + 1.01, tags = array_append(tags, 'seen') where id = %s",
            (chance.randint(1, 200),),
        )

    async def _price(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        """Leaves the long description alone: the stream does not carry it."""
        await c.execute(
            "update shop.products set price = price * 1.01, changed = localtimestamp where sku in ("
            "select sku from shop.products order by sku offset %s limit 5)",
            (chance.randint(0, 450),),
        )

    async def _cart(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        await c.execute(
            "insert into shop.carts (session, items) select gen_random_uuid(), to_jsonb(array[n]) from generate_series(1, %s) n",
            (chance.randint(1, 8),),
        )

    async def _audit(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        await c.execute(
            "insert into shop.audit (actor, event, took) values ('10.0.0.1', 'login', interval '1.5 s'), (null, 'logout', null)"
        )
        await c.execute(
            "update shop.audit set event = event || '!' where serial = (select max(serial) - %s from shop.audit)",
            (chance.randint(0, 5),),
        )

    async def _forget(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        await c.execute(
            "with gone as (delete from shop.orders where id in (select id from shop.orders order by id limit %s) returning id) "
            "delete from shop.order_lines where order_id in (select id from gone)",
            (chance.randint(1, 5),),
        )

    async def _rename(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        """A key change whose long text is not sent: the copies must move the row."""
        self._serial += 1
        await c.execute(
            "update shop.products set sku = %s where sku = (select sku from shop.products order by sku offset %s limit 1)",
            (f"SKU-R{self._serial}", chance.randint(0, 400)),
        )

    async def _bulk(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        await c.execute(
            "update shop.customers set preferences = preferences || '{\"bulk\": true}', active = not active where id %% 50 = %s",
            (chance.randint(0, 49),),
        )

    async def _sweep(self, c: psycopg.AsyncConnection[Any], _: random.Random) -> None:
        await c.execute("truncate shop.carts")
        await c.execute(
            "insert into shop.carts (session, items) values (gen_random_uuid(), '[\"after the sweep\"]')"
        )

    async def _regret(self, c: psycopg.AsyncConnection[Any], chance: random.Random) -> None:
        """Rolled back, and partly rolled back: neither may ever be seen in a copy."""
        await c.execute("insert into shop.audit (event) values ('never happened')")
        await c.rollback()
        async with c.transaction():
            await c.execute("insert into shop.audit (event) values ('kept')")
            try:
                async with c.transaction():
                    await c.execute("insert into shop.audit (event) values ('undone')")
                    raise psycopg.Rollback
            except psycopg.Rollback:
                pass
        _ = chance
