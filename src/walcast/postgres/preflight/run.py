"""Reads the facts once and asks every check."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, LiteralString

import psycopg

from walcast.model import LEVELS, Finding, OperatorError
from walcast.postgres.catalog import fetch_one
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.faults import explain
from walcast.postgres.preflight.facts import Facts
from walcast.postgres.preflight.server import (
    check_features,
    check_replication_role,
    check_retention,
    check_slot_room,
    check_slot_state,
    check_standby,
    check_synchronous,
    check_wal_level,
    check_walsenders,
    version_finding,
)
from walcast.postgres.preflight.tables import (
    check_binary,
    check_identity,
    check_inheritance,
    check_publication,
    check_published_shape,
    check_readable,
    check_selection,
)
from walcast.postgres.slots import slot_state
from walcast.postgres.wanted import Wanted, read_wanted

CHECKS: Final[tuple[Callable[[Facts], Awaitable[list[Finding]]], ...]] = (
    check_wal_level,
    check_standby,
    check_features,
    check_replication_role,
    check_slot_state,
    check_slot_room,
    check_walsenders,
    check_synchronous,
    check_retention,
    check_selection,
    check_readable,
    check_publication,
    check_published_shape,
    check_identity,
    check_inheritance,
    check_binary,
)

_SETTINGS: Final[LiteralString] = """
select pg_catalog.pg_is_in_recovery(),
       pg_catalog.jsonb_object_agg(s.name, pg_catalog.current_setting(s.name))
  from pg_catalog.unnest(array['wal_level', 'max_replication_slots', 'max_wal_senders', 'synchronous_standby_names',
                    'max_slot_wal_keep_size', 'idle_replication_slot_timeout']) s(name)
 where pg_catalog.current_setting(s.name, true) is not null
"""


async def preflight(config: SourceConfig) -> list[Finding]:
    """All findings, errors first; empty when nothing is to be said.

    Raises OperatorError or SourceUnavailable only when the server cannot be asked at all.
    """
    async with await connect(
        config.dsn, application=application_name(config.name, "preflight")
    ) as connection:
        try:
            if too_old := version_finding(connection.info.server_version):
                return too_old  # the other checks' queries are for later catalogs
            facts = await read_facts(connection, config)
            found = [finding for check in CHECKS for finding in await check(facts)]
        except psycopg.Error as error:
            raise explain(error, "checking the source") from None
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


async def read_facts(connection: Connection, config: SourceConfig) -> Facts:
    """What the checks look at. The server must be one that Walcast reads. Raises psycopg's errors."""
    standby, settings = await fetch_one(connection, _SETTINGS)
    refusal: OperatorError | None = None
    wanted: Wanted | None = None
    try:
        wanted = await read_wanted(connection, config)
    except OperatorError as error:
        refusal = error
    return Facts(
        connection, config, settings, standby, await slot_state(connection, config.slot), wanted, refusal
    )
