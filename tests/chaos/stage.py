"""The servers, the proxies and the pipeline's process, and how all of them come to rest."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from tests.chaos import copies
from tests.chaos.disks import Clock, SmallDisk
from tests.chaos.forge import Forge, Process
from tests.chaos.handlers import FILE, STARVE
from tests.chaos.writer import SCHEMA, Writer

from walcast.app.verifying import Wanted
from walcast.engine import ControlError, NotRunning, call, failpoints
from walcast.engine.tasks import beside
from walcast.postgres.local import find
from walcast.testing.postgres import PostgresServer
from walcast.testing.proxy import TcpProxy

_SOURCE = {
    "max_wal_size": "256MB",
    "logical_decoding_work_mem": "64kB",
    "wal_sender_timeout": "3s",
    "wal_receiver_timeout": "3s",
    "hot_standby_feedback": "on",
    "max_prepared_transactions": 5,
}
_CONFIG = """
[pipeline]
name = "chaos"
state_dir = "{folder}/state"
memory = "16MB"

[engine]
stall_limit = "3s"
backoff_first = "50ms"
backoff_most = "500ms"

[source]
dsn = "{source}"
slot = "chaos"
publication = "chaos"
include = ["public.*"]
failover = {failover}
part_bytes = "64kB"
spool_memory = "64kB"
logical_decoding_work_mem = "64kB"
spool_dir = "{spool}"
status_interval = "1s"
receive_timeout = "3s"
snapshot_chunk_rows = 100

[log]
format = "json"

[sinks.copy]
type = "postgres"
dsn = "{copy}"

[sinks.duck]
type = "duckdb"
path = "{disk}/copy.duckdb"
threads = 1

"""
_LOGS = """
[sinks.lines]
type = "jsonl"
directory = "{disk}/lines"
rotate_bytes = "512kB"

