"""COPY OUT on threads: workers read pieces of tables under one snapshot and hand over chunks, bounded in bytes.

    pieces -> worker threads (a connection each) -> at most `limit` chunks -> the event loop

A worker that finds no room waits, and the server with it: nothing piles up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from walcast.decode import make_copy_reader
from walcast.decode.frames import Frames, RelationTuple
from walcast.postgres.connect import Connection
from walcast.postgres.control import hang_up


@dataclass(frozen=True, slots=True)
class Piece:
    """A table, or a range of its pages. `table` is its number in the snapshot's order."""

    table: int
    relation: RelationTuple
    statement: bytes
    format: Literal["binary", "text"]


class Chunk(NamedTuple):
    """Rows of a piece; `frames` is None when the piece is finished. `nbytes` is what the server sent."""

    piece: Piece
    frames: Frames | None
    nbytes: int


class CopyWorkers:
    """Threads over open connections whose transactions see the snapshot. The connections stay the caller's."""

    def __init__(
        self,
        connections: Sequence[Connection],
        pieces: Sequence[Piece],
        *,
        lsn: int,
        chunk_bytes: int,
        chunk_rows: int,
        limit: int,
    ) -> None:
        self._connections = [c.pgconn for c in connections]
        self._pieces = iter(pieces)
        self._lsn = lsn
        self._chunk_bytes = chunk_bytes
        self._chunk_rows = chunk_rows
        self._room = threading.Semaphore(limit)
        self._lock = threading.Lock()
        self._stopping = False
        self._queue: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, args=(pgconn,), name=f"walcast-copy-{n}", daemon=True)
            for n, pgconn in enumerate(self._connections)
        ]

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Every chunk of every piece; a piece's end comes after its last rows. Raises what a worker raised."""
        for thread in self._threads:
            thread.start()
        running = len(self._threads)
        while running:
            item = await self._queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
                if item.frames is not None:
                    self._room.release()

    async def stop(self) -> None:
        """Ends the threads; those in the middle of a COPY have their connection cut."""
        self._stopping = True
        for thread, pgconn in zip(self._threads, self._connections, strict=True):
            self._room.release()
            if thread.is_alive():
                hang_up(pgconn)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, pgconn: PGconn) -> None:
        try:
            while (piece := self._next()) is not None:
                self._copy(pgconn, piece)
        except BaseException as error:
            self._post(error)
        else:
            self._post(None)

    def _next(self) -> Piece | None:
        with self._lock:
            return None if self._stopping else next(self._pieces, None)

    def _copy(self, pgconn: PGconn, piece: Piece) -> None:
        _expect(pgconn, pgconn.exec_(piece.statement), ExecStatus.COPY_OUT)
        reader = make_copy_reader(pgconn, piece.relation, piece.format, self._lsn)
        ended = False
        while not ended:
            frames, nbytes, ended = reader.read(self._chunk_bytes, self._chunk_rows)
            if len(frames) > 0:
                self._hand_over(Chunk(piece, frames, nbytes))
        while (result := pgconn.get_result()) is not None:
            _expect(pgconn, result, ExecStatus.COMMAND_OK)
        self._post(Chunk(piece, None, 0))

    def _hand_over(self, chunk: Chunk) -> None:
        self._room.acquire()
        if self._stopping:
            raise asyncio.CancelledError
        self._post(chunk)

    def _post(self, item: Chunk | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


def _expect(pgconn: PGconn, result: PGresult, status: ExecStatus) -> None:
    if result.status == status:
        return
    if result.error_field(DiagnosticField.SQLSTATE):
        raise error_from_result(result)
    raise psycopg.OperationalError(pgconn.get_error_message())  # libpq's own: the connection was lost
