"""The doctor's checks of the source: each is put before a server that has the fault, and one that has not."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.integration.doctor_tools import AT_REST, found, own_address, visit

from walcast.diagnostics import CHECKS, Limits, Setup, apply, opened
from walcast.model import Finding
from walcast.model.secret import Secret
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import connect
from walcast.postgres.local import LocalServer, find
from walcast.postgres.passing import claim, passing_name
from walcast.testing.postgres import Database, PostgresServer

Factory = Callable[..., PostgresServer]
SMALL = Limits(retained=1 << 20, transaction=0.0, window=0.3)


def write_wal(server: Database | PostgresServer, megabytes: int = 20) -> None:
    """WAL that no table keeps."""
    for _ in range(megabytes):
        server.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 1000000))")


@contextlib.contextmanager
def idle_transaction(server: Database | PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that has an xid and stays open."""
    with server.connect() as connection:
        connection.execute("set application_name = 'nightly'; begin; select pg_current_xact_id()")
        yield connection
        connection.execute("rollback")


def test_every_check_has_a_name_of_its_own_and_says_what_it_looks_at() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.about and not check.about.endswith(".") for check in CHECKS)


async def test_a_sound_source_passes_every_check_on_every_version(any_database: Database) -> None:
    any_database.execute("create table a (id int primary key, x text)")
    healthy = {"wal_disk": 1 << 50}
    day = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
    report = await visit(any_database.dsn(), limits=Limits(clock=1e12), clock=lambda: day, **healthy)
    kept = {"unlimited_wal", "not_running", "no_sinks"}
    shared = {"wal_held", "slot_lost", "long_transaction"}  # other tests' slots on the same server
    assert {f.name for f in report.findings} - shared == kept
    assert not any(check.skipped for check in report.checks)
    assert len(report.checks) == len(CHECKS)


async def test_a_source_that_cannot_be_reached_skips_what_asks_it(any_database: Database) -> None:
    report = await visit(any_database.dsn(dbname="no_such_db"))
    names = {finding.name: finding for finding in report.findings}
    assert "does not exist" in names["connection"].message
    assert report.worst == "error"
    assert {check.name for check in report.checks if check.skipped} == {c.name for c in CHECKS if c.source}


async def test_an_unencrypted_and_an_unverified_connection(postgres_factory: Factory) -> None:
    address = own_address()
    server = postgres_factory(
        15, tls=True, settings={"listen_addresses": "*"}, hba=("host all all all scram-sha-256",)
    )
    dsn = server.dsn(via="tcp", host=address)
    assert set(await found(f"{dsn} sslmode=disable", "tls")) == {"tls_off"}
    assert set(await found(f"{dsn} sslmode=require", "tls")) == {"tls_unverified"}
    assert server.certificates is not None
    root = server.certificates.root
    assert (
        await found(server.dsn(via="tcp", host="localhost", sslmode="verify-full", sslrootcert=root), "tls")
        == {}
    )
    assert await found(server.dsn(via="tcp", sslmode="disable"), "tls") == {}, "loopback"


async def test_a_server_past_its_end_of_life(shared_postgres: Callable[[int], PostgresServer]) -> None:
    def later() -> float:
        return datetime(2026, 1, 1, tzinfo=UTC).timestamp()

    assert (
        "2025-11-13"
        in (await found(shared_postgres(13).dsn(), "version", clock=later))["server_end_of_life"].message
    )
    assert await found(shared_postgres(14).dsn(), "version", clock=later) == {}


async def test_a_server_newer_and_a_libpq_older_than_what_is_tested(
    shared_postgres: Callable[[int], PostgresServer],
) -> None:
    """The server and the library are what they are: what Walcast is tested with is set below and above them."""
    newer = await found(shared_postgres(18).dsn(), "version", limits=Limits(newest=17))
    assert newer["server_newer"].message.startswith("PostgreSQL 18 is newer")
    library = psycopg.pq.version() // 10_000
    old = await found(shared_postgres(18).dsn(), "version", limits=Limits(libpq=library + 1))
    assert f"libpq is version {library}" in old["libpq_old"].message
    assert await found(shared_postgres(18).dsn(), "version", limits=Limits(newest=18, libpq=library)) == {}


async def test_a_clock_that_is_off(database: Database) -> None:
    late = (await found(database.dsn(), "clock", clock=lambda: time.time() - 60))["clock"]
    assert "60 s ahead of" in late.message
    early = (await found(database.dsn(), "clock", clock=lambda: time.time() + 3 * 3600))["clock"]
    assert "3.0 hours behind" in early.message
    assert await found(database.dsn(), "clock") == {}


