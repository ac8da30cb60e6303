"""What the commands ask: of the running pipeline through its control socket, else of the source and the stores."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg

from walcast.app import registry
from walcast.app.compose import connect_source, make_source, sink_factories, source_config
from walcast.app.reading import reading
from walcast.app.settings import Settings
from walcast.engine import ControlError, NotRunning, adopt_slot, call, owned, owner, request_resync
from walcast.engine.history import CHECKPOINT, HISTORY, checkpoint_of
from walcast.engine.journal import FileJournal
from walcast.engine.status import StoppedTable, plain
from walcast.engine.tables import table_states
from walcast.engine.upgrade import format_of
from walcast.model import (
    ConfigError,
    KeepsJournal,
    Lsn,
    OperatorError,
    RetryableError,
    SinkContext,
    SlotState,
    SourceIdentity,
    TableId,
    WalcastError,
)
from walcast.model.token import Token
from walcast.postgres import ddl
from walcast.postgres import publications as publication_room
from walcast.postgres import slots as slot_room
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.faults import explain
from walcast.postgres.own_schema import check_own_schema
from walcast.postgres.wanted import ensure_wanted, read_wanted

log = logging.getLogger("walcast.app")

_START_INTERVAL = 0.2
"""Seconds between two looks at whether the pipeline has started."""


@dataclass(frozen=True, slots=True)
class Resync:
    """What is copied anew: `tables` (None: all of them) in `sinks`, now or at the pipeline's next start."""

    tables: tuple[TableId, ...] | None
    sinks: tuple[str, ...]
    at_once: bool
    chunked: dict[str, tuple[TableId, ...]] = field(default_factory=dict)
    """Of each sink the tables that come chunk by chunk, beside the stream."""


async def status(settings: Settings) -> dict[str, Any]:
    """The status as JSON values, in the shape of `PipelineStatus.as_dict`; `running` says who answered."""
    try:
        answer = await ask(settings, "status")
    except NotRunning:
        return await _status_at_rest(settings)
    return {"running": True, **answer}


async def ask(
    settings: Settings, method: str, params: dict[str, Any] | None = None, timeout: float | None = 10.0
) -> Any:
    """The running pipeline's answer. Raises NotRunning, ControlError, RetryableError when it does not answer."""
    try:
        return await call(settings.pipeline.state_dir, method, params, timeout=timeout)
    except TimeoutError:
        raise RetryableError(
            f"the pipeline on {settings.pipeline.state_dir} does not answer",
            hint="it is very busy, or was stopped (SIGSTOP); see its log",
        ) from None


async def _status_at_rest(settings: Settings) -> dict[str, Any]:
    async with make_source(settings) as source:
        slot, position = await source.slot(), await source.position()
        if _has_run(settings):
            async with owned(settings.pipeline.state_dir):
                sinks = [
                    await _sink_at_rest(settings, item.name, source.identity, position)
                    for item in settings.sinks
                ]
        else:  # opening a store would make it
            sinks = [_line(item.name, "new") for item in settings.sinks]
        described = {
            "identity": source.identity,
            "slot": slot.name if slot else settings.source.slot,
            "confirmed": slot.confirmed if slot else None,
            "retained": slot.retained if slot else None,
            "wal_status": slot.wal_status if slot else None,
            "position": position,
            "streaming": False,
            "error": None if slot else "there is no such slot yet",
        }
    result: dict[str, Any] = plain(
        {
            "running": False,
            "name": settings.pipeline.name,
            "state": "stopped",
            "source": described,
            "sinks": sinks,
        }
    )
    return result


