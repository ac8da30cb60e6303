"""The twin's reader: a thread over a psycopg connection in COPY BOTH."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import weakref
from collections import deque
from struct import Struct
from typing import Any

from walcast.decode.frames import Delivery
from walcast.decode.twin.assembler import PyAssembler
from walcast.decode.twin.fault import DecodeFault
from walcast.decode.twin.frames import PyFrames
from walcast.decode.twin.wire import Keepalive
from walcast.model import SpoolFull

_STATUS = Struct(">cQQQqB")
"""r, written, flushed, applied, microseconds since 2000, whether a reply is wanted."""
_EPOCH_2000 = 946_684_800
_MESSAGES_A_ROUND = 500
_BUSY_MESSAGES = 1_000
_BUSY_WINDOW = 0.010
_JOIN_SECONDS = 5.0


class PyReader:
    """See `walcast.decode.frames.Reader`.

    Parameters
    ----------
    pgconn
        the psycopg `PGconn` (the native reader takes its address); `symbols` and `linger_us` are the native reader's
    after_through
        the flush position to report first
    budget_bytes
        reading waits while live batches hold this much; status messages go on
    busy_wait_ms
        how long whole transactions wait for more of them while the stream is busy
    status_interval_ms, idle_interval_ms
        how often to report the flush position, and to deliver an idle LSN that moved

    The rest is the assembler's.
    """

    def __init__(
        self,
        pgconn: Any,
        symbols: dict[str, int],
        *,
        protocol: int,
        streaming: bool,
        after_through: int,
        budget_bytes: int,
        part_bytes: int,
        batch_bytes: int,
        linger_us: int,
        busy_wait_ms: int,
        spool_dir: str,
        spool_memory: int,
        spool_limit: int,
        status_interval_ms: int,
        idle_interval_ms: int,
    ) -> None:
        self._pgconn = pgconn
        self._assembler = PyAssembler(
            protocol, streaming, part_bytes, batch_bytes, spool_dir, spool_memory, spool_limit, after_through
        )
        self._outbox = _Outbox(budget_bytes)
        self._busy_wait = busy_wait_ms / 1e3
        self._status_interval = status_interval_ms / 1e3
        self._idle_interval = idle_interval_ms / 1e3
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="walcast-reader", daemon=True)
        self._lock = threading.Lock()
        self._stopping = False
        self._flushed = after_through
        self._confirmed = False
        self._poked = False
        self._received = after_through
        self._reported = after_through
        self._status_at = self._idle_at = 0.0
        self._awaiting_poke = False
        self._sending = False
        self._messages = self._bytes = 0
        self._last_message = 0.0
        self._arrivals: deque[float] = deque(maxlen=_BUSY_MESSAGES)
        self._whole_since: float | None = None

    def start(self) -> None:
        self._pgconn.nonblocking = 1
        self._status_at = self._idle_at = time.monotonic()
        self._thread.start()

    def fileno(self) -> int:
        return self._outbox.fd

    def take(self) -> list[Delivery]:
        return self._outbox.take()

    def confirm(self, lsn: int) -> None:
        with self._lock:
            self._flushed = max(self._flushed, lsn)
            self._confirmed = True
        self._notify()

    def poke(self) -> None:
        with self._lock:
            self._poked = True
        self._notify()

    def stop(self) -> None:
        self._stopping = True
        self._notify()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def stats(self) -> dict[str, int]:
        return {
            "messages": self._messages,
            "bytes": self._bytes,
            "budget_used": self._outbox.used,
            "spooled_bytes": self._assembler.spooled,
            "received_lsn": self._received,
            "last_message_unix_us": int(self._last_message * 1e6),
        }

    def __del__(self) -> None:
        os.close(self._wake)

    def _notify(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            error = self._loop()
        except DecodeFault as fault:
            error = ("protocol", None, str(fault))
        except SpoolFull as full:
            error = ("spool_full", None, full.message)
        except Exception as broken:  # libpq's errors, whose class depends on psycopg's implementation
            error = ("closed", None, str(broken).strip() or "the connection was lost")
        self._assembler.seal()
        self._hand_over()
        self._assembler.close()
        self._outbox.put(Delivery("end", None, 0, 0, 0, None, error))

    def _loop(self) -> tuple[str, str | None, str]:
        while not self._stopping:
            ended = self._read() if self._outbox.has_room else None
            self._seal_when_due()
            self._hand_over()
            if ended is not None:
                return ended
            self._answer()
            self._idle()
            self._wait()
        return "stopped", None, "the reader was stopped"

    def _read(self) -> tuple[str, str | None, str] | None:
        """Reads until the socket is empty, or for a round; how the stream ended, if it did."""
        for attempt in range(2):
            for _ in range(_MESSAGES_A_ROUND):
                size, data = self._pgconn.get_copy_data(1)
                if size < 0:
                    return self._result()
                if size == 0:
                    break
                self._accept(bytes(data))
            else:
                return None
            if attempt == 0:
                self._pgconn.consume_input()
        return None

    def _accept(self, message: bytes) -> None:
        found = self._assembler.accept(message)
        self._messages += 1
        self._bytes += len(message)
        self._last_message = time.time()
        self._arrivals.append(time.monotonic())
        if not isinstance(found, Keepalive):
            self._received = max(self._received, found.lsn)
            return
        self._received = max(self._received, found.end)
        if found.reply:
            self._send_status()
        if self._awaiting_poke:
            self._awaiting_poke = False
            self._assembler.seal()
            self._hand_over()
            self._deliver_idle(always=True)

    def _result(self) -> tuple[str, str | None, str]:
        from psycopg.pq import DiagnosticField, ExecStatus

        result = self._pgconn.get_result()
        if result is None or result.status != ExecStatus.FATAL_ERROR:
            return "done", None, "the server ended the stream"
        code = result.error_field(DiagnosticField.SQLSTATE)
        text = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message or b"").decode()
        return ("server" if code else "closed"), (code.decode() if code else None), text.strip()

    def _seal_when_due(self) -> None:
        """At once when the stream is quiet; while it is busy, whole transactions wait a little for more of them."""
        if not self._assembler.waiting:
            self._whole_since = None
            return
        now = time.monotonic()
        if self._whole_since is None:
            self._whole_since = now
        busy = len(self._arrivals) == _BUSY_MESSAGES and now - self._arrivals[0] < _BUSY_WINDOW
        if not busy or now - self._whole_since >= self._busy_wait:
            self._assembler.seal()
            self._whole_since = None

    def _hand_over(self) -> None:
        for delivery in self._assembler.take():
            self._reported = max(self._reported, delivery.through)
            self._outbox.put(delivery)

    def _answer(self) -> None:
        """Sends what is due: a confirmed position, a question, or the regular status."""
        with self._lock:
            poked, self._poked = self._poked, False
            confirmed, self._confirmed = self._confirmed, False
        if poked:
            self._awaiting_poke = True
        due = time.monotonic() - self._status_at >= self._status_interval
        if poked or confirmed or due:
            self._send_status(reply=poked)

    def _send_status(self, *, reply: bool = False) -> None:
        micros = int((time.time() - _EPOCH_2000) * 1e6)
        status = _STATUS.pack(b"r", self._received, self._flushed, self._flushed, micros, reply)
        self._pgconn.put_copy_data(status)
        self._sending = self._pgconn.flush() == 1
        self._status_at = time.monotonic()

    def _idle(self) -> None:
        if time.monotonic() - self._idle_at >= self._idle_interval:
            self._deliver_idle(always=False)

    def _deliver_idle(self, *, always: bool) -> None:
        through = self._assembler.idle
        self._idle_at = time.monotonic()
        if through is not None and (always or through > self._reported):
            self._reported = max(self._reported, through)
            self._outbox.put(Delivery("idle", None, 0, 0, through, None, None))

    def _wait(self) -> None:
        now = time.monotonic()
        until = min(self._status_at + self._status_interval, self._idle_at + self._idle_interval)
        if self._whole_since is not None:
            until = min(until, self._whole_since + self._busy_wait)
        reading = [self._wake, self._outbox.room]
        if self._outbox.has_room:
            reading.append(self._pgconn.socket)
        readable, _, _ = select.select(
            reading, [self._pgconn.socket] if self._sending else [], [], max(until - now, 0)
        )
        for fd in (self._wake, self._outbox.room):
            if fd in readable:
                os.eventfd_read(fd)
        if self._pgconn.socket in readable:
            self._pgconn.consume_input()
        if self._sending:
            self._sending = self._pgconn.flush() == 1


class _Outbox:
    """Deliveries for the other thread, and the memory that they hold as long as somebody holds them."""

    def __init__(self, budget: int) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.room = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.used = 0
        self._budget = budget
        # Reentrant: a batch may be collected, and given back, by the thread that holds it.
        self._lock = threading.RLock()
        self._items: list[Delivery] = []

    @property
    def has_room(self) -> bool:
        return self.used < self._budget

    def put(self, delivery: Delivery) -> None:
        if isinstance(delivery.frames, PyFrames):
            with self._lock:
                self.used += delivery.frames.nbytes
            given_back = weakref.finalize(delivery.frames.index, self._give_back, delivery.frames.nbytes)
            given_back.atexit = False
        with self._lock:
            self._items.append(delivery)
        os.eventfd_write(self.fd, 1)

    def take(self) -> list[Delivery]:
        with self._lock:
            items, self._items = self._items, []
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.fd)
        return items

    def __del__(self) -> None:
        os.close(self.fd)
        os.close(self.room)

    def _give_back(self, nbytes: int) -> None:
        with self._lock:
            self.used -= nbytes
        os.eventfd_write(self.room, 1)