@pytest.mark.parametrize(
    ("setting", "name"),
    [("0", "walsender_without_timeout"), ("2s", "walsender_timeout_short"), ("1min", None)],
)
async def test_a_walsender_timeout_that_ends_nobody_or_everybody(
    database: Database, setting: str, name: str | None
) -> None:
    dsn = f"{database.dsn()} options='-c wal_sender_timeout={setting}'"
    assert set(await found(dsn, "timeouts")) == ({name} if name else set())


async def test_decoding_that_spills_to_disk(make_database: Any, shared_postgres: Any) -> None:
    database = make_database(shared_postgres(14))
    database.execute("create table a (id int primary key, x text); create publication walcast for table a")
    database.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", [database.name])
    database.execute("insert into a select n, repeat('x', 100) from generate_series(1, 20000) n")
    with database.connect() as connection:
        connection.execute("set logical_decoding_work_mem = '64kB'")
        connection.execute(
            "select count(*) from pg_logical_slot_get_changes(%s, null, null)", [database.name]
        )
    for _ in range(100):
        if database.execute("select 1 from pg_stat_replication_slots where spill_bytes > 0"):
            break
        await asyncio.sleep(0.05)
    finding = (await found(database.dsn(), "memory", limits=SMALL, slot=database.name))["decoding_spills"]
    assert "of 1 transactions" in finding.message


async def test_a_slot_that_nobody_reads(postgres_factory: Factory) -> None:
    for version in (13, 18):
        server = postgres_factory(version)
        server.execute("create table a (id int primary key); create publication walcast for table a")
        server.execute("select pg_create_logical_replication_slot('reports', 'pgoutput')")
        server.execute("select pg_create_physical_replication_slot('standby2', true)")
        write_wal(server)
        findings = [f for f in (await visit(server.dsn(), "wal")).findings if f.name == "wal_held"]
        by_slot = {finding.message.split()[1]: finding for finding in findings}
        assert "nobody reads it" in by_slot["reports"].message
        assert by_slot["reports"].hint is not None
        assert "walcast slot drop reports" in by_slot["reports"].hint
        assert "its standby is away" in by_slot["standby2"].message
        assert all(finding.level == "warning" for finding in findings)
        for finding in findings:
            assert finding.since is not None
            assert abs(finding.since.timestamp() - time.time()) < 60, "since it was made, not since ever"
        ours = (await visit(server.dsn(), "wal", slot="reports")).findings
        assert any("its pipeline does not run" in finding.message for finding in ours)


async def test_a_slot_that_is_about_to_be_lost_and_one_that_is(postgres_factory: Factory) -> None:
    server = postgres_factory(18, settings={"max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB"})
    server.execute("select pg_create_logical_replication_slot('reports', 'pgoutput')")
    while server.execute("select wal_status from pg_replication_slots") != [("unreserved",)]:
        write_wal(server, 4)
    finding = (await found(server.dsn(), "wal"))["wal_held"]
    assert finding.level == "error"
    assert "about to be invalidated" in finding.message
    server.execute("select pg_switch_wal(); checkpoint")
    write_wal(server, 33)
    server.execute("checkpoint")
    assert "has lost its WAL" in (await found(server.dsn(), "wal"))["slot_lost"].message
    assert "was invalidated" in (await found(server.dsn(), "slot", slot="reports"))["slot"].message


async def test_a_long_transaction_holds_what_a_reader_has_confirmed(postgres_factory: Factory) -> None:
    server = postgres_factory(16, settings={"max_prepared_transactions": 5})
    server.execute("create table a (id int primary key); create publication walcast for table a")
    server.execute("select pg_create_logical_replication_slot('walcast', 'pgoutput')")
    reader = await connect(server.dsn(), application="walcast:t", replication=True)
    try:
        with idle_transaction(server):
            reader.pgconn.exec_(
                b"START_REPLICATION SLOT walcast LOGICAL 0/0 (proto_version '1', publication_names 'walcast')"
            )
            write_wal(server, 3)
            _confirm_all(reader, server)
            finding = (await found(server.dsn(), "wal", "transactions", limits=SMALL))["wal_held"]
            assert "decoding begins before pid" in finding.message
            assert "nightly" in finding.message
            assert "pg_terminate_backend" in str(finding.hint)
        with server.connect() as connection:
            connection.execute("begin; insert into a values (1); prepare transaction 'forgotten'")
        write_wal(server, 3)
        _confirm_all(reader, server)
        findings = await found(server.dsn(), "wal", "transactions", limits=SMALL)
        assert "prepared transaction 'forgotten'" in findings["wal_held"].message
        assert findings["prepared_transaction"].hint == "commit prepared or rollback prepared 'forgotten'"
        server.execute("rollback prepared 'forgotten'")
    finally:
        await reader.close()