async def _sink_at_rest(
    settings: Settings, name: str, identity: SourceIdentity, position: Lsn
) -> dict[str, Any]:
    """Opens the store as the pipeline would, and reads where it stands."""
    state_dir = settings.pipeline.state_dir
    line = _line(name, "stopped")
    try:
        async with opened(settings, name, identity) as sink:
            file = FileJournal(state_dir / "sinks" / f"{name}.json")
            journal = sink.journal() if isinstance(sink, KeepsJournal) else file
            content = await journal.load()
            format_of(content, f"the journal of sink {name}")
            kept = (
                await sink.checkpoint() if sink.keeps_checkpoint else checkpoint_of(content.get(CHECKPOINT))
            )
    except WalcastError as error:
        return {**line, "error": {"code": error.code, "message": error.message, "remedy": error.hint}}
    line["stopped_tables"] = [
        StoppedTable(str(table), state.position, state.reason, state.hint)
        for table, state in sorted(table_states(content).items())
        if state.state == "stopped"
    ]
    line["history"] = content.get(HISTORY)
    if kept is not None:
        line |= {"checkpoint": kept, "lag_bytes": max(0, position - kept.through)}
    return line


def _line(name: str, state: str) -> dict[str, Any]:
    return {"name": name, "state": state, "checkpoint": None, "stopped_tables": [], "error": None}


def _has_run(settings: Settings) -> bool:
    return settings.pipeline.state_dir.is_dir()


async def token(settings: Settings) -> Token:
    """The source's position now."""
    async with make_source(settings) as source:
        return Token(source.identity.system_id, source.identity.timeline, await source.position())


async def wait(settings: Settings, text: str, sink: str | None, timeout: float) -> dict[str, bool]:
    """Whether each sink has the token, after waiting for at most `timeout` seconds: also for the pipeline, which may just
    be starting. Raises NotRunning when it does not start, and the copies at rest do not have the token either."""
    wanted = Token.parse(text)
    chosen = sinks_named(settings, sink)
    deadline = time.monotonic() + timeout
    if await _has_already(settings, wanted, chosen):
        return dict.fromkeys(chosen, True)
    while True:
        try:
            identity = (await ask(settings, "status", {"fresh": False}))["source"]["identity"]
            break
        except NotRunning:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(min(_START_INTERVAL, max(0.0, deadline - time.monotonic())))
    if identity is not None:
        _check(wanted, {"source": {"identity": identity}})
    left = max(0.0, deadline - time.monotonic())
    answers = await asyncio.gather(*(_reached(settings, wanted.lsn, name, left) for name in chosen))
    return dict(zip(chosen, answers, strict=True))


async def _has_already(settings: Settings, token: Token, sinks: Sequence[str]) -> bool:
    """Whether no pipeline runs, and these copies at rest have the token all the same."""
    try:
        await ask(settings, "status", {"fresh": False})
    except NotRunning:
        if owner(settings.pipeline.state_dir) is not None:
            return False  # it is starting
        at_rest = await _status_at_rest(settings)
        _check(token, at_rest)
        reached = {line["name"]: _through(line) >= token.lsn for line in at_rest["sinks"]}
        return all(reached[name] for name in sinks)
    return False


async def _reached(settings: Settings, lsn: Lsn, sink: str, timeout: float) -> bool:
    params = {"lsn": str(lsn), "sink": sink, "timeout": timeout}
    try:
        await ask(settings, "wait", params, timeout=timeout + 5)
    except ControlError as error:
        if error.code == "TimeoutError":
            return False
        raise
    return True


def _check(token: Token, status: dict[str, Any]) -> None:
    identity = status["source"]["identity"]
    token.check(SourceIdentity(**{**identity, "system_id": int(identity["system_id"])}))


def _through(line: dict[str, Any]) -> Lsn:
    return Lsn.parse(line["checkpoint"]["through"]) if line["checkpoint"] else Lsn(0)


def sinks_named(settings: Settings, sink: str | None) -> list[str]:
    """The sinks' names: all, or this one. Raises ConfigError when there is none of that name."""
    names = [item.name for item in settings.sinks]
    if sink is None:
        return names
    if sink not in names:
        near = difflib.get_close_matches(sink, names, n=1)
        raise ConfigError(
            f"there is no sink {sink!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"sinks: {', '.join(names) or 'none yet'}",
        )
    return [sink]


