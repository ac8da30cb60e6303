"""What goes wrong: one function a fault. Each leaves the stage so that it can come to rest again by itself, or does what
the message tells a person to do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psycopg
from tests.chaos.stage import Lost, Stage

from walcast.engine import failpoints
from walcast.testing.proxy import TcpProxy

Do = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`weight`: how often chance takes it. `kill`: the process dies of it by SIGKILL."""

    name: str
    do: Do
    weight: int = 1
    kill: bool = False


FAULTS: dict[str, Fault] = {}
IN_A_COPY = ("snapshot.begin", "snapshot.part", "table.done.before", "table.done.after")
ELSEWHERE = ("slot.created", "aside.before", "aside.kept", "aside.after")
"""Passed when the slot is made, and where rows are set aside: see tests/faults/test_engine_faults.py."""
_BY_A_SNAPSHOT = (("copy", "entry"), ("duck", "entry"), ("lines", "account"), ("lines", "passing"))
_BY_CHUNKS = (("copy", "account"), ("copy", "passing"), ("duck", "account"), ("duck", "passing"))


def fault(name: str, weight: int = 1, *, kill: bool = False) -> Callable[[Do], Do]:
    def add(do: Do) -> Do:
        FAULTS[name] = Fault(name, do, weight, kill)
        return do

    return add


async def _while(stage: Stage, least: float, most: float) -> None:
    await asyncio.sleep(stage.random.uniform(least, most))


# -- the process


@fault("kill", 60, kill=True)
async def kill(stage: Stage) -> None:
    """At any moment: at work, while it stops, while it starts."""
    if stage.random.random() < 0.25:
        await stage.kill()
        await stage.start()
        await _while(stage, 0, 0.3)
    else:
        await _while(stage, 0, 0.4)
    if stage.random.random() < 0.1 and stage.process is not None:
        stage.process.send(signal.SIGTERM)
        await _while(stage, 0, 0.1)
    await stage.kill()
    await stage.start()


def _at(point: str) -> None:
    async def die(stage: Stage) -> None:
        await stage.kill()
        nth = stage.random.randint(1, 2 if point.startswith(("sink", "prepare", "table", "snapshot")) else 4)
        process = await stage.start(f"{point}=kill@{nth}")
        if point in IN_A_COPY or point == "build.noted":
            await stage.ready()
            sink, table = stage.random.choice(_BY_CHUNKS if point == "build.noted" else _BY_A_SNAPSHOT)
            with contextlib.suppress(Exception):  # it may die while it answers
                await stage.ask("resync", sink=sink, tables=[["public", table]])
        try:
            ended = await asyncio.wait_for(asyncio.shield(process.ended), 6)
        except TimeoutError:
            await stage.kill()
            return
        stage.kills += ended == -9

    fault(f"kill at {point}", 2, kill=True)(die)


for _point in failpoints.FAILPOINTS:
    if _point not in ELSEWHERE:
        _at(_point)


@fault("memory runs out in a handler", 2)
async def out_of_memory(stage: Stage) -> None:
    stage.starve.write_bytes(bytes(stage.random.randint(1, 4)))
    for _ in range(100):
        if not stage.starve.stat().st_size:
            break
        await stage.revive()
        await asyncio.sleep(0.05)
    stage.starve.unlink()
    await _tried_again(
        stage
    )  # the limit is the whole process's: DuckDB may have met it, and stops with the remedy


# -- the servers


@fault("source restarted fast", 2)
async def source_fast(stage: Stage) -> None:
    await asyncio.to_thread(stage.source.stop, "fast", 60)
    await _while(stage, 0, 0.5)
    await asyncio.to_thread(stage.source.start)


@fault("source restarted immediately", 2)
async def source_immediate(stage: Stage) -> None:
    """As after a crash: it recovers from its WAL."""
    await asyncio.to_thread(stage.source.stop, "immediate", 60)
    await _while(stage, 0, 0.5)
    await asyncio.to_thread(stage.source.start)


@fault("source hangs", 1)
async def source_hangs(stage: Stage) -> None:
    stage.source.pause()
    await _while(stage, 0.5, 4)
    stage.source.resume()


@fault("standby promoted", 1)
async def failover(stage: Stage) -> None:
    """The primary is killed at work; its standby has every commit that was acknowledged, and the slot."""
    if stage.standby is None:
        await stage.make_standby()
    standby = stage.standby
    assert standby is not None
    await _synced(stage)
    await _while(stage, 0, 0.5)
    stage.source.kill()
    stage.standby, old, stage.source = None, stage.source, standby
    await asyncio.to_thread(standby.execute, "select pg_promote()")
    await stage.patiently("select 1 where not pg_is_in_recovery()")
    stage.source_proxy.target = ("127.0.0.1", standby.port)
    stage.source_proxy.cut()
    await asyncio.to_thread(old.close)


