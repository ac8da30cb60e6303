"""A TCP proxy that fails on request: what a bad network does to a connection, at the moment a test names."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Final, Literal, Self, TypeVar

Direction = Literal["both", "to_server", "to_client"]

T = TypeVar("T")
_CHUNK: Final = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST."""


class TcpProxy:
    """Forwards a local port to (host, port), in a thread of its own.

    It listens on `listen` (0: a free one; then `port` says which). Faults last until `restore()`. `to_server` and `to_client` count forwarded bytes, `connections` those ever accepted.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.port = listen
        self.to_server = 0
        self.to_client = 0
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._half_open = False
        self._gates: dict[str, asyncio.Event] = {}

    def start(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def close(self) -> None:
        """Cuts everything and ends the thread. Safe to call twice."""
        if not self._thread.is_alive():
            return
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Resets every connection (RST to both sides); new ones are accepted."""
        self._call(self._cut())

    def refuse(self) -> None:
        """Resets every connection and stops listening: "connection refused" until `restore`."""
        self._call(self._refuse())

    def stall(self, direction: Direction = "both") -> None:
        """Stops forwarding, and reading: buffers fill up, nothing is lost, nothing is closed."""
        self._call(self._stall(direction))

    def delay(self, seconds: float) -> None:
        """Holds every chunk back by so much, in both directions."""
        self._delay = seconds

    def half_open(self) -> None:
        """The server's side is closed; the client is told nothing: no FIN, no RST, no data."""
        self._call(self._half())

    def restore(self) -> None:
        """Back to normal, on the same port; connections that were half open are reset."""
        self._call(self._restore())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _call(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        if not self._gates:
            self._gates = {"to_server": asyncio.Event(), "to_client": asyncio.Event()}
            for gate in self._gates.values():
                gate.set()
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, there[1])
        self._links.add(link)
        for direction, source, sink in (("to_server", reader, there[1]), ("to_client", there[0], writer)):
            task = asyncio.ensure_future(self._pump(link, direction, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, link: _Link, direction: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        gate = self._gates[direction]
        with contextlib.suppress(OSError):
            while True:
                await gate.wait()
                data = await source.read(_CHUNK)
                if self._delay:
                    await asyncio.sleep(self._delay)
                await gate.wait()
                if self._half_open:
                    return
                if not data:
                    break
                sink.write(data)
                await sink.drain()
                setattr(self, direction, getattr(self, direction) + len(data))
        if not self._half_open:
            sink.close()
            link.ended += 1
            if link.ended == 2:
                self._links.discard(link)

    async def _stall(self, direction: Direction) -> None:
        for name, gate in self._gates.items():
            if direction in ("both", name):
                gate.clear()

    async def _half(self) -> None:
        self._half_open = True
        for link in self._links:
            _reset(link.server)

    async def _cut(self) -> None:
        for link in self._links:
            _reset(link.client)
            _reset(link.server)
        self._links.clear()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _restore(self) -> None:
        if self._half_open:
            await self._cut()
        self._half_open = False
        self._delay = 0.0
        for gate in self._gates.values():
            gate.set()
        if self._server is None:
            await self._listen()

    async def _shut(self) -> None:
        await self._refuse()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets the transports close


class _Link:
    """One client connection and its counterpart."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.ended = 0


def _reset(writer: asyncio.StreamWriter) -> None:
    handle = writer.get_extra_info("socket")
    if handle is not None:
        with contextlib.suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