async def reload(settings: Settings) -> list[str]:
    """What the running pipeline made of its configuration. Raises NotRunning, or what it found wrong."""
    changes: list[str] = await ask(settings, "reload", timeout=60)
    return changes


async def pause(settings: Settings, sink: str) -> None:
    """Closes a sink of the running pipeline. Raises NotRunning."""
    sinks_named(settings, sink)
    await ask(settings, "pause", {"sink": sink}, timeout=60)


async def resume(settings: Settings, sink: str) -> None:
    """Opens it again. Raises NotRunning."""
    sinks_named(settings, sink)
    await ask(settings, "resume", {"sink": sink})


async def trail(settings: Settings, limit: int) -> dict[str, list[dict[str, Any]]]:
    """The latest batches of each sink of the running pipeline. Raises NotRunning."""
    found: dict[str, list[dict[str, Any]]] = await ask(settings, "trail", {"limit": limit})
    return found


async def resync(
    settings: Settings,
    tables: tuple[str, ...],
    sink: str | None,
    where: str | None = None,
    rate: float | None = None,
) -> Resync:
    """Has tables (none named: all) copied anew: at once by the running pipeline, else at its next start. `where`, `rate`: see
    `walcast.app.rebuilding`. Raises OperatorError for a condition when no pipeline runs."""
    names = sinks_named(settings, sink)
    chosen = await _matching(settings, tables) if tables else None
    at_once = True
    chunked: dict[str, tuple[TableId, ...]] = {}
    for name in names:
        params = {"sink": name, "tables": chosen, "where": where, "rate": rate}
        try:
            answer = await ask(settings, "resync", params, timeout=60)
            chunked[name] = tuple(TableId(*table) for table in answer["chunked"])
        except NotRunning:
            if where is not None:
                raise
            at_once = False
            async with owned(settings.pipeline.state_dir):
                await request_resync(settings.pipeline.state_dir, name, chosen)
    return Resync(None if chosen is None else tuple(chosen), tuple(names), at_once, chunked)


async def _matching(settings: Settings, tables: Sequence[str]) -> list[TableId]:
    config = replace(source_config(settings), include=tuple(tables))
    async with await connect_source(config, "resync") as connection:
        selection = (await read_wanted(connection, config)).selection
    for pattern in selection.unmatched:
        raise ConfigError(f"no table matches {pattern!r}", hint="patterns are schema.table with * and ?")
    if not selection.tables:
        raise ConfigError(f"none of {', '.join(tables)} can be copied", hint="see: walcast config check")
    return [table.id for table in selection.tables]


async def query(settings: Settings, sink: str, statement: str) -> tuple[list[str], list[list[Any]]]:
    """Rows of an embedded copy."""
    sinks_named(settings, sink)
    kind = next(item.type for item in settings.sinks if item.name == sink)
    if not hasattr(registry.sink(kind).load(), "query"):
        raise OperatorError(f"sink {sink} is not an embedded copy", hint="ask the store itself")
    try:
        columns, rows = await ask(settings, "query", {"sink": sink, "args": [statement]}, timeout=None)
        return columns, rows
    except NotRunning:
        if not _has_run(settings):
            raise OperatorError("there is no copy yet", hint="make it with: walcast run") from None
    async with make_source(settings) as source:
        identity = source.identity
    async with owned(settings.pipeline.state_dir), opened(settings, sink, identity) as store:
        columns, rows = await store.query(statement)
        return columns, [list(row) for row in rows]


def opened(settings: Settings, sink: str, identity: SourceIdentity) -> AbstractAsyncContextManager[Any]:
    """A sink as the pipeline would open it. Hold the state directory meanwhile."""
    context = SinkContext(settings.pipeline.name, sink, identity, str(settings.pipeline.state_dir))
    return sink_factories(settings)[sink](context)


async def _connected(settings: Settings, role: str) -> Connection:
    return await connect_source(source_config(settings), role)