[sinks.hands]
type = "handlers"
handlers = "tests.chaos.handlers:handlers"
concurrency = 4
backoff = "50ms"
retries = 8
"""
_EXACT = ("copy", "duck")
"""The copies that have transactions: what `walcast verify` compares."""


class Lost(AssertionError):
    """A copy does not equal the source, or the pipeline did not come back: what chaos is looking for."""


class Stage:
    """Everything there is. `say` tells what happens; `random` is seeded."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.source: PostgresServer
        self.standby: PostgresServer | None = None
        self.copy: PostgresServer
        self.source_proxy: TcpProxy
        self.copy_proxy: TcpProxy
        self.spool: SmallDisk
        self.disk: SmallDisk
        self.tablespace: SmallDisk
        self.clock: Clock
        self.forge: Forge
        self.writer: Writer
        self.process: Process | None = None
        self.log = folder / "pipeline.log"
        self.starve = folder / "starve"
        self.kills = 0
        self.checks = 0
        self.verified = 0
        """Comparisons by `walcast verify`."""
        self.logs = True
        """There are JSON Lines and handlers as well."""
        self.lines: copies.JsonLines
        self.handled = copies.Handled(folder / "handled")
        self._restarting: asyncio.Task[None] | None = None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    # -- the pipeline's process

    async def start(self, death: str = "") -> Process:
        """Starts `walcast run`; `death` is a failpoint's plan."""
        env = {failpoints.ENVIRONMENT: death, FILE: str(self.folder / "handled"), STARVE: str(self.starve)}
        args = ["-c", str(self.folder / "walcast.toml"), "run"]
        self.process = await self.forge.start(args, env, self.log)
        return self.process

    async def kill(self) -> None:
        """kill -9, at whatever it is doing."""
        if self.process is not None and self.process.alive:
            await self.process.kill()
            self.kills += 1

    async def command(self, *args: str) -> int:
        """A `walcast` command, run to its end; its exit code."""
        process = await self.forge.start(["-c", str(self.folder / "walcast.toml"), *args], {}, self.log)
        return await asyncio.wait_for(process.ended, 60)

    async def ask(self, method: str, within: float = 10.0, **params: Any) -> Any:
        return await call(self.state, method, params, timeout=within)

    async def ready(self, timeout: float = 60.0) -> dict[str, Any]:
        """Waits until every sink streams."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(NotRunning, ControlError, TimeoutError):
                status: dict[str, Any] = await self.ask("status", 3, fresh=False)
                if all(sink["state"] == "streaming" for sink in status["sinks"]):
                    return status
            await self.revive()
            await asyncio.sleep(0.02)
        raise Lost(f"the pipeline did not come back within {timeout:g} s\n{self.tail()}")

    async def revive(self) -> None:
        """What a service manager does: starts it again when it has ended."""
        if not self.alive:
            if self.process is not None:
                await asyncio.sleep(0.02)
            await self.start()

    # -- rest, and the look at the copies

    async def settle(self, *, whole: bool = False, verify: bool | None = None, timeout: float = 60.0) -> None:
        """Holds the writer, waits until every copy has what was written, and compares: in a way of its own, and (`verify`, by
        default when it is `whole`) by `walcast verify`. Raises Lost."""
        async with self.writer.lock:
            token = str(
                (await asyncio.to_thread(self.source.execute, "select pg_current_wal_insert_lsn()::text"))[0][
                    0
                ]
            )
            await self.reach(token, timeout)
            await self.compare(whole=whole)
            if whole if verify is None else verify:
                await self.verify(timeout)
        self.checks += 1

    async def verify(self, timeout: float = 60.0) -> None:
        """Every copy that has transactions is equal, says Walcast itself. Raises Lost."""
        async with beside(self._tick()):
            await asyncio.gather(*(self._verify(sink, timeout) for sink in _EXACT))
        self.verified += 1

    async def _tick(self) -> None:
        """Commits now and then. A fence lies where the source's WAL ends, and a server that is idle, and whose clock was set
        back, flushes nothing before that time has come again."""
        statement = "select pg_logical_emit_message(true, 'tick', '')"
        while True:
            with contextlib.suppress(psycopg.Error):
                await asyncio.to_thread(self.source.execute, statement, database="shop")
            await asyncio.sleep(0.2)

    async def _verify(self, sink: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        found: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                found = await self._compared(sink)
            except (
                NotRunning,
                ControlError,
                TimeoutError,
            ) as error:  # it has died, or is just being opened again
                found = {"error": repr(error)}
                await self.revive()
                await asyncio.sleep(0.05)
                continue
            if found["state"] == "equal":
                return
            if found["state"] == "different":
                break
        raise Lost(f"{sink}, by walcast verify: {json.dumps(found)}\n{self.tail()}")

    async def _compared(self, sink: str) -> dict[str, Any]:
        """The report of `walcast verify`, asked as the command asks for it."""
        await self.ask("verify_start", **dataclasses.asdict(Wanted(sink, values=True)))
        while (now := await self.ask("verify_look", sink=sink))["running"]:  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.02)
        if now["report"] is None:
            error = now["error"] or {"message": "it was ended", "code": "CancelledError"}
            raise ControlError(error["message"], remote=error["code"])
        report: dict[str, Any] = now["report"]
        return report

    async def reach(self, token: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        problem: object = None
        while time.monotonic() < deadline:
            try:
                await self.ask("wait", 5, lsn=token, timeout=4)
            except (NotRunning, ControlError, TimeoutError) as error:
                problem = error
                await self.revive()
                await asyncio.sleep(0.02)
            else:
                return
        raise Lost(f"the copies did not reach {token} within {timeout:g} s: {problem!r}\n{self.tail()}")

    async def compare(self, *, whole: bool = False) -> None:
        source = await copies.of_postgres(self.source.dsn("shop"))
        found: dict[str, list[str]] = {}
        found["copy"] = copies.differences(source, await copies.of_postgres(self.copy.dsn("copy")))
        found["duck"] = copies.differences(source, await copies.of_duckdb(self.duck))
        if self.logs:
            rows, wrong = await asyncio.to_thread(self.lines.look, whole=whole)
            found["lines"] = wrong + copies.differences(source, rows)
            found["hands"] = copies.differences(source, await asyncio.to_thread(self.handled.look))
        lost = [f"{name}: {line}" for name, lines in found.items() for line in lines]
        if lost:
            raise Lost("\n".join([*lost, self.tail()]))

    async def duck(self, statement: str) -> list[list[str | None]]:
        """Asks the copy in DuckDB."""
        for _ in range(100):
            try:
                return (await self.ask("query", 30, sink="duck", args=[statement]))[1]  # type: ignore[no-any-return]  # rows
            except (NotRunning, ControlError):  # it is just being opened again
                await self.revive()
                await asyncio.sleep(0.05)
        raise Lost(f"DuckDB cannot be asked\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """The end of the pipeline's log."""
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )

    # -- the source

    def source_dsn(self) -> str:
        return self.source.dsn("shop")

    async def make_standby(self) -> None:
        """A standby to which the failover slot is carried over, and which acknowledges every commit: nothing that a
        writer was told is lost with the primary, and no copy gets ahead of it."""
        primary = self.source
        settings = {
            "sync_replication_slots": "on",
            "synchronized_standby_slots": "",
            "synchronous_standby_names": "",
        }
        self.standby = await asyncio.to_thread(primary.standby, "standby", settings)
        await asyncio.to_thread(
            primary.reload,
            {"synchronized_standby_slots": "standby_slot", "synchronous_standby_names": "standby"},
        )

    def close_servers(self) -> None:
        for server in (self.standby, self.source):
            if server is not None:
                server.close()

    async def patiently(self, statement: str, timeout: float = 20.0) -> list[tuple[Any, ...]]:
        """Runs it at the source, again while the server is not ready for it."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return await asyncio.to_thread(self.source.execute, statement, database="shop")  # type: ignore[arg-type]  # constants
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def stage(
    folder: Path, seed: int, *, death: str = "", more: str = "", roomy: bool = False
) -> AsyncIterator[Stage]:
    """Servers started, the first copy made, the writer at work. `more`: SQL, what the source holds besides; `roomy`: only the
    copies that have transactions, on disks of any size."""
    made = Stage(folder, seed)
    made.logs = not roomy
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    made.clock = Clock(folder / "clock")
    async with contextlib.AsyncExitStack() as stack:
        sizes = (None, None, None) if roomy else (48 << 20, 768 << 20, 64 << 20)
        made.spool = stack.enter_context(SmallDisk(folder / "spool", sizes[0]))
        made.disk = stack.enter_context(SmallDisk(folder / "disk", sizes[1]))
        made.tablespace = stack.enter_context(SmallDisk(folder / "tablespace", sizes[2]))
        made.source = PostgresServer(binaries=find(18, tools=("pg_basebackup",)), settings=_SOURCE)
        stack.callback(made.close_servers)  # whichever they are by then
        made.copy = PostgresServer(18, settings={"max_wal_size": "256MB"})
        stack.callback(made.copy.close)
        await asyncio.gather(asyncio.to_thread(made.source.start), asyncio.to_thread(made.copy.start))
        made.source.stop()
        made.source.binaries = made.clock.programs(made.source.binaries, folder / "bin")
        made.source.start()
        _load(made, more)
        made.source_proxy = stack.enter_context(TcpProxy("127.0.0.1", made.source.port))
        made.copy_proxy = stack.enter_context(TcpProxy("127.0.0.1", made.copy.port))
        _configure(made)
        made.lines = copies.JsonLines(made.disk.folder / "lines")
        made.forge = await stack.enter_async_context(Forge(made.clock.environment))
        await made.start(death)
        if death:
            assert made.process is not None
            await asyncio.wait_for(made.process.ended, 30)
            made.kills += 1
        await made.ready()
        made.writer = await stack.enter_async_context(Writer(made.source_dsn, made.random.randrange(1 << 30)))
        yield made
        if made.alive:
            assert made.process is not None
            await made.process.kill(15)


def _load(made: Stage, more: str) -> None:
    made.source.execute("create database shop")
    for statements in filter(None, (SCHEMA, more)):
        made.source.execute(statements, database="shop")  # type: ignore[arg-type]  # our own
    made.copy.execute("create database copy")
    if made.tablespace.real:
        (made.tablespace.folder / "data").mkdir()
        shutil.chown(made.tablespace.folder / "data", "nobody", "nogroup")
        place = made.tablespace.folder / "data"
        made.copy.execute(sql.SQL("create tablespace small location {}").format(str(place)))
        made.copy.execute("alter database copy set default_tablespace = small")


def _configure(made: Stage) -> None:
    text = (_CONFIG + (_LOGS if made.logs else "")).format(
        folder=made.folder,
        spool=made.spool.folder,
        disk=made.disk.folder,
        failover="true",
        source=made.source.dsn("shop", via="tcp", port=made.source_proxy.port),
        copy=made.copy.dsn("copy", via="tcp", port=made.copy_proxy.port),
    )
    (made.folder / "walcast.toml").write_text(text)
    (made.folder / "walcast.toml").chmod(0o600)


def summary(**said: Any) -> str:
    return json.dumps(said, default=str)


def temporary(name: str) -> Path:
    """A folder that the servers' user can reach."""
    return Path(f"/tmp/walcast-chaos-{name}-{os.getpid()}")
