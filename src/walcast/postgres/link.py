"""One replication connection in COPY BOTH with its reader thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import tempfile
import time
from collections import deque
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import DiagnosticField, ExecStatus

from walcast.decode import make_reader
from walcast.decode.frames import Delivery, Reader
from walcast.model import Lsn, SourceUnavailable, WalcastError
from walcast.postgres.checks import stream_fault
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.control import hang_up
from walcast.postgres.slots import create_slot

log = logging.getLogger("walcast.postgres")

_START_TIMEOUT: Final = 60.0
_CHECKS_OF_SILENCE: Final = 4
_SENDER_TIMEOUT: Final[LiteralString] = (
    "select setting::int8 from pg_catalog.pg_settings where name = 'wal_sender_timeout'"
)
_SHARES: Final = 4
"""So many batches fit into the budget at least: one is at the sink, one waits, one is being filled."""
_STATUS: Final = struct.Struct(">cQQQQB")
"""Standby status update: r, written, flushed, applied, time, whether a reply is wanted."""


class Link:
    """Opened by `open_link`. Deliveries come in order; after the one of kind "end" there are none."""

    def __init__(
        self, connection: Connection, reader: Reader, receive_timeout: float, confirmed: Lsn
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._ready = asyncio.Event()
        self._taken: deque[Any] = deque()
        self._receive_timeout = receive_timeout
        self._confirmed = confirmed
        self._loop = asyncio.get_running_loop()
        self._fd = reader.fileno()
        self.failure: WalcastError | None = None
        """Why we hung up ourselves."""
        self._closed = False

    @property
    def pid(self) -> int:
        """The walsender's process id."""
        return self._connection.pgconn.backend_pid

    async def next(self) -> Delivery:
        """Waits for it. Raises `failure` once there is nothing more after we hung up: the rest is sent again.

        A delivery holds memory of the reader's budget until it is let go of: keep no reference to it.
        """
        waited = time.monotonic()
        while not self._taken:
            self._ready.clear()
            self._taken.extend(self._reader.take())
            if self._taken:
                break
            if self.failure is not None:
                raise self.failure
            self._loop.add_reader(self._fd, self._arrived)
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that comes together with a delivery.
                async with asyncio.timeout(self._receive_timeout / _CHECKS_OF_SILENCE):
                    await self._ready.wait()
            except TimeoutError:
                self._check_silence(waited)
        return Delivery(*self._taken.popleft())

    def _arrived(self) -> None:
        """Once for each wait: the descriptor stays readable until somebody takes, which may be long."""
        self._loop.remove_reader(self._fd)
        self._ready.set()

    def confirm(self, through: Lsn) -> None:
        self._confirmed = max(self._confirmed, through)
        self._reader.confirm(through)

    def poke(self) -> None:
        self._reader.poke()

    def stats(self) -> dict[str, int]:
        return self._reader.stats()

    def hang_up(self, why: WalcastError) -> None:
        """Cuts the line at once, whatever the reader and the consumer are doing."""
        if self.failure is None and not self._closed:
            self.failure = why
            hang_up(self._connection.pgconn)
            self._ready.set()

    async def close(self) -> None:
        """Ends thread and connection. What was confirmed last has been sent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        await asyncio.to_thread(self._reader.stop)
        if self.failure is None:
            self._say_goodbye()
        await self._connection.close()

    def _say_goodbye(self) -> None:
        """The last confirmed position, which the reader may not have sent yet, and the end of the copy."""
        position = self._confirmed
        status = _STATUS.pack(b"r", position, position, position, 0, 0)
        with contextlib.suppress(psycopg.Error):  # the connection may be gone: nothing is lost by it
            self._connection.pgconn.put_copy_data(status)
            self._connection.pgconn.put_copy_end()
            self._connection.pgconn.flush()

    def _check_silence(self, waited: float) -> None:
        heard = self._reader.stats().get("last_message_unix_us", 0) / 1e6
        silence = min(time.time() - heard, time.monotonic() - waited)
        if silence > self._receive_timeout:
            self.hang_up(
                SourceUnavailable(
                    f"no word from the server for {silence:.0f} s", hint="is the network between up?"
                )
            )
        elif silence > self._receive_timeout / 2:
            self._reader.poke()


async def open_link(
    config: SourceConfig, version: int, *, start: Lsn, confirmed: Lsn, text: bool, streaming: bool
) -> Link:
    """Starts replication after `start`. `confirmed` is the position to report until `Link.confirm` names a later one.

    Raises what `checks.stream_fault` makes of the server's refusal.
    """
    connection = await connect(config.dsn, application=application_name(config.name), replication=True)
    try:
        memory = config.logical_decoding_work_mem or ((64 if streaming else 256) << 20)
        await connection.execute(sql.SQL("set logical_decoding_work_mem = {}").format(f"{memory >> 10}kB"))
        protocol = protocol_for(version)
        if config.temporary_slot:
            start = (await create_slot(connection, config.slot, temporary=True)).consistent_point
        command = start_command(config, version, start, text=text, streaming=streaming)
        status_interval = await _status_interval(connection, config)
        await _start(connection, command.as_bytes(connection), config.slot)
        reader: Reader = make_reader(
            connection.pgconn,
            protocol=protocol,
            streaming=streaming,
            after_through=int(confirmed),
            budget_bytes=config.budget_bytes,
            part_bytes=min(config.part_bytes, config.budget_bytes // _SHARES),
            batch_bytes=min(config.batch_bytes, config.budget_bytes // _SHARES),
            linger_us=config.linger_us,
            busy_wait_ms=config.busy_wait_ms,
            spool_dir=config.spool_dir or tempfile.gettempdir(),
            spool_memory=config.spool_memory,
            spool_limit=config.spool_limit,
            status_interval_ms=status_interval,
            idle_interval_ms=round(config.idle_interval * 1000),
        )
        reader.start()
    except psycopg.Error as error:
        await connection.close()
        raise stream_fault(error.sqlstate, error.diag.message_primary or str(error), config.slot) from None
    except BaseException:
        await connection.close()
        raise
    log.info(
        "stream_opened",
        extra={
            "slot": config.slot,
            "after": start,
            "format": "text" if text else "binary",
            "protocol": protocol,
        },
    )
    return Link(connection, reader, config.receive_timeout, confirmed)


def protocol_for(version: int) -> int:
    """The newest protocol that a server knows; it refuses a newer one."""
    return 4 if version >= 160_000 else 3 if version >= 150_000 else 2 if version >= 140_000 else 1


def start_command(
    config: SourceConfig, version: int, start: Lsn, *, text: bool, streaming: bool
) -> sql.Composed:
    options: dict[str, str] = {
        "proto_version": str(protocol_for(version)),
        "publication_names": '"{}"'.format(config.publication.replace('"', '""')),
    }
    if version >= 140_000:
        options["messages"] = "true"
        if not text:
            options["binary"] = "true"
    if streaming:
        options["streaming"] = "on"
    if version >= 160_000 and config.origin != "any":
        options["origin"] = config.origin
    stated = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.SQL(name), sql.Literal(value)) for name, value in options.items()
    )
    return sql.SQL("START_REPLICATION SLOT {} LOGICAL {} ({})").format(
        sql.Identifier(config.slot),
        sql.SQL(str(start)),
        stated,
    )


async def _status_interval(connection: Connection, config: SourceConfig) -> int:
    """Milliseconds. A reader whose budget is used up does not see the server's questions: it must be ahead of them."""
    cursor = await connection.execute(_SENDER_TIMEOUT)
    row = await cursor.fetchone()
    limit = row[0] if row is not None else 0
    wanted = round(config.status_interval * 1000)
    return min(wanted, max(limit // 4, 50)) if limit > 0 else wanted


async def _start(connection: Connection, command: bytes, slot: str) -> None:
    """psycopg has no call for COPY BOTH: the command goes out on a thread, which a lost network cannot hold for ever."""
    starting = asyncio.ensure_future(asyncio.to_thread(connection.pgconn.exec_, command))
    try:
        result = await asyncio.wait_for(asyncio.shield(starting), _START_TIMEOUT)
    except (TimeoutError, asyncio.CancelledError) as stopped:
        hang_up(connection.pgconn)
        await asyncio.gather(starting, return_exceptions=True)
        if isinstance(stopped, asyncio.CancelledError):
            raise
        raise SourceUnavailable(
            "the server does not answer START_REPLICATION", hint="is it overloaded?"
        ) from None
    if result.status != ExecStatus.COPY_BOTH:
        state = result.error_field(DiagnosticField.SQLSTATE)
        message = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or connection.pgconn.error_message
        raise stream_fault(state.decode() if state else None, message.decode(errors="replace").strip(), slot)