async def slots(settings: Settings) -> list[SlotState]:
    async with await _connected(settings, "slot") as connection:
        return await slot_room.list_slots(connection)


async def create_slot(settings: Settings, name: str | None) -> tuple[str, Lsn]:
    """Creates a slot without a snapshot. The configured one is noted as this state directory's own."""
    config = replace(source_config(settings), slot=name or settings.source.slot)
    ours = config.slot == settings.source.slot
    async with (
        owned(settings.pipeline.state_dir) if ours else contextlib.nullcontext(),
        await _connected(settings, "slot") as control,
    ):
        at = await create_slot_at(config, control)
        if ours:
            await adopt_slot(settings.pipeline.state_dir)
    return config.slot, at


async def create_slot_at(config: SourceConfig, control: Connection) -> Lsn:
    """Creates the configured slot; its consistent point."""
    application = application_name(config.name, "slot")
    async with await connect(config.dsn, application=application, replication=True) as replication:
        created = await slot_room.create_slot(
            replication, config.slot, failover=config.failover, control=control, waiting=_report
        )
    return created.consistent_point


def _report(open_transactions: Sequence[slot_room.OpenTransaction]) -> None:
    """A new slot waits for every transaction that is open now: says whose."""
    for transaction in open_transactions:
        log.warning("slot_waits", extra={"transaction": str(transaction)})


async def drop_slot(settings: Settings, name: str) -> None:
    """Raises OperatorError when there is none, SlotInUse when somebody reads it."""
    async with await _connected(settings, "slot") as connection:
        if not await slot_room.drop_slot(connection, name):
            raise OperatorError(f"there is no slot {name}", hint="see them with: walcast slot list")


async def publications(settings: Settings) -> list[publication_room.Publication]:
    async with await _connected(settings, "publication") as connection:
        return await publication_room.list_publications(connection)


async def ensure_publication(settings: Settings) -> publication_room.Outcome:
    async with await _connected(settings, "publication") as connection:
        return await ensure_wanted(connection, source_config(settings))


async def drop_publication(settings: Settings, name: str) -> None:
    async with await _connected(settings, "publication") as connection:
        if not await publication_room.drop_publication(connection, name):
            raise OperatorError(
                f"there is no publication {name}", hint="see them with: walcast publication list"
            )


async def install_ddl(settings: Settings) -> None:
    """Raises OperatorError when the server is older than 14 or the role may not create event triggers."""
    await _run_ddl(settings, ddl.INSTALL, "installing the event trigger")


async def remove_ddl(settings: Settings) -> None:
    await _run_ddl(settings, ddl.REMOVE, "removing the event trigger")


async def _run_ddl(settings: Settings, statements: LiteralString, doing: str) -> None:
    async with await _connected(settings, "ddl") as connection:
        if connection.info.server_version < 140_000:
            raise OperatorError("recorded schema changes need PostgreSQL 14", hint="leave ddl_capture off")
        try:
            async with connection.transaction():
                await connection.execute(statements)
                await check_own_schema(
                    connection
                )  # somebody may have put something there first: then nothing is done
        except psycopg.Error as error:
            raise explain(error, doing) from None


async def tail(
    settings: Settings, tables: tuple[str, ...], *, limit: int | None = None, seconds: float | None = None
) -> AsyncIterator[bytes]:
    """Changes from now on as JSON lines, through a temporary slot."""
    config = replace(source_config(settings), include=tables or settings.source.include)
    left = limit
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            reading(config) as source,
            contextlib.aclosing(source.stream(None)) as stream,
        ):
            async for batch in stream:
                lines = batch.json_lines()
                if left is not None:
                    kept = lines.splitlines(keepends=True)[:left]
                    left -= len(kept)
                    lines = b"".join(kept)
                if batch.checkpoint is not None:
                    await source.confirm(batch.checkpoint.through)
                if lines:
                    yield lines
                if left == 0:
                    return
