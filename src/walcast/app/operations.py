"""What the commands ask: of the running pipeline through its control socket, else of the source and the stores."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from walcast.app.compose import make_source, sink_factories, source_config
from walcast.app.settings import Settings
from walcast.app.token import Token
from walcast.engine import NotRunning, adopt_slot, call, owned, request_resync
from walcast.engine.history import CHECKPOINT, checkpoint_of
from walcast.engine.journal import FileJournal
from walcast.engine.status import StoppedTable, plain
from walcast.engine.tables import table_states
from walcast.model import (
    ConfigError,
    KeepsJournal,
    Lsn,
    OperatorError,
    SinkContext,
    SlotState,
    SourceIdentity,
    WalcastError,
)
from walcast.postgres import publications as publication_room
from walcast.postgres import slots as slot_room
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.source import PostgresSource
from walcast.postgres.wanted import ensure_wanted, read_wanted


async def status(settings: Settings) -> dict[str, Any]:
    """The status as JSON values, in the shape of `PipelineStatus.as_dict`; `running` says who answered."""
    try:
        answer = await call(settings.pipeline.state_dir, "status")
    except NotRunning:
        return await _status_at_rest(settings)
    return {"running": True, **answer}


async def _status_at_rest(settings: Settings) -> dict[str, Any]:
    async with make_source(settings) as source:
        slot, position = await source.slot(), await source.position()
        async with owned(settings.pipeline.state_dir):
            sinks = [
                await _sink_at_rest(settings, name, source.identity, position)
                for name in sink_factories(settings)
            ]
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
    line: dict[str, Any] = {
        "name": name,
        "state": "stopped",
        "checkpoint": None,
        "stopped_tables": [],
        "error": None,
    }
    try:
        context = SinkContext(settings.pipeline.name, name, identity, str(state_dir))
        async with sink_factories(settings)[name](context) as sink:
            file = FileJournal(state_dir / "sinks" / f"{name}.json")
            journal = sink.journal() if isinstance(sink, KeepsJournal) else file
            content = await journal.load()
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
    if kept is not None:
        line |= {"checkpoint": kept, "lag_bytes": max(0, position - kept.through)}
    return line


async def token(settings: Settings) -> Token:
    """The source's position now."""
    async with make_source(settings) as source:
        return Token(source.identity.system_id, source.identity.timeline, await source.position())


async def wait(settings: Settings, text: str, sink: str | None, timeout: float) -> dict[str, bool]:
    """Whether each sink has the token, after waiting for at most `timeout` seconds."""
    wanted = Token.parse(text)
    names = [item.name for item in settings.sinks]
    if sink is not None and sink not in names:
        raise ConfigError(f"there is no sink {sink!r}", hint=f"sinks: {', '.join(names)}")
    folder = settings.pipeline.state_dir
    identity = (await call(folder, "status", {"fresh": False}))["source"]["identity"]
    wanted.check(SourceIdentity(**{**identity, "system_id": int(identity["system_id"])}))

    async def reached(name: str) -> bool:
        try:
            await call(
                folder,
                "wait",
                {"lsn": str(wanted.lsn), "sink": name, "timeout": timeout},
                timeout=timeout + 5,
            )
        except TimeoutError:
            return False
        except OperatorError as error:
            if error.code == "TimeoutError":
                return False
            raise
        return True

    chosen = [sink] if sink is not None else names
    return dict(zip(chosen, await asyncio.gather(*map(reached, chosen)), strict=True))


async def reload(settings: Settings) -> list[str]:
    changes: list[str] = await call(settings.pipeline.state_dir, "reload", timeout=60)
    return changes


