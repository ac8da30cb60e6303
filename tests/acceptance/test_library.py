"""The library as a program uses it: docs/how-to/library.md, block by block, and what the blocks do not show."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

import walcast
from walcast.testing.postgres import Database

GUIDE = Path(__file__).parents[2] / "docs/how-to/library.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
SAYS = (
    r"insert \(\d+,\) {'id': \d+, 'customer': 'ann', 'total': Decimal\('9.99'\)} [0-9A-F]+/[0-9A-F]+#1\n(.*\n){2}$",
    r"^insert {'id': \d+, 'customer': 'ann'",
    r"shop.orders pyarrow.Table(.*\n)*total: decimal128\(8, 2\)",
    r"order \d+ of ann(.*\n)*lake streaming \d+ rows, at 1:.*\ngreet streaming",
)


@contextmanager
def ordering(shop: Database) -> Iterator[None]:
    """Somebody orders all the time."""
    done = threading.Event()

    def order() -> None:
        with shop.connect() as connection:
            while not done.wait(0.05):
                connection.execute("insert into shop.orders (customer, total) values ('ann', 9.99)")

    thread = threading.Thread(target=order)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture
def orders(database: Database) -> Database:
    database.execute(
        "create schema shop; create table shop.orders "
        "(id bigint generated always as identity primary key, customer text not null, total numeric(8, 2))"
    )
    return database


@pytest.mark.parametrize(
    ("block", "says"), list(zip(BLOCKS, SAYS, strict=True)), ids=range(1, len(BLOCKS) + 1)
)
def test_the_guide(block: str, says: str, orders: Database, tmp_path: Path) -> None:
    server = orders.server
    (tmp_path / "services").write_text(
        f"[shop]\nhost={server.folder}\nport={server.port}\ndbname={orders.name}\nuser=postgres\n"
    )
    for name in ("audit", "orders"):  # slots are the server's
        block = block.replace(f'slot="{name}"', f'slot="{orders.name}_{name}"')
    environment = {"PGSERVICEFILE": str(tmp_path / "services"), "PATH": "/usr/bin:/bin"}
    with ordering(orders):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(says, done.stdout), done.stdout
    left = [slot for (slot,) in orders.execute("select slot_name from pg_replication_slots where temporary")]
    assert left == []


def test_importing_is_quick_and_brings_no_client() -> None:
    heavy = "duckdb pyarrow psycopg click rich asyncio"
    code = f"import sys, walcast; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    for name in walcast.__all__:
        assert getattr(walcast, name) is not None
        assert name in dir(walcast)
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        walcast.Pipelin  # noqa: B018  # type: ignore[attr-defined]


async def test_a_named_slot_moves_on_with_the_batches_that_were_taken(orders: Database) -> None:
    slot = f"{orders.name}_named"

    def insert(customers: str) -> None:
        orders.execute(
            "insert into shop.orders (customer) select unnest(string_to_array(%s, null))", [customers]
        )

    async def take(*inserted: str) -> list[int]:
        """Takes as many changes as each transaction has, before the next one; then leaves."""
        taken = []
        async with aclosing(walcast.changes(orders.dsn(), "shop.orders", slot=slot)) as changes:
            for customers in inserted:
                for _ in customers:
                    taken.append((await anext(changes)).row["id"])
                if customers is not inserted[-1]:
                    insert(inserted[inserted.index(customers) + 1])
        return taken

    begun = asyncio.create_task(take("a"))
    while not _active(orders, slot):  # noqa: ASYNC110  # the server does not announce it
        await asyncio.sleep(0.05)
    insert("ab")
    assert await begun == [1]
    assert await take("ab", "c") == [1, 2, 3], (
        "it was left within the first transaction, which comes again whole"
    )
    assert await take("c") == [3], "the batch before the last was taken"


def _active(orders: Database, slot: str) -> bool:
    """It is read; a slot that is still being made is active, too, but has nothing confirmed."""
    sent = "select 1 from pg_replication_slots where slot_name = %s and active and confirmed_flush_lsn is not null"
    return bool(orders.execute(sent, [slot]))


async def test_inside_a_running_loop_plain_iteration_works_too(orders: Database) -> None:
    with ordering(orders), closing(_generator(orders)) as changes:
        assert next(changes).op == "insert"
    assert orders.execute("select count(*) from pg_publication") == [(0,)]


def _generator(orders: Database) -> Any:
    return walcast.iter_changes(orders.dsn(), ["shop.*"])


def test_an_error_comes_out_of_the_loop(orders: Database) -> None:
    with pytest.raises(walcast.OperatorError, match="no table matches"):
        next(iter(walcast.iter_changes(orders.dsn(), ["shop.nuts"])))
    with pytest.raises(walcast.SourceUnavailable, match="Connection refused"):
        next(iter(walcast.iter_arrow("host=127.0.0.1 port=1")))


def test_what_is_no_sink_is_refused() -> None:
    with pytest.raises(walcast.ConfigError, match="sink a: a int is no sink"):
        walcast.Pipeline("host=x", {"a": 1})
    with pytest.raises(walcast.ConfigError, match="no sink"):
        walcast.Pipeline("host=x", {})


async def test_a_pipeline_copies_a_table_anew_beside_its_stream(orders: Database, tmp_path: Path) -> None:
    orders.execute("insert into shop.orders (customer) select 'c' || n from generate_series(1, 1500) n")
    config = walcast.SourceConfig(walcast.Secret(orders.dsn()), slot=orders.name, include=("shop.orders",))
    path = tmp_path / "copy.duckdb"
    table = walcast.TableId("shop", "orders")
    spoilt = False
    for _ in range(2):
        pipeline = walcast.Pipeline(config, {"lake": walcast.DuckDBSinkConfig(path)}, tmp_path / "state")
        running = asyncio.create_task(pipeline.run())
        async with asyncio.timeout(40):
            while not pipeline.status().ready:
                assert not running.done(), running.result()
                await asyncio.sleep(0.02)
            if spoilt:
                await pipeline.resync("lake", [table], rate=50_000)
                assert table in pipeline.building("lake"), "chunk by chunk"
                while pipeline.building("lake"):  # noqa: ASYNC110  # a status
                    await asyncio.sleep(0.02)
                assert pipeline.metrics.get("walcast_stream_opened_total") == 1
            pipeline.stop()
            await running
        with duckdb.connect(str(path)) as copy:
            assert copy.execute("select count(*), count(distinct id) from shop.orders").fetchone() == (
                1500,
                1500,
            )
            copy.execute("delete from shop.orders where id % 3 = 0")
        spoilt = True


def test_ctrl_c_ends_plain_iteration_and_leaves_nothing(
    orders: Database, run_and_interrupt: Callable[[str], int]
) -> None:
    code = f"import walcast\nfor change in walcast.iter_changes({orders.dsn()!r}): print(change.op)"
    assert run_and_interrupt(code) == 130
    assert orders.execute(
        "select count(*) from pg_replication_slots where database = current_database()"
    ) == [(0,)]


@pytest.fixture
def run_and_interrupt(orders: Database) -> Callable[[str], int]:
    """Runs code until its slot is there, sends SIGINT; what a shell would say."""

    def run(code: str) -> int:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not orders.execute(
            "select 1 from pg_replication_slots where active and database = current_database()"
        ):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(2)
        ended = process.wait(20)
        return 128 - ended if ended < 0 else ended

    return run
