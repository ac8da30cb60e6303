"""COMMIT with its outcome: a commit that waits for replicas can end in three ways, and libpq calls two of them success.

    replicated   the server waited for what the profile asks (or the profile asks for nothing)
    local        the wait was called off (warning 01000): committed and visible at the primary, perhaps nowhere else
    unknown      the connection was lost: it may be committed or not; `resolve` finds out

    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute("insert ...")
        outcome = await commit(connection, timeout=5)
        if outcome.kind == "unknown":
            outcome = await resolve(outcome, dsn)

A transaction's number alone cannot say what became of it after a failover: the new primary may have given the number to
another transaction. So the attempt also notes where the WAL stood just before COMMIT. Everything that the transaction
wrote before lies below that point; if the new history forked off at or below it, the commit is lost; if it forked off
above it, the new primary knows the number, and pg_xact_status tells the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, LiteralString

import psycopg

from walcast.cluster.facts import history_file
from walcast.model import Lsn, OperatorError
from walcast.model.secret import Secret
from walcast.model.token import TimelineHistory, Token
from walcast.postgres.connect import application_name, connect, describe
from walcast.postgres.faults import explain

Kind = Literal["replicated", "local", "unknown", "rolled back"]

_WAITING: Final = "SyncRepWaitForLSN"
"""The server function that warns when the wait ends early (src/backend/replication/syncrep.c): 01000 when it was called off,
57P01 when the server stops. Its name is the same in every language; a warning's text is not."""
_PREPARE: Final[LiteralString] = """
select pg_current_xact_id_if_assigned()::text, pg_current_wal_insert_lsn()::text, s.system_identifier::text,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
from pg_control_system() s
"""
_STATUS: Final[LiteralString] = """
select (select system_identifier::text from pg_control_system()), pg_is_in_recovery(),
       case when not pg_is_in_recovery()
            then ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known of a transaction just before its COMMIT. `xid` is None when it wrote nothing."""

    system_id: int
    timeline: int
    xid: int | None
    before: Lsn


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a COMMIT ended. `waited` is in seconds. `lsn` is where the WAL stood afterwards: at or past the commit record; with
    the attempt's system and timeline it is a token's three parts. `reason` says why it is not `replicated`."""

    kind: Kind
    attempt: Attempt
    waited: float
    lsn: Lsn | None = None
    reason: str = ""

    @property
    def token(self) -> Token | None:
        """What a reader of any copy can be asked for; None when there is nothing to wait for."""
        return None if self.lsn is None else Token(self.attempt.system_id, self.attempt.timeline, self.lsn)

    @property
    def committed(self) -> bool | None:
        """Whether the row is there at the primary; None: not known."""
        return None if self.kind == "unknown" else self.kind != "rolled back"


async def commit(connection: psycopg.AsyncConnection[Any], *, timeout: float | None = None) -> Outcome:
    """Commits the open transaction and says how it ended. With `timeout` (seconds) the wait for replicas is called off after
    so long: the row stays, the outcome is `local`. Being cancelled (Ctrl-C) does the same, and raises afterwards.

    Raises psycopg.Error when the server refuses the commit: then nothing was committed.
    """
    attempt = await _prepare(connection)
    begin = time.perf_counter()
    with _warnings(connection) as heard:
        work = asyncio.ensure_future(connection.commit())
        try:
            done, _ = await asyncio.wait({work}, timeout=timeout)
            if not done:
                await connection.cancel_safe()
            await asyncio.wait({work})
        except asyncio.CancelledError:
            await connection.cancel_safe()
            await asyncio.wait({work})
            raise
        error = work.exception()
    outcome = _outcome(connection.closed, attempt, time.perf_counter() - begin, heard, error)
    if outcome.kind == "unknown" or connection.closed:
        return outcome
    cursor = await connection.execute("select pg_current_wal_insert_lsn()::text")
    row = await cursor.fetchone()
    await connection.rollback()
    return replace(outcome, lsn=Lsn.parse(_first(row)))


def commit_sync(connection: psycopg.Connection[Any], *, timeout: float | None = None) -> Outcome:
    """As `commit`, on a blocking connection. KeyboardInterrupt calls the wait off and is raised afterwards."""
    cursor = connection.execute(_PREPARE)
    attempt = _attempt(cursor.fetchone())
    begin = time.perf_counter()
    error: BaseException | None = None
    alarm = threading.Timer(timeout, connection.cancel_safe) if timeout is not None else None
    with _warnings(connection) as heard:
        if alarm is not None:
            alarm.start()
        try:
            connection.commit()
        except psycopg.Error as caught:
            error = caught
        finally:
            if alarm is not None:
                alarm.cancel()
    outcome = _outcome(connection.closed, attempt, time.perf_counter() - begin, heard, error)
    if outcome.kind == "unknown" or connection.closed:
        return outcome
    row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    connection.rollback()
    return replace(outcome, lsn=Lsn.parse(_first(row)))


async def resolve(outcome: Outcome, dsn: str | Secret) -> Outcome:
    """Finds out at the primary of today what became of an unknown commit: `local` (it is there; for how many replicas is not
    known), `rolled back`, or still `unknown` with the reason.

    Raises OperatorError when the DSN leads to another system, SourceUnavailable when nobody answers.
    """
    if outcome.kind != "unknown":
        return outcome
    attempt = outcome.attempt
    if attempt.xid is None:
        return replace(outcome, kind="rolled back", reason="the transaction had written nothing")
    async with await connect(dsn, application=application_name("commit")) as connection:
        try:
            row = await (await connection.execute(_STATUS)).fetchone()
            assert row is not None
            system_id, standby, timeline = int(row[0]), row[1], row[2]
            if system_id != attempt.system_id:
                raise OperatorError(
                    f"{describe(dsn)} is another system ({system_id}) than the transaction's ({attempt.system_id})",
                    hint="ask the cluster that the transaction was sent to",
                )
            if standby:
                return replace(outcome, reason="that node is a replica: ask the primary")
            if timeline != attempt.timeline:
                lost = await _lost(connection, attempt, timeline)
                if lost is None:
                    return replace(
                        outcome, reason=f"the history of timeline {timeline} cannot be read with these rights"
                    )
                if lost:
                    reason = f"the failover to timeline {timeline} left it behind"
                    return replace(outcome, kind="rolled back", reason=reason)
            answer = await connection.execute("select pg_xact_status(%s::text::xid8)", [str(attempt.xid)])
            status = _first(await answer.fetchone(), default="")
        except psycopg.Error as error:
            raise explain(error, "asking for a transaction's outcome") from None
    match status:
        case "committed":
            return replace(outcome, kind="local", reason="found committed at the primary")
        case "aborted":
            return replace(outcome, kind="rolled back", reason="found rolled back at the primary")
        case "in progress":
            return replace(
                outcome,
                reason="it is still in progress: the server has not noticed yet that its client is gone",
            )
    return replace(outcome, reason="too old: the server has forgotten it")


async def _lost(connection: Any, attempt: Attempt, timeline: int) -> bool | None:
    """Whether the history of `timeline` left the attempt's own before the transaction's last known record; None: not known."""
    try:
        found = await connection.execute(
            "select pg_read_file('pg_wal/' || %s, true)", [history_file(timeline)]
        )
        text = _first(await found.fetchone(), default="")
    except psycopg.errors.InsufficientPrivilege:
        return None
    fork = TimelineHistory.parse(timeline, text).end_of(attempt.timeline) if text else None
    return None if fork is None else fork <= attempt.before


async def _prepare(connection: psycopg.AsyncConnection[Any]) -> Attempt:
    cursor = await connection.execute(_PREPARE)
    return _attempt(await cursor.fetchone())


def _attempt(row: Any) -> Attempt:
    assert row is not None
    xid, lsn, system_id, timeline = tuple(row.values()) if isinstance(row, dict) else tuple(row)
    return Attempt(int(system_id), int(timeline), int(xid) if xid is not None else None, Lsn.parse(lsn))


@contextlib.contextmanager
def _warnings(connection: Any) -> Iterator[list[str]]:
    """The server functions that warn meanwhile."""
    heard: list[str] = []

    def hear(diagnostic: psycopg.errors.Diagnostic) -> None:
        heard.append(diagnostic.source_function or "")

    connection.add_notice_handler(hear)
    try:
        yield heard
    finally:
        connection.remove_notice_handler(hear)


def _outcome(
    closed: bool, attempt: Attempt, waited: float, heard: list[str], error: BaseException | None
) -> Outcome:
    called_off = _WAITING in heard
    if closed or (isinstance(error, psycopg.OperationalError) and error.sqlstate is None):
        why = (
            "the server ended the connection while the commit waited"
            if called_off
            else "the connection was lost"
        )
        return Outcome("local" if called_off else "unknown", attempt, waited, reason=why)
    if error is not None:
        raise error
    if called_off:
        return Outcome("local", attempt, waited, reason="the wait for replicas was called off")
    return Outcome("replicated", attempt, waited)


def _first(row: Any, default: str | None = None) -> str:
    if row is None:
        assert default is not None
        return default
    value = next(iter(row.values())) if isinstance(row, dict) else row[0]
    return default if value is None and default is not None else value