async def _synced(stage: Stage) -> None:
    """Until the standby has the slot for good."""
    assert stage.standby is not None
    await stage.ready()
    for _ in range(300):
        await asyncio.to_thread(stage.source.execute, "select pg_log_standby_snapshot()")
        found = await asyncio.to_thread(
            stage.standby.execute,
            "select 1 from pg_replication_slots where slot_name = 'chaos' and synced and not temporary",
        )
        if found:
            return
        await stage.revive()
        await asyncio.sleep(0.1)
    raise Lost(f"the slot was not carried over to the standby\n{stage.standby.log()}")


@fault("copy restarted", 2)
async def copy_restarted(stage: Stage) -> None:
    mode = stage.random.choice(("fast", "immediate", "kill"))
    if mode == "kill":
        await asyncio.to_thread(stage.copy.kill)
    else:
        await asyncio.to_thread(stage.copy.stop, mode)  # type: ignore[arg-type]  # one of them
    await _while(stage, 0, 0.5)
    await asyncio.to_thread(stage.copy.start)


# -- the network


def _on_the_line(name: str, harm: Callable[[TcpProxy], None], least: float, most: float) -> None:
    def add(side: str, of: Callable[[Stage], TcpProxy]) -> None:
        async def do(stage: Stage) -> None:
            await _while(stage, 0, 0.2)
            harm(of(stage))
            await _while(stage, least, most)
            of(stage).restore()

        fault(f"line to the {side} {name}", 1)(do)

    add("source", lambda stage: stage.source_proxy)
    add("copy", lambda stage: stage.copy_proxy)


_on_the_line("cut", lambda proxy: proxy.cut(), 0, 0.1)
_on_the_line("refused", lambda proxy: proxy.refuse(), 0.1, 1)
_on_the_line("stalled", lambda proxy: proxy.stall(), 0.3, 4.5)
_on_the_line("stalled towards the server", lambda proxy: proxy.stall("to_server"), 0.3, 4.5)
_on_the_line("delayed", lambda proxy: proxy.delay(0.15), 1, 3)
_on_the_line("half open", lambda proxy: proxy.half_open(), 0.3, 4.5)


# -- the slot


@fault("slot's reader terminated", 2)
async def terminated(stage: Stage) -> None:
    for _ in range(stage.random.randint(1, 3)):
        await stage.patiently(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null"
        )
        await _while(stage, 0, 0.3)


@fault("slot dropped", 1)
async def slot_dropped(stage: Stage) -> None:
    """The changes since are gone: it must stop and say so; then everything is copied anew, as it says."""
    await _drop_slot(stage)
    await _copied_anew(stage)


@fault("slot made anew behind its back", 1)
async def slot_made_anew(stage: Stage) -> None:
    """Changes between the two slots are gone, and nothing looks wrong."""
    await stage.kill()
    await _while(stage, 0.1, 0.3)
    await _drop_slot(stage)
    await _while(stage, 0.1, 0.3)
    await stage.patiently("select pg_create_logical_replication_slot('chaos', 'pgoutput')")
    await stage.start()
    await _copied_anew(stage)


@fault("slot invalidated", 1)
async def slot_invalidated(stage: Stage) -> None:
    """The server's own limit: more WAL than it was to keep."""
    await stage.kill()
    await asyncio.to_thread(stage.source.reload, {"max_slot_wal_keep_size": "1MB"})
    for _ in range(100):
        await stage.patiently("select pg_switch_wal()")
        await stage.patiently("create table if not exists filler (n int); drop table filler")
        await stage.patiently("checkpoint")
        if await stage.patiently(
            "select 1 from pg_replication_slots where slot_name = 'chaos' and wal_status = 'lost'"
        ):
            break
    else:
        raise Lost("the slot was not invalidated")
    await asyncio.to_thread(stage.source.reload, {"max_slot_wal_keep_size": "-1"})
    await stage.start()
    await _copied_anew(stage)


async def _drop_slot(stage: Stage) -> None:
    while await stage.patiently("select 1 from pg_replication_slots where slot_name = 'chaos'"):
        with contextlib.suppress(psycopg.Error):
            await asyncio.to_thread(
                stage.source.execute,
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'chaos'",
            )
            await asyncio.to_thread(stage.source.execute, "select pg_drop_replication_slot('chaos')")


async def _copied_anew(stage: Stage) -> None:
    """What the message says: resync everything, start again. It must have stopped by itself, with the operator's code."""
    assert stage.process is not None
    try:
        ended = await asyncio.wait_for(asyncio.shield(stage.process.ended), 60)
    except TimeoutError:
        raise Lost(f"it went on without its slot\n{stage.tail()}") from None
    if ended != 3:
        raise Lost(f"it ended with {ended} instead of saying what to do\n{stage.tail()}")
    await _drop_slot(stage)
    await asyncio.to_thread(stage.handled.forget)
    if code := await stage.command("resync", "--all"):
        raise Lost(f"walcast resync --all ended with {code}\n{stage.tail()}")
    await stage.start()
    await stage.ready()


