"""A double of PostgreSQL's walsender that lies.

A real server stands behind it and answers everything until the stream begins, so that whatever reads from here has
checked its slot, its tables and its rights as always. From then on every message of the stream goes through `lie`, which
gives the bytes to send instead: also such as no server would ever frame.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final, Self

Lie = Callable[[bytes], Sequence[bytes]]
"""The payload of a CopyData to what goes over the wire in its place: framed by `copy_data`, or framed wrongly."""

_REFUSABLE: Final = {80877103, 80877104}
"""SSLRequest, GSSENCRequest."""


def copy_data(payload: bytes) -> bytes:
    return b"d" + struct.pack(">I", len(payload) + 4) + payload


def honest(payload: bytes) -> Sequence[bytes]:
    return [copy_data(payload)]


class HostilePublisher:
    """Listens on `port`; `lie` may be changed while it runs. `told` counts messages of streams."""

    def __init__(self, host: str, port: int, lie: Lie = honest) -> None:
        self.lie = lie
        self.told = 0
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            startup = self._startup(client)
            server.sendall(startup)
            threading.Thread(target=_pass_on, args=[client, server], daemon=True).start()
            if b"replication\0" in startup:
                self._tell(server, client)
            else:
                _pass_on(server, client)

    def _startup(self, client: socket.socket) -> bytes:
        while True:
            length, code = struct.unpack(">II", head := _exactly(client, 8))
            if code not in _REFUSABLE:
                return head + _exactly(client, length - 8)
            client.sendall(b"N")

    def _tell(self, server: socket.socket, client: socket.socket) -> None:
        """The server's messages one by one; those of the stream as `lie` has them."""
        streaming = False
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = _exactly(server, 5)
                body = _exactly(server, struct.unpack(">I", head[1:])[0] - 4)
                if streaming and head[:1] == b"d":
                    self.told += 1
                    for lie in self.lie(body):
                        client.sendall(lie)
                else:
                    streaming |= head[:1] == b"W"
                    client.sendall(head + body)
        _end(client)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _end(sink)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (more := source.recv(size - len(found))):
            raise EOFError
        found += more
    return found
