"""The connection to the target: few round trips, large buffers.

A *script* is a simple query of many statements, COPYs included: the server stops only where it wants COPY data, so
a batch costs one round trip and one more for each COPY. A *pipeline* is prepared statements sent without waiting.
Everything here blocks, in a thread of the sink, and releases the interpreter while it waits.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import pq, sql
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from walcast.model import SinkUnavailable
from walcast.sinks.postgres.failures import StatementFailed

_CHUNK = 1 << 17
_PUMP = 128


class Prepared(NamedTuple):
    """A statement that a connection prepares when it first needs it. `types` are the parameters' oids at the target.

    A `utility` statement has no plan (begin, commit, ...): a script runs it as it is.
    """

    name: str
    statement: bytes
    types: Sequence[int] = ()
    utility: bool = False


class Command(NamedTuple):
    """A prepared statement with the server's bytes as parameters; format 0 is text, 1 binary."""

    prepared: Prepared
    params: Sequence[bytes | None] = ()
    formats: Sequence[int] | None = None


class Step(NamedTuple):
    """A statement of a script; `data` feeds it when it is a COPY, `needs` was prepared before."""

    statement: bytes
    data: Iterable[bytes | memoryview] | None = None
    needs: Prepared | None = None


class Session:
    """One connection. Raises StatementFailed for a server's error, SinkUnavailable when the connection is lost."""

    def __init__(self, pg: PGconn) -> None:
        self.pg = pg
        self.version = pg.server_version
        self._prepared: dict[str, bytes] = {}
        self._poll = select.poll()
        self._poll.register(pg.socket, select.POLLIN)
        pg.nonblocking = 1

    @property
    def broken(self) -> bool:
        return self.pg.status != pq.ConnStatus.OK

    @property
    def in_transaction(self) -> bool:
        return self.pg.transaction_status != TransactionStatus.IDLE

    def abort(self) -> None:
        """Cuts the connection under a call that does not return. From another thread."""
        with socket.socket(fileno=os.dup(self.pg.socket)) as cut:
            cut.shutdown(socket.SHUT_RDWR)

    def query(self, *statements: sql.Composable | bytes) -> list[tuple[bytes | None, ...]]:
        """Runs statements as one simple query (a transaction of its own, unless one is open); the last one's rows."""
        text = b";\n".join(s if isinstance(s, bytes) else s.as_bytes() for s in statements)
        rows: list[tuple[bytes | None, ...]] = []
        try:
            self.pg.send_query(text)
            number = 0
            while (result := self._next()) is not None:
                if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                    raise self._failed(result, number)
                number += 1
                width = result.nfields
                rows = [
                    tuple(result.get_value(row, n) for n in range(width)) for row in range(result.ntuples)
                ]
        except psycopg.Error:
            raise self._lost() from None
        return rows

    def json(self, statement: sql.Composable | bytes) -> Any:
        """The one JSON value that a statement returns; None when it returns no row or null."""
        rows = self.query(statement)
        return json.loads(rows[0][0]) if rows and rows[0][0] is not None else None

    def script(self, steps: Sequence[Step]) -> list[int]:
        """Runs the steps in order; the rows that each touched. What follows a failed step is not run."""
        for number, step in enumerate(steps):
            if step.needs is not None:
                self.prepare(step.needs, number)
        try:
            self.pg.send_query(b";\n".join(step.statement for step in steps))
            touched = [self._step(number, step) for number, step in enumerate(steps)]
            self._drain()
        except psycopg.Error:
            raise self._lost() from None
        return touched

    def pipeline(self, commands: Iterable[Command]) -> list[int]:
        """Runs prepared statements without waiting in between; the rows that each touched."""
        sent: list[Prepared | None] = []
        try:
            self.pg.enter_pipeline_mode()
            for prepared, params, formats in commands:
                if prepared.name not in self._prepared:
                    self.pg.send_prepare(prepared.name.encode(), prepared.statement, prepared.types)
                    self._prepared[prepared.name] = prepared.statement
                    sent.append(prepared)
                self.pg.send_query_prepared(prepared.name.encode(), params, formats)
                sent.append(None)
                if len(sent) % _PUMP == 0:
                    self._send()
            self.pg.pipeline_sync()
            return self._results(sent)
        except psycopg.Error:
            raise self._lost() from None
        except StatementFailed:
            raise
        except BaseException:
            self.pg.finish()  # commands without an end are on their way: the connection is of no more use
            raise
        finally:
            self._leave_pipeline()

    def prepare(self, prepared: Prepared, step: int = 0) -> None:
        """Prepares a statement, once a connection, for that step of a script."""
        if prepared.name in self._prepared:
            return
        try:
            self.pg.send_prepare(prepared.name.encode(), prepared.statement, prepared.types)
            result = self._next()
            if result is None or result.status != ExecStatus.COMMAND_OK:
                raise self._failed(result, step)
            self._drain()
        except psycopg.Error:
            raise self._lost() from None
        self._prepared[prepared.name] = prepared.statement

    def forget(self, prefix: str) -> None:
        """Drops the prepared statements whose names begin with `prefix`."""
        names = [name for name in self._prepared if name.startswith(prefix)]
        if names:
            self.query(*(sql.SQL("deallocate {}").format(sql.Identifier(name)) for name in names))
        for name in names:
            del self._prepared[name]

    def _step(self, number: int, step: Step) -> int:
        result = self._next()
        if result is not None and result.status == ExecStatus.COPY_IN:
            self._feed(step.data or ())
            result = self._next()
        if result is None or result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            raise self._failed(result, number)
        return result.command_tuples or 0

    def _feed(self, data: Iterable[bytes | memoryview]) -> None:
        try:
            for buffer in data:
                view = memoryview(buffer)
                # In pieces: libpq moves what it could not send yet to the front of its buffer, every time.
                for start in range(0, len(view), _CHUNK):
                    self.pg.put_copy_data(view[start : start + _CHUNK])
                    self._send()
        except psycopg.Error:
            raise
        except BaseException:
            self.pg.put_copy_end(b"the rows could not be read")
            self._drain()
            raise
        self.pg.put_copy_end()

    def _results(self, sent: Sequence[Prepared | None]) -> list[int]:
        touched: list[int] = []
        failure: Exception | None = None
        for prepared in sent:
            result = self._next()
            status = result.status if result is not None else None
            if result is not None and status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                if prepared is None:
                    touched.append(result.command_tuples or 0)
            else:
                if prepared is not None:
                    self._prepared.pop(prepared.name, None)
                if failure is None:
                    failure = self._lost() if self.broken else StatementFailed(result, len(touched))
            if not self.broken and self._next() is not None:
                raise RuntimeError("a pipelined statement had two results")
        if not self.broken:
            self._next()  # the sync's
        if failure is not None:
            raise failure
        return touched

    def _leave_pipeline(self) -> None:
        if self.broken or self.pg.pipeline_status == PipelineStatus.OFF:
            return
        try:
            self.pg.exit_pipeline_mode()
        except psycopg.Error:  # the session was ended while its results were on their way
            raise self._lost() from None

    def _next(self) -> PGresult | None:
        pg = self.pg
        self._send()
        while pg.is_busy():
            self._poll.poll()
            pg.consume_input()
        return pg.get_result()

    def _send(self) -> None:
        """Hands everything to the socket. Reads meanwhile, or both sides would wait for each other."""
        pg = self.pg
        if not pg.flush():
            return
        self._poll.modify(pg.socket, select.POLLIN | select.POLLOUT)
        while pg.flush():
            for _, event in self._poll.poll():
                if event & ~select.POLLOUT:
                    pg.consume_input()
        self._poll.modify(pg.socket, select.POLLIN)

    def _drain(self) -> None:
        while (result := self._next()) is not None:
            if result.status == ExecStatus.COPY_IN:
                self.pg.put_copy_end(b"given up")

    def _failed(self, result: PGresult | None, step: int) -> Exception:
        failure = StatementFailed(result, step)
        if not self.broken:
            self._drain()
        return self._lost() if self.broken else failure

    def _lost(self) -> SinkUnavailable:
        if not self.broken:
            self.pg.finish()
        return SinkUnavailable(
            "the connection to the copy in PostgreSQL was lost",
            hint="check that the target runs and can be reached",
        )