# -- disks


@fault("spool disk full", 1)
async def spool_full(stage: Stage) -> None:
    stage.spool.fill()
    async with stage.writer.lock:
        with contextlib.suppress(psycopg.Error):
            await asyncio.to_thread(_flood, stage, 4_000)
    await _while(stage, 0.3, 1)
    stage.spool.free()


@fault("disk of DuckDB and JSON Lines full", 1)
async def sinks_full(stage: Stage) -> None:
    """They stop with the remedy; a person makes room and says so."""
    stage.disk.fill()
    await _while(stage, 0.5, 1.5)
    stage.disk.free()
    await _tried_again(stage)


@fault("disk of the copy full", 1)
async def copy_full(stage: Stage) -> None:
    stage.tablespace.fill()
    async with stage.writer.lock:
        with contextlib.suppress(psycopg.Error):
            await asyncio.to_thread(_flood, stage, 3_000)
    await _while(stage, 0.5, 1.5)
    stage.tablespace.free()
    await _tried_again(stage)


def _flood(stage: Stage, rows: int) -> None:
    with psycopg.connect(stage.source_dsn()) as connection:
        connection.execute(
            "insert into passing select -n, repeat('f', 300) from generate_series(1, %s::int) n", [rows]
        )
        connection.execute("delete from passing where id < 0")


async def _tried_again(stage: Stage) -> None:
    """`walcast reload`: stopped sinks are tried again. A pipeline of which nothing was left has ended, and is started."""
    for _ in range(40):
        await stage.revive()
        with contextlib.suppress(Exception):
            await stage.ask("reload")
            if all(sink["state"] != "stopped" for sink in (await stage.ask("status"))["sinks"]):
                return
        await asyncio.sleep(0.1)
    raise Lost(f"a sink stays stopped\n{stage.tail()}")


# -- the data, and the time


@fault("constraint of the copy violated", 1)
async def constraint(stage: Stage) -> None:
    """Somebody adds a constraint to the copy that the source does not have, and takes it away when it is told."""
    with psycopg.connect(stage.copy.dsn("copy"), autocommit=True) as connection:
        connection.execute(
            "set lock_timeout = '10s'; alter table account add constraint chaos check (n < -1) not valid"
        )
        await _while(stage, 0.3, 1)
        connection.execute("alter table account drop constraint chaos")
    await _tried_again(stage)
    with contextlib.suppress(Exception):
        await stage.ready(5)
    status = await stage.ask("status")
    stopped = [sink for sink in status["sinks"] if sink["stopped_tables"]]
    for sink in stopped:
        for table in sink["stopped_tables"]:
            await stage.command("resync", table["table"], "--sink", sink["name"])


@fault("a column added with a computed default", 1)
async def column(stage: Stage) -> None:
    """What older rows hold in it is not sent: they come again, chunk by chunk, while everything goes on."""
    # Each has a name of its own: that a column was dropped and one like it added cannot always be told from outside.
    number = stage.writer.serial(1)
    await stage.patiently(f"alter table account add column made{number} float8 default random()")
    if stage.random.random() < 0.5:
        await _while(stage, 0, 1)
        await stage.kill()


@fault("clock jumps", 2)
async def clock(stage: Stage) -> None:
    """Days to and fro, at the source (whose commits carry the time) and in the pipeline."""
    stage.clock.set(stage.random.choice((-1, 1)) * stage.random.randint(1, 400) * 86_400)
    await _while(stage, 0.2, 1)
    stage.clock.set(0)


@fault("a huge transaction", 1)
async def huge(stage: Stage) -> None:
    async with stage.writer.lock:
        await asyncio.to_thread(_flood, stage, stage.random.choice((20_000, 40_000)))
    if stage.random.random() < 0.5:
        await _while(stage, 0, 0.5)
        await stage.kill()


@fault("a thousand subtransactions, half aborted", 1)
async def subtransactions(stage: Stage) -> None:
    async with stage.writer.lock:
        with contextlib.suppress(psycopg.Error):
            await asyncio.to_thread(_thousand, stage)
    if stage.random.random() < 0.5:
        await stage.kill()


def _thousand(stage: Stage) -> None:
    base = stage.writer.serial(2_000)
    with psycopg.connect(stage.source_dsn()) as connection:
        for number in range(1_000):
            connection.execute("savepoint s")
            connection.execute(
                "insert into passing values (%s, repeat('s', 100)), (%s, 'sub')",
                [base + 2 * number, base + 2 * number + 1],
            )
            connection.execute("rollback to s" if number % 2 else "release s")


def choose(stage: Stage, only: tuple[str, ...]) -> Fault:
    """One of them, by their weights; `only`: those whose name contains one of these words."""
    left = [f for f in FAULTS.values() if not only or any(word in f.name for word in only)]
    return stage.random.choices(left, [f.weight for f in left])[0]
