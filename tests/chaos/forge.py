"""A process that has every library loaded and forks pipelines: each is a process of its own, up in a moment.

It reads orders from standard input, one line of JSON each: {"args": [...], "env": {...}, "log": path}. It answers with
{"started": pid}, and when one ends with {"ended": pid, "status": n} (as `subprocess` gives it: -9 for SIGKILL). When its
standard input closes it kills what it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

_LOADED = (
    "duckdb",
    "pyarrow",
    "walcast.cli.main",
    "walcast.app.service",
    "walcast.engine",
    "walcast.sinks.postgres.sink",
    "walcast.sinks.duckdb.sink",
    "walcast.sinks.jsonl.sink",
    "walcast.sinks.handlers.sink",
    "tests.chaos.handlers",
)


class Process:
    """One pipeline. `ended` is set with its exit status."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def alive(self) -> bool:
        return not self.ended.done()

    def send(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self, number: int = signal.SIGKILL) -> int:
        """Sends the signal, waits until it has ended; its status."""
        self.send(number)
        return await asyncio.wait_for(asyncio.shield(self.ended), 30)


class Forge:
    """Starts pipelines: `async with Forge() as forge: await forge.start(["run"], {}, log)`."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._processes: dict[int, Process] = {}
        self._started: asyncio.Queue[Process] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._forge = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.forge",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._forge.stdin is not None
        self._forge.stdin.close()
        await self._forge.wait()
        await self._reading

    async def start(self, args: list[str], env: dict[str, str], log: Path) -> Process:
        assert self._forge.stdin is not None
        order = {"args": args, "env": env, "log": str(log)}
        self._forge.stdin.write(json.dumps(order).encode() + b"\n")
        return await asyncio.wait_for(self._started.get(), 30)

    async def _read(self) -> None:
        assert self._forge.stdout is not None
        async for line in self._forge.stdout:
            said = json.loads(line)
            if "started" in said:
                process = self._processes[said["started"]] = Process(said["started"])
                self._started.put_nowait(process)
            else:
                self._processes.pop(said["ended"]).ended.set_result(said["status"])


def _say(**said: int) -> None:
    os.write(1, json.dumps(said).encode() + b"\n")


def _reap(*_: Any) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            _children.discard(ended[0])
            _say(ended=ended[0], status=os.waitstatus_to_exitcode(ended[1]))


_children: set[int] = set()


def _become(order: dict[str, Any]) -> None:
    """The child: a `walcast` of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((0, nothing), (1, log), (2, log)):
        os.dup2(target, number)
    os.environ.update(order["env"])
    failpoints = importlib.import_module("walcast.engine.failpoints")
    failpoints.configure(order["env"].get(failpoints.ENVIRONMENT))
    main = importlib.import_module("walcast.cli").main
    sys.argv = ["walcast", *order["args"]]
    main()


def _serve() -> None:
    for name in _LOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, _reap)
    for line in sys.stdin:
        # Its end is told after its start, also when it ends at once.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                _become(json.loads(line))
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _children.add(pid)
        _say(started=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for pid in list(_children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
