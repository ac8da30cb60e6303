"""`walcast switch`: the copies go on at another server that has the same rows, without a new snapshot and without a gap.

    1. drain    nobody writes any more; every sink gets all that the old source has; the fence is noted
    2. (dump and restore, or pg_upgrade, or a standby made a server of its own)
    3. attach   publication and slot are made at the new server; from its consistent point on the copies follow it

Whatever is written at the old server after 1, or at the new one before 3, is in no copy. Both are looked for.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, LiteralString

from walcast.app.compose import connect_source, source_config
from walcast.app.operations import create_slot_at
from walcast.app.service import serve
from walcast.app.settings import Settings
from walcast.engine import StateFile, Switch, owned
from walcast.model import ConfigError, Lsn, OperatorError, Relation, SlotState, TableId
from walcast.model.secret import Secret
from walcast.postgres.catalog import describe_relations, identity
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, describe
from walcast.postgres.preflight import preflight
from walcast.postgres.slots import OpenTransaction, open_transactions, slot_state
from walcast.postgres.wanted import Wanted, ensure_wanted, read_wanted

_ROUNDS: Final = 3
"""Drains until one brings nothing."""

_POSITION: Final[LiteralString] = "select pg_catalog.pg_current_wal_insert_lsn()::text"


@dataclass(frozen=True, slots=True)
class Drained:
    """Every copy has all of the old source up to `fence`."""

    source: int
    fence: Lsn


@dataclass(frozen=True, slots=True)
class Attached:
    """The copies go on at the new server, at `at` of slot `slot`."""

    target: int
    slot: str
    at: Lsn


async def drain(settings: Settings) -> Drained:
    """Runs the pipeline until nothing more comes. Raises OperatorError when writes go on, when a transaction is open, or
    when a sink cannot take what there is."""
    config = source_config(settings)
    for _ in range(_ROUNDS):
        result = await serve(settings, standby=False, until="now")
        stopped = [sink.name for sink in result.stopped_sinks] + [t.table for _, t in result.stopped_tables]
        if stopped:
            raise OperatorError(
                f"not every copy has everything: {', '.join(stopped)} stopped", hint="see: walcast doctor"
            )
        if not any(sink.transactions for sink in result.status.sinks):
            break
    else:
        raise OperatorError(
            "the source is still written to: each time the copies had everything there was more",
            hint="stop the applications, or make the old server refuse them; then again: walcast switch",
        )
    async with await connect_source(config, "switch") as connection:
        if busy := _writing(await open_transactions(connection)):
            raise OperatorError(
                f"somebody still writes to the source: {busy[0]}",
                hint="end it (commit, rollback, pg_terminate_backend); then again: walcast switch",
            )
        known = await identity(connection)
    fence = min(
        (sink.checkpoint.through for sink in result.status.sinks if sink.checkpoint is not None),
        default=Lsn(0),
    )
    async with owned(settings.pipeline.state_dir):
        state = StateFile(settings.pipeline.state_dir)
        await state.load()
        await state.note_switch(Switch(known.system_id, fence))
    return Drained(known.system_id, fence)


def _writing(transactions: list[OpenTransaction]) -> list[OpenTransaction]:
    return [t for t in transactions if not t.application.startswith("walcast:")]


async def attach(settings: Settings, dsn: str, *, keep_slot: bool = False) -> Attached:
    """Makes the new server's publication and slot, and notes that the copies go on there. Can be run again after a crash.

    `keep_slot`: the slot is there already, carried over by pg_upgrade. Raises OperatorError, with what is missing.
    """
    config = dataclasses.replace(source_config(settings), dsn=Secret(dsn))
    async with owned(settings.pipeline.state_dir):
        state = StateFile(settings.pipeline.state_dir)
        await state.load()
        begun = state.switch
        if begun is None:
            raise OperatorError(
                "the copies were not drained before",
                hint="stop the writes at the old server, then: walcast switch",
            )
        async with await connect_source(config, "switch") as connection:
            known = await identity(connection)
            slot = await slot_state(connection, config.slot)
            interrupted = begun.target == known.system_id and begun.at is None
            if begun.target == known.system_id and begun.at is not None:
                return Attached(known.system_id, config.slot, begun.at)
            await _check(config, connection, begun, known.system_id, slot, expected=keep_slot or interrupted)
            await _check_tables(settings, config, connection)
            await ensure_wanted(connection, config)
            await state.note_switch(dataclasses.replace(begun, target=known.system_id))
            at = slot.confirmed if slot is not None else await create_slot_at(config, connection)
            if at is None:
                raise OperatorError(f"slot {config.slot} is still being made", hint="try again in a moment")
        await state.note_switch(dataclasses.replace(begun, target=known.system_id, at=at))
    return Attached(known.system_id, config.slot, at)


async def _check(
    config: SourceConfig,
    connection: Connection,
    begun: Switch,
    system_id: int,
    slot: SlotState | None,
    *,
    expected: bool,
) -> None:
    where = describe(config.dsn)
    if system_id == begun.source:
        raise ConfigError(
            f"{where} is the old source", hint="give the DSN of the new server: walcast switch DSN"
        )
    if slot is not None and not expected:
        raise OperatorError(
            f"there is a slot {slot.name} at {where} already, and what it was made for is not known",
            hint="drop it; or, when pg_upgrade carried it over, say --keep-slot",
        )
    errors = [finding for finding in await preflight(config) if finding.level == "error"]
    if errors:
        raise OperatorError(f"{where}: {errors[0].message}", hint=errors[0].hint)


async def _check_tables(settings: Settings, config: SourceConfig, connection: Connection) -> None:
    """The new server has every table of the old one, as it was; skipped when the old one is gone by now."""
    try:
        old = await connect_source(source_config(settings), "switch")
    except Exception:  # it was upgraded in place, or is switched off: that is as it should be
        return
    async with old:
        before = await _described(old, await read_wanted(old, source_config(settings)))
    after = await _described(connection, await read_wanted(connection, config))
    lacking = [str(table) for table in before if table not in after]
    if lacking:
        raise OperatorError(
            f"{describe(config.dsn)} does not have {', '.join(lacking[:5])}",
            hint="restore them there; or leave them out of source.include and say walcast switch again",
        )
    for table, relation in before.items():
        if difference := _difference(relation, after[table]):
            raise OperatorError(
                f"{table} at {describe(config.dsn)} differs: {difference}",
                hint="make it as it was; change it once the copies follow",
            )


async def _described(connection: Connection, wanted: Wanted) -> dict[TableId, Relation]:
    return await describe_relations(connection, [table.oid for table in wanted.selection.tables])


def _difference(before: Relation, after: Relation) -> str:
    types = {column.name: column.sql_type for column in after.columns}
    for column in before.columns:
        if column.name not in types:
            return f"column {column.name} is missing"
        if types[column.name] != column.sql_type:
            return f"column {column.name} is {types[column.name]}, not {column.sql_type}"
    return ""
