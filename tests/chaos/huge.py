"""One transaction of millions of rows, and kill -9 while it is streamed and while it is applied."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import psycopg
from tests.chaos.stage import Lost, Stage, stage

TABLE = "create table huge (id bigint primary key, what text)"
_SUMS = "select count(*)::text, coalesce(sum(id), 0)::text from public.huge"


async def play(folder: Path, seed: int, rows: int) -> dict[str, Any]:
    """Inserts so many rows at once; what it came to. Raises Lost when a copy is not equal."""
    async with stage(folder, seed, more=TABLE, roomy=True) as made:
        began = time.monotonic()
        # The writer's transactions go on meanwhile: they wait behind this one in the stream.
        inserting = asyncio.create_task(asyncio.to_thread(_insert, made, rows))
        await _some(made, inserting)
        inserted = time.monotonic()
        for _ in range(2):
            await asyncio.sleep(made.random.uniform(0.2, 2.0))
            await made.kill()
            await made.start()
            await made.ready()
        token = (await asyncio.to_thread(made.source.execute, "select pg_current_wal_insert_lsn()::text"))[0][
            0
        ]
        await made.reach(str(token), 3600.0)
        applied = time.monotonic()
        peak = _peak(made)
        await made.settle(verify=True, timeout=3600.0)
        wanted = await asyncio.to_thread(made.source.execute, _SUMS, database="shop")
        copies = {
            "copy": await asyncio.to_thread(made.copy.execute, _SUMS, database="copy"),
            "duck": [tuple(row) for row in await made.duck(_SUMS)],
        }
        for name, found in copies.items():
            if found != wanted:
                raise Lost(f"{name}: rows and their sum are {found}, at the source {wanted}")
        return {
            "rows": rows,
            "kills": made.kills,
            "transactions": made.writer.transactions,
            "insert_seconds": round(inserted - began, 1),
            "apply_seconds": round(applied - inserted, 1),
            "peak_mb": peak,
        }


async def _some(made: Stage, inserting: asyncio.Task[None]) -> None:
    """Killed once while the transaction is not committed yet: what was spooled of it is worth nothing."""
    await asyncio.wait([inserting], timeout=made.random.uniform(0.3, 1.5))
    await made.kill()
    await made.start()
    await inserting


def _insert(made: Stage, rows: int) -> None:
    with psycopg.connect(made.source_dsn()) as connection:
        connection.execute(
            "insert into huge select n, 'row ' || n from generate_series(1, %s::bigint) n", [rows]
        )


def _peak(made: Stage) -> int:
    """The most memory that the pipeline's process has had, MB."""
    assert made.process is not None
    status = Path(f"/proc/{made.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
