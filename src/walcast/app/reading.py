"""A source that is read on the side: by a temporary slot of its own, disturbing nothing, or by a named one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from walcast.app.compose import connect_source
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.passing import claim, drop_passing, passing_name, passing_publications
from walcast.postgres.publications import drop_publication, lacking
from walcast.postgres.slots import create_slot, slot_state
from walcast.postgres.source import PostgresSource
from walcast.postgres.wanted import ensure_wanted, read_wanted


@contextlib.asynccontextmanager
async def reading(config: SourceConfig, *, slot: str | None = None) -> AsyncIterator[PostgresSource]:
    """An open source of `config.include`, from now on.

    Without `slot` its slot is temporary, and so is its publication, unless the configured one covers the tables. A named
    slot is made when it is not there and stays; so does the publication, which may need making, too.
    """
    named = passing_name() if slot is None else slot
    config = replace(config, name=f"{config.name}:tail", slot=named, temporary_slot=slot is None)
    async with await connect_source(config, "publication") as connection:
        passing = slot is None and not await _covered(connection, config)
        if passing:
            config = replace(config, publication=named)
            await claim(connection, named)
            for left in await passing_publications(connection):
                await drop_passing(connection, left)
        try:
            if passing or slot is not None:
                await ensure_wanted(connection, config)
            if slot is not None and await slot_state(connection, slot) is None:
                await _create(config, connection)
            async with PostgresSource(config) as source:
                yield source
        finally:
            if passing:
                await drop_publication(connection, named)


async def _covered(connection: Connection, config: SourceConfig) -> bool:
    """Whether the configured publication sends all that is asked for."""
    wanted = await read_wanted(connection, config)
    return (
        wanted.publication is not None
        and not wanted.selection.unmatched
        and not lacking(wanted.publication, wanted.membership)
    )


async def _create(config: SourceConfig, control: Connection) -> None:
    application = application_name(config.name)
    async with await connect(config.dsn, application=application, replication=True) as replication:
        await create_slot(replication, config.slot, failover=config.failover, control=control)