def _confirm_all(reader: Any, server: PostgresServer) -> None:
    """Answers as a reader that has everything, until the slot shows it."""
    for _ in range(100):
        ((lsn,),) = server.execute("select (pg_current_wal_lsn() - '0/0')::int8")
        reader.pgconn.put_copy_data(b"r" + lsn.to_bytes(8, "big") * 3 + bytes(8) + b"\0")
        reader.pgconn.flush()
        time.sleep(0.02)
        if server.execute(
            "select 1 from pg_replication_slots where pg_current_wal_lsn() - confirmed_flush_lsn < 100000"
        ):
            return
    raise AssertionError("the slot does not move")


async def test_a_reader_that_confirms_nothing_and_a_sink_that_is_down(postgres_factory: Factory) -> None:
    server = postgres_factory(17)
    server.execute("create table a (id int primary key); create publication walcast for table a")
    server.execute("select pg_create_logical_replication_slot('walcast', 'pgoutput')")
    reader = await connect(server.dsn(), application="walcast:t", replication=True)
    try:
        reader.pgconn.exec_(
            b"START_REPLICATION SLOT walcast LOGICAL 0/0 (proto_version '1', publication_names 'walcast')"
        )
        write_wal(server, 3)
        finding = (await found(server.dsn(), "wal", limits=SMALL))["wal_held"]
        assert "its reader (pid" in finding.message
        sink = {
            "name": "lake",
            "state": "retrying",
            "checkpoint": {"through": "0/1"},
            "lag_bytes": 3 << 20,
            "stopped_tables": [],
            "error": {"message": "no room on the disk", "remedy": "free some"},
        }
        status = AT_REST | {"running": True, "sinks": [sink]}
        finding = (await found(server.dsn(), "wal", limits=SMALL, status=status))["wal_held"]
        assert "sink lake is retrying and 3.0 MB behind: no room on the disk" in finding.message
        assert finding.hint == "free some"
    finally:
        await reader.close()


async def test_a_standby_that_does_not_keep_up_and_one_that_is_gone() -> None:
    binaries = find(18, tools=("pg_basebackup",))
    with LocalServer(binaries=binaries) as primary, primary.standby() as standby:
        _until_streaming(primary)
        standby.pause()
        write_wal(primary, 20)
        finding = (await found(primary.dsn(), "wal", limits=SMALL))["wal_held"]
        assert "standby standby is" in finding.message
        standby.resume()
        standby.stop()
        write_wal(primary, 20)
        assert "its standby is away" in (await found(primary.dsn(), "wal"))["wal_held"].message


def _until_streaming(primary: PostgresServer) -> None:
    while not primary.execute("select 1 from pg_stat_replication where state = 'streaming'"):
        time.sleep(0.05)


async def test_an_archive_command_that_fails(postgres_factory: Factory) -> None:
    server = postgres_factory(15, settings={"archive_mode": "on", "archive_command": "false"})
    server.execute("select pg_logical_emit_message(false, '', 'x'), pg_switch_wal()")
    for _ in range(100):
        if server.execute("select 1 from pg_stat_archiver where failed_count > 0"):
            break
        await asyncio.sleep(0.1)
    finding = (await found(server.dsn(), "wal"))["archiver_fails"]
    assert finding.level == "error"


async def test_a_slot_that_holds_dead_rows_from_vacuum(postgres_factory: Factory) -> None:
    server = postgres_factory(18)
    server.execute("select pg_create_logical_replication_slot('reports', 'pgoutput')")
    server.execute("do $$ begin for i in 1..200 loop perform pg_current_xact_id(); commit; end loop; end $$")
    finding = (await found(server.dsn(), "vacuum", limits=Limits(catalog_age=100)))["stale_xmin"]
    assert "catalog_xmin" in finding.message
    assert finding.since is not None
    assert await found(server.dsn(), "vacuum") == {}


async def test_a_long_transaction_is_named(database: Database) -> None:
    with idle_transaction(database):
        report = await visit(database.dsn(), "transactions", limits=Limits(transaction=0.0))
        assert any("nightly" in finding.message for finding in report.findings)
        report = await visit(database.dsn(), "transactions")
        assert not any("nightly" in finding.message for finding in report.findings)