async def resync(settings: Settings, tables: tuple[str, ...], sink: str | None) -> list[str]:
    """Has tables (none named: all, whatever became of slot and checkpoint) copied anew: at once by the running pipeline,
    else at its next start."""
    names = [sink] if sink is not None else [item.name for item in settings.sinks]
    config = replace(source_config(settings), include=tables or settings.source.include)
    async with await connect(config.dsn, application=application_name(config.name, "resync")) as connection:
        chosen = [table.id for table in (await read_wanted(connection, config)).selection.tables]
    if not chosen:
        raise ConfigError(
            f"no table matches {', '.join(tables)}", hint="patterns are schema.table with * and ?"
        )
    asked = chosen if tables else None
    for name in names:
        try:
            await call(settings.pipeline.state_dir, "resync", {"sink": name, "tables": asked})
        except NotRunning:
            async with owned(settings.pipeline.state_dir):
                await request_resync(settings.pipeline.state_dir, name, asked)
    return [str(table) for table in chosen]


async def query(settings: Settings, sink: str, statement: str) -> tuple[list[str], list[list[Any]]]:
    """Rows of an embedded copy."""
    try:
        columns, rows = await call(
            settings.pipeline.state_dir, "query", {"sink": sink, "args": [statement]}, timeout=None
        )
        return columns, rows
    except NotRunning:
        pass
    factories = sink_factories(settings)
    if sink not in factories:
        raise ConfigError(f"there is no sink {sink!r}", hint=f"sinks: {', '.join(factories)}")
    async with make_source(settings) as source:
        identity = source.identity
    state_dir = settings.pipeline.state_dir
    async with owned(state_dir):
        context = SinkContext(settings.pipeline.name, sink, identity, str(state_dir))
        async with factories[sink](context) as opened:
            ask = getattr(opened, "query", None)
            if ask is None:
                raise OperatorError(f"sink {sink} is not an embedded copy", hint="ask the store itself")
            columns, rows = await ask(statement)
            return columns, [list(row) for row in rows]


async def _connected(settings: Settings, role: str) -> Connection:
    return await connect(settings.source.dsn, application=application_name(settings.pipeline.name, role))


async def slots(settings: Settings) -> list[SlotState]:
    async with await _connected(settings, "slot") as connection:
        return await slot_room.list_slots(connection)


async def create_slot(settings: Settings, name: str | None) -> tuple[str, Lsn]:
    """Creates a slot without a snapshot. The configured one is noted as this state directory's own."""
    chosen = name or settings.source.slot
    application = application_name(settings.pipeline.name, "slot")
    async with (
        await connect(settings.source.dsn, application=application) as control,
        await connect(settings.source.dsn, application=application, replication=True) as replication,
    ):
        created = await slot_room.create_slot(
            replication, chosen, failover=settings.source.failover, control=control
        )
    if chosen == settings.source.slot:
        async with owned(settings.pipeline.state_dir):
            await adopt_slot(settings.pipeline.state_dir)
    return created.name, created.consistent_point


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


async def tail(
    settings: Settings, tables: tuple[str, ...], *, limit: int | None = None, seconds: float | None = None
) -> AsyncIterator[bytes]:
    """Changes from now on as JSON lines, through a temporary slot; of TABLES through a publication that goes with it."""
    name = f"walcast_tail_{secrets.token_hex(4)}"
    config = replace(
        source_config(settings), name=f"{settings.pipeline.name}:tail", slot=name, temporary_slot=True
    )
    async with await connect(config.dsn, application=application_name(config.name)) as connection:
        own = bool(tables) or await publication_room.read_publication(connection, config.publication) is None
        if own:
            config = replace(config, publication=name, include=tables or settings.source.include)
            await ensure_wanted(connection, config)
        try:
            async with (
                asyncio.timeout(seconds),
                PostgresSource(config) as source,
                aclosing(_lines(source, limit)) as lines,
            ):
                async for line in lines:
                    yield line
        except TimeoutError:
            return
        finally:
            if own:
                await publication_room.drop_publication(connection, name)


async def _lines(source: PostgresSource, limit: int | None) -> AsyncGenerator[bytes, None]:
    left = limit
    async with aclosing(source.stream(None)) as stream:
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
