"""The control socket of a running pipeline: a Unix socket in its state directory, one line of JSON each way.

    {"method": "status", "params": {}}   ->   {"ok": true, "result": ...}
                                         or   {"ok": false, "error": {"code", "message", "hint"}}

Only its owner may open it (0600). The commands use it while the pipeline runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from walcast.engine.policy import classify
from walcast.engine.status import plain
from walcast.model import OperatorError, WalcastError

SOCKET = "control.sock"
LINE_LIMIT = 64 << 20
"""The longest request or answer, bytes."""
_PATH_LIMIT = 100

log = logging.getLogger("walcast.engine")
Handler = Callable[[dict[str, Any]], Awaitable[Any]]


class NotRunning(OperatorError):
    """No pipeline runs on that state directory."""


class ControlError(OperatorError):
    """The pipeline's answer is an error. `remote` is the name of the class that it had there."""

    def __init__(self, message: str, *, remote: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.remote = remote

    @property
    def code(self) -> str:
        return self.remote


class ControlServer:
    """Serves registered handlers. A handler takes the request's params and returns what JSON can hold."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._handlers: dict[str, Handler] = {}
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    def register(self, method: str, handler: Handler) -> None:
        self._handlers[method] = handler

    async def start(self) -> None:
        """Call it as the owner of the state directory: a socket left by a killed process is replaced."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._state_dir / SOCKET)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _reachable(self._state_dir) as path:
                listener.bind(path)
            os.chmod(self._state_dir / SOCKET, 0o600)  # before listen: nobody gets in earlier
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_LIMIT)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._state_dir / SOCKET)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(json.dumps(plain(answer), default=str).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # the client went away, sent an endless line, or the pipeline ends
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            method, params = request["method"], request.get("params") or {}
        except (ValueError, KeyError, TypeError, AttributeError):
            return _failed("BadRequest", "not a request", 'send {"method": ..., "params": {...}}')
        handler = self._handlers.get(method)
        if handler is None:
            return _failed("BadRequest", f"no method {method!r}", f"methods: {', '.join(self._handlers)}")
        try:
            return {"ok": True, "result": await handler(params)}
        except Exception as error:
            if not isinstance(error, WalcastError):
                log.debug("control_failed", exc_info=error, extra={"method": method})
            verdict = classify(error)
            return _failed(verdict.code, verdict.message, verdict.remedy)


async def call(
    state_dir: str | Path, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = 10.0
) -> Any:
    """Asks the pipeline that runs on this state directory. Raises NotRunning, ControlError, TimeoutError."""
    folder = Path(state_dir)
    async with asyncio.timeout(timeout):
        try:
            with _reachable(folder) as path:
                reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
        except (FileNotFoundError, ConnectionRefusedError):
            raise _not_running(folder) from None
        try:
            writer.write(_request(method, params))
            await writer.drain()
            line = await reader.readline()
        except ConnectionError:
            line = b""
        finally:
            writer.close()
    return _result(folder, line)


def call_blocking(
    state_dir: str | Path, method: str, params: dict[str, Any] | None = None, *, timeout: float = 10.0
) -> Any:
    """The same for a program that is not async. `timeout` bounds each wait for the socket."""
    folder = Path(state_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            with _reachable(folder) as path:
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise _not_running(folder) from None
        try:
            connection.sendall(_request(method, params))
            with connection.makefile("rb") as answer:
                line = answer.readline(LINE_LIMIT)
        except ConnectionError:
            line = b""
    return _result(folder, line)


def _request(method: str, params: dict[str, Any] | None) -> bytes:
    return json.dumps({"method": method, "params": params or {}}).encode() + b"\n"


def _not_running(folder: Path) -> NotRunning:
    return NotRunning(f"no pipeline runs on {folder}", hint="start it with `walcast run`")


def _result(folder: Path, line: bytes) -> Any:
    if not line.endswith(b"\n"):
        raise NotRunning(f"the pipeline on {folder} ended", hint="see its log")
    answer = json.loads(line)
    if answer["ok"]:
        return answer["result"]
    error = answer["error"]
    raise ControlError(error["message"], remote=error["code"], hint=error["hint"])


def _failed(code: str, message: str, hint: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": message, "hint": hint}}


@contextlib.contextmanager
def _reachable(folder: Path) -> Iterator[str]:
    """The socket's path in a form short enough for the kernel (108 bytes), however deep the folder is."""
    path = str(folder / SOCKET)
    if len(path.encode()) <= _PATH_LIMIT:
        yield path
        return
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not os.path.isdir(f"/proc/self/fd/{file}"):
            raise OperatorError(f"the path {path} is too long for a socket", hint="set a shorter state_dir")
        yield f"/proc/self/fd/{file}/{SOCKET}"
    finally:
        os.close(file)