async def test_when_the_disk_is_full_and_when_a_slot_is_lost(postgres_factory: Factory) -> None:
    server = postgres_factory(18, settings={"max_slot_wal_keep_size": "200MB", "autovacuum": "off"})
    server.execute("select pg_create_logical_replication_slot('reports', 'pgoutput')")
    write_wal(server)
    server.execute("checkpoint")
    patient = Limits(window=0.5)
    assert await found(server.dsn(), "disk", limits=patient) == {}, "nothing is written"
    source = {"error": None, "position": None, "wal_rate": float(1 << 20), "wal_watched": 3600.0}
    seen = await found(
        server.dsn(), "disk", limits=patient, wal_disk=1 << 33, status=AT_REST | {"source": source}
    )
    assert "at 1.0 MB of WAL a second" in seen["disk_full_soon"].message, "as the pipeline has seen it"
    short = AT_REST | {"source": source | {"wal_watched": 5.0}}
    assert await found(server.dsn(), "disk", limits=patient, wal_disk=1 << 33, status=short) == {}
    with _writing(server):
        findings = await found(server.dsn(), "disk", limits=patient, wal_disk=1 << 30)
        assert findings["disk_full_soon"].level == "error"
        assert "slot reports holds it" in findings["disk_full_soon"].message
        assert "max_slot_wal_keep_size leaves it" in findings["slot_lost_soon"].message
    assert "disk_low" in await found(server.dsn(), "disk", limits=Limits(free=1 << 60))
    server.execute("select pg_drop_replication_slot('reports')")
    with _writing(server):
        assert await found(server.dsn(), "disk", limits=patient, wal_disk=1 << 33) == {}, "nobody holds it"


@contextlib.contextmanager
def _writing(server: PostgresServer) -> Iterator[None]:
    """A session that writes WAL all the time."""
    work = "do $$ begin loop perform pg_logical_emit_message(false, 'n', repeat('x', 100000)); perform pg_sleep(0.005); end loop; end $$"
    program = "import sys, psycopg; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[2])"
    writer = subprocess.Popen([sys.executable, "-c", program, server.dsn(), work], stderr=subprocess.DEVNULL)
    try:
        while not server.execute(
            "select 1 from pg_stat_activity where query like 'do %' and state = 'active'"
        ):
            time.sleep(0.05)
        yield
    finally:
        writer.kill()
        writer.wait()


async def test_the_budget_against_the_servers_own_limit(postgres_factory: Factory) -> None:
    server = postgres_factory(18, settings={"max_slot_wal_keep_size": "64MB"})
    server.execute("select pg_create_logical_replication_slot('walcast', 'pgoutput')")
    beyond = await found(server.dsn(), "budget", setup={"wal_budget": 1 << 30})
    assert set(beyond) == {"budget_beyond_server"}
    write_wal(server, 10)
    used = await found(server.dsn(), "budget", setup={"wal_budget": 8 << 20})
    assert used["wal_budget"].level == "error"
    near = await found(server.dsn(), "budget", setup={"wal_budget": 11 << 20})
    assert near["wal_budget"].level == "warning"
    assert set(await found(server.dsn(), "budget", receive_timeout=1.0)) == {"receive_timeout_short"}


async def test_failover_that_is_not_prepared(shared_postgres: Callable[[int], PostgresServer]) -> None:
    dsn = shared_postgres(18).dsn()
    assert await found(dsn, "failover") == {}
    assert "no_standby" in await found(dsn, "failover", failover=True)
    old = find(16, tools=("pg_basebackup",))
    with LocalServer(binaries=old) as primary, primary.standby():
        assert set(await found(primary.dsn(), "failover")) == {"failover_loses_slot"}


