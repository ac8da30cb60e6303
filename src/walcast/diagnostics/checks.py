"""The list of checks. One line adds one: name, what it looks at, the function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from walcast.diagnostics import disk, failover, files, pipeline, server, tables, wal
from walcast.diagnostics.case import Case
from walcast.model import Finding
from walcast.postgres.preflight import server as before
from walcast.postgres.preflight import tables as before_tables


@dataclass(frozen=True, slots=True)
class Check:
    """`about` says what it looks at. `source`: it is made only when the source can be asked."""

    name: str
    about: str
    look: Callable[[Case], Awaitable[Sequence[Finding]]]
    source: bool = True


async def check_connection(case: Case) -> Sequence[Finding]:
    """That the source can be asked is found when it is opened."""
    return []


CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "connection", "the source can be reached, with this DSN and this role", check_connection, source=False
    ),
    Check(
        "replication",
        "the role may replicate, and pg_hba.conf lets it",
        server.asked(before.check_replication_role),
    ),
    Check("tls", "the connection is encrypted and the server's certificate verified", server.check_tls),
    Check("version", "server and libpq are supported, and old enough to be tested", server.check_version),
    Check(
        "features",
        "the server has what the configuration uses",
        server.asked(before.check_features, before.check_standby),
    ),
    Check("clock", "the source's clock and this machine's agree", server.check_clock),
    Check("wal_level", "`wal_level` is logical", server.asked(before.check_wal_level)),
    Check(
        "slot",
        "the slot is one that can be read, and `max_replication_slots` leaves room for it",
        server.asked(before.check_slot_state, before.check_slot_room),
    ),
    Check("walsenders", "`max_wal_senders` leaves room", server.asked(before.check_walsenders)),
    Check("timeouts", "`wal_sender_timeout` ends dead readers, and only those", server.check_timeouts),
    Check(
        "retention",
        "`max_slot_wal_keep_size` and `idle_replication_slot_timeout`",
        server.asked(before.check_retention),
    ),
    Check(
        "memory", "transactions fit `logical_decoding_work_mem` while they are decoded", server.check_memory
    ),
    Check(
        "synchronous", "no commit at the source waits for the copy", server.asked(before.check_synchronous)
    ),
    Check(
        "selection",
        "the tables are there and can be copied: no unlogged or foreign ones, no views",
        server.asked(before_tables.check_selection, before_tables.check_inheritance),
    ),
    Check("privileges", "the role may read every row of them", server.asked(before_tables.check_readable)),
    Check(
        "publication",
        "the publication sends them whole, or can be made to",
        server.asked(before_tables.check_publication, before_tables.check_published_shape),
    ),
    Check(
        "membership",
        "the publication has every table that the configuration selects",
        tables.check_membership,
    ),
    Check("identity", "every table has a replica identity", server.asked(before_tables.check_identity)),
    Check("types", "every type has a binary form", server.asked(before_tables.check_binary)),
    Check("foreign_keys", "every foreign key has an index", tables.check_foreign_keys),
    Check(
        "wal",
        "who holds WAL: which slot, how much, since when and why; whether archiving works",
        wal.check_wal,
    ),
    Check("vacuum", "no slot keeps dead rows from vacuum (`catalog_xmin`)", wal.check_vacuum),
    Check("transactions", "no transaction is open or prepared for long", wal.check_transactions),
    Check(
        "disk",
        "when the source's disk is full, and when a slot is lost, at the present rate of WAL",
        disk.check_disk,
    ),
    Check("budget", "the WAL budget and the timeouts go with the server's settings", files.check_budget),
    Check(
        "failover",
        "failover slots are synchronized, and `synchronized_standby_slots` names the standbys",
        failover.check_failover,
    ),
    Check("leftovers", "nothing is left of commands that were killed", tables.check_leftovers),
    Check("pipeline", "the pipeline runs", pipeline.check_pipeline, source=False),
    Check("sinks", "every sink follows, and no table is stopped", pipeline.check_sinks, source=False),
    Check("dead_letters", "no row was set aside", pipeline.check_dead_letters, source=False),
    Check("targets", "every target can be reached and written", files.check_targets, source=False),
    Check("checkpoints", "no copy is behind its slot or ahead of its source", pipeline.check_checkpoints),
    Check(
        "files",
        "what is written on this machine can be, and passwords are for its owner alone",
        files.check_files,
        source=False,
    ),
    Check("configuration", "the settings go together", files.check_configuration, source=False),
)