async def test_failover_slots_and_the_standbys_that_should_have_them() -> None:
    binaries = find(18, tools=("pg_basebackup",))
    with LocalServer(binaries=binaries) as primary, primary.standby() as standby:
        both = f"{standby.folder},{primary.folder}", f"{standby.port},{primary.port}"
        dsn = primary.dsn(host=both[0], port=both[1], target_session_attrs="read-write")
        assert "is off" in (await found(dsn, "failover"))["failover_loses_slot"].message
        primary.execute("select pg_create_logical_replication_slot('walcast', 'pgoutput')")
        assert (await found(dsn, "failover", failover=True))["slot_without_failover"].level == "error"
        primary.execute("select pg_drop_replication_slot('walcast')")
        primary.execute(
            "select pg_create_logical_replication_slot('walcast', 'pgoutput', false, false, true)"
        )
        findings = await found(dsn, "failover", failover=True)
        assert set(findings) == {"standby_not_waited_for", "standby_without_feedback", "slot_not_synced"}
        assert "sync_replication_slots is off" in findings["slot_not_synced"].message
        standby.reload({"hot_standby_feedback": "on"})
        primary.reload({"synchronized_standby_slots": "standby_slot"})
        _until_synced(primary, standby)
        for _ in range(100):
            if not (left := await found(dsn, "failover", failover=True)):
                break
            await asyncio.sleep(0.1)
        assert left == {}
        standby.execute("alter system set primary_slot_name = ''")
        standby.reload()
        async with asyncio.timeout(30):
            while "standby_without_slot" not in (left := await found(dsn, "failover", failover=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert "pg_create_physical_replication_slot" in str(left["standby_without_slot"].hint)
        standby.pause()
        gone = await found(f"{dsn} connect_timeout=1", "failover", failover=True)
        standby.resume()
        assert "standby_unreachable" in gone


def _until_synced(primary: PostgresServer, standby: PostgresServer) -> None:
    for _ in range(200):
        primary.execute("select pg_log_standby_snapshot()")
        with contextlib.suppress(psycopg.Error):
            primary.execute("select pg_replication_slot_advance('walcast', pg_current_wal_lsn())")
            standby.execute("select pg_sync_replication_slots()")
        if standby.execute("select 1 from pg_replication_slots where synced and not temporary"):
            return
        time.sleep(0.05)
    raise AssertionError(standby.log())


async def test_foreign_keys_without_an_index(database: Database) -> None:
    database.execute(
        'create table "Head" (a int, b int, primary key (a, b));'
        'create table plain (id int primary key, "A b" int, b int, foreign key ("A b", b) references "Head");'
        'create table backed (id int primary key, a int, b int, foreign key (a, b) references "Head");'
        "create index on backed (b, a, id);"
        'create table partial (id int primary key, a int, b int, foreign key (a, b) references "Head");'
        "create index on partial (a, b) where id > 5;"
    )
    report = await visit(database.dsn(), "foreign_keys")
    assert {finding.message.split(":")[0] for finding in report.findings} == {
        "public.plain",
        "public.partial",
    }
    for finding in report.findings:
        assert finding.hint is not None
        database.execute(finding.hint)  # type: ignore[arg-type]  # what it says can be typed
    assert (await visit(database.dsn(), "foreign_keys")).findings == []


async def test_a_table_that_is_selected_and_not_published_is_added(database: Database) -> None:
    database.execute("create table a (id int primary key); create table b (id int primary key)")
    database.execute("create publication walcast for table a")
    finding = (await found(database.dsn(), "membership"))["not_published"]
    assert "does not send public.b" in finding.message
    await _fix(database, finding)
    assert database.execute("select count(*) from pg_publication_tables") == [(2,)]
    assert await found(database.dsn(), "membership") == {}


async def test_another_copys_bookkeeping_is_left_out_and_said(database: Database) -> None:
    database.execute("create table a (id int primary key); create schema walcast")
    database.execute(
        "create table walcast.checkpoint (id int primary key); create publication walcast for all tables"
    )
    finding = (await found(database.dsn(), "membership"))["bookkeeping_published"]
    assert "schema walcast" in finding.message


async def _fix(database: Database, finding: Finding, **source: Any) -> None:
    setup = Setup("t", Path("/tmp"), SourceConfig(dsn=Secret(database.dsn()), include=("*.*",), **source))

    async def status() -> dict[str, Any]:
        return AT_REST

    assert finding.fix is not None
    async with opened(setup, status) as (case, _):
        await apply(case, finding.fix)


async def test_what_a_killed_tail_left_is_found_and_removed_and_what_one_uses_is_not(
    database: Database,
) -> None:
    left, used = passing_name(), passing_name()
    async with await connect(database.dsn(), application="walcast:tail") as tail:
        await claim(tail, used)
        database.execute(
            f"create publication {left}; create publication {used}; create publication walcast_tail_mine"
        )  # type: ignore[arg-type]  # names of our own
        finding = (await found(database.dsn(), "leftovers"))["leftover_publication"]
        assert left in finding.message
        await _fix(database, finding)
        assert await found(database.dsn(), "leftovers") == {}
        names = {name for (name,) in database.execute("select pubname from pg_publication")}
        assert names == {used, "walcast_tail_mine"}
