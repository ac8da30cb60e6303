"""What stands in the way of a run is found before it, with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from walcast.model import ConfigError, Finding, OperatorError, RetryableError, TableId
from walcast.model.secret import Secret
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import connect
from walcast.postgres.local import LocalServer, find
from walcast.postgres.preflight import CHECKS, preflight
from walcast.postgres.preflight.server import version_finding
from walcast.postgres.wanted import ensure_wanted, read_wanted
from walcast.testing import PostgresServer
from walcast.testing.postgres import Database


def config(source: Database | PostgresServer, *, user: str = "postgres", **settings: Any) -> SourceConfig:
    return SourceConfig(dsn=Secret(source.dsn(user=user)), **{"include": ("*.*",)} | settings)


async def found(source: Database | PostgresServer, **settings: Any) -> dict[str, Finding]:
    findings = await preflight(config(source, **settings))
    for finding in findings:
        assert finding.level in ("error", "warning", "notice")
        assert finding.hint or finding.level == "notice"
    return {finding.name: finding for finding in reversed(findings)}  # errors come first: they win


def errors(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.level == "error"}


@pytest.fixture
def limited(database: Database) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    role = f"cdc_{database.name}"
    database.execute(f"create role {role} login")
    yield role
    database.execute(f"drop owned by {role} cascade; drop role {role}")


async def test_a_plain_source_is_ready_on_every_version(any_database: Database) -> None:
    any_database.execute("create table a (id int primary key, x text)")
    assert set(await found(any_database)) == {"unlimited_wal"}
    await _ensure(any_database)
    assert set(await found(any_database)) == {"unlimited_wal"}


async def _ensure(source: Database, **settings: Any) -> str:
    async with await connect(source.dsn(), application="walcast:t") as connection:
        return str(await ensure_wanted(connection, config(source, **settings)))


def test_every_check_says_by_its_name_that_it_is_one() -> None:
    assert len(set(CHECKS)) == len(CHECKS)
    assert all(check.__name__.startswith("check_") for check in CHECKS)


@pytest.mark.parametrize(("version", "shown"), [(120_022, "PostgreSQL 12;"), (90_624, "PostgreSQL 9.6;")])
def test_a_server_too_old_is_refused(version: int, shown: str) -> None:
    (finding,) = version_finding(version)
    assert finding.level == "error"
    assert shown in finding.message
    assert version_finding(130_000) == []


async def test_a_wal_level_that_is_not_logical(postgres_factory: type[PostgresServer]) -> None:
    server = postgres_factory(13, settings={"wal_level": "replica"})
    server.execute("create table a (id int primary key)")
    assert (await found(server))["wal_level"].level == "error"


async def test_no_free_slot_and_no_free_walsender(postgres_factory: type[PostgresServer]) -> None:
    server = postgres_factory(18, settings={"max_replication_slots": 1, "max_wal_senders": 1})
    server.execute("create table a (id int primary key); select pg_create_physical_replication_slot('old')")
    findings = await found(server)
    assert errors(findings) == {"no_free_slot"}
    assert "nobody reads old" in findings["no_free_slot"].message
    assert findings["no_free_walsender"].level == "warning"
    server.execute("select pg_drop_replication_slot('old')")
    while True:  # the one that preflight tried is gone a moment later
        with suppress(OperatorError, RetryableError):
            backup = await connect(server.dsn(), application="backup", replication=True)
            break
    async with backup:
        assert {"no_free_walsender", "replication_connection"} <= errors(await found(server))


async def test_the_slot_of_another_database_and_a_bad_slot_name(database: Database) -> None:
    database.execute("create table a (id int primary key)")
    name = f"elsewhere_{database.name}"
    database.server.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    try:
        assert "database postgres" in (await found(database, slot=name))["slot"].message
    finally:
        database.server.execute("select pg_drop_replication_slot(%s)", [name])
    assert "not a slot name" in (await found(database, slot="No-Name"))["slot"].message


async def test_a_slot_that_somebody_reads_is_a_warning(database: Database) -> None:
    database.execute("create table a (id int primary key); create publication walcast for table a")
    name = f"s_{database.name}"
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    reader = await connect(database.dsn(), application="walcast:other", replication=True)
    try:
        reader.pgconn.exec_(
            f"START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names 'walcast')".encode()
        )
        finding = (await found(database, slot=name))["slot_in_use"]
    finally:
        await reader.close()
    assert finding.level == "warning"
    assert "walcast:other" in finding.message


async def test_a_role_without_rights_is_told_all_that_it_lacks_at_once(
    database: Database, limited: str
) -> None:
    database.execute("create schema app; create table app.a (id int primary key)")
    findings = await found(database, user=limited)
    assert errors(findings) == {"replication_connection", "no_select", "publication"}
    assert "lacks CREATE on database" in findings["publication"].message
    assert 'create publication "walcast" for table only "app"."a"' in str(findings["publication"].hint)
    for right in str(findings["no_select"].hint).split("; "):
        database.execute(right)
    database.execute(f"alter role {limited} replication")
    database.execute("create publication walcast for table app.a")
    assert set(await found(database, user=limited)) == {"unlimited_wal"}  # REPLICATION and SELECT are enough


async def test_policies_that_hide_rows_are_found(database: Database, limited: str) -> None:
    database.execute(
        f"create table a (id int primary key); alter table a enable row level security; grant select on a to {limited}; "
        f"alter role {limited} replication; create publication walcast for table a"
    )
    assert errors(await found(database, user=limited)) == {"row_security"}


async def test_tables_that_are_not_there_or_cannot_be_copied(database: Database) -> None:
    database.execute(
        "create table orders (id int primary key); create view v as select 1 as n; create unlogged table fast (id int primary key)"
    )
    findings = await found(database, include=("public.ordres", "v", "public.*"))
    assert errors(findings) == {"no_such_table", "table_refused"}
    assert "did you mean public.orders?" in str(findings["no_such_table"].hint)
    levels = {
        f.message.split()[0]: f.level for f in await preflight(config(database, include=("v", "public.*")))
    }
    assert levels["public.v"] == "error"
    assert levels["public.fast"] == "warning"
    assert errors(await found(database, include=("a.b.c",))) == {"selection"}
    assert errors(await found(database, include=("orders", "public.orders"))) == {"selection"}
    assert errors(await found(database, exclude=("*.*",))) == {"nothing_selected"}
    async with await connect(database.dsn(), application="walcast:t") as connection:
        for include, says in ((("ordres",), "no table matches"), (("v",), "is a view")):
            with pytest.raises(OperatorError, match=says) as caught:
                await ensure_wanted(connection, config(database, include=include))
            assert caught.value.hint


async def test_tables_without_replica_identity_are_refused_before_they_break_the_source(
    database: Database,
) -> None:
    database.execute(
        "create table bare (x int); create table root (id int) partition by list (id); "
        "create table leaf partition of root for values in (1)"
    )
    findings = [f for f in await preflight(config(database)) if f.name == "no_replica_identity"]
    assert sorted(f.message.split(":")[0] for f in findings) == ["public.bare", "public.leaf"]
    assert {f.level for f in findings} == {"error"}
    database.execute("create publication walcast for table bare, root")
    assert {f.level for f in await preflight(config(database)) if f.name == "no_replica_identity"} == {
        "warning"
    }
    database.execute("alter publication walcast set (publish = 'insert')")
    findings_by_name = await found(database)
    assert "no_replica_identity" not in findings_by_name
    assert "update, delete, truncate" in findings_by_name["operations_not_published"].message
    database.execute("alter publication walcast set (publish = 'insert, update, delete, truncate')")
    database.execute("alter table bare replica identity full; alter table leaf replica identity full")
    assert "no_replica_identity" not in await found(database)


async def test_a_publication_that_lacks_tables_is_no_trouble_to_its_owner(database: Database) -> None:
    database.execute("create table a (id int primary key); create table b (id int primary key)")
    database.execute("create publication walcast for table a")
    assert errors(await found(database)) == set()
    assert await _ensure(database) == "extended publication walcast (public.b)"
    assert await _ensure(database, include=()) == "adopted publication walcast"


async def test_without_include_the_publication_decides(database: Database) -> None:
    database.execute("create table a (id int primary key); create table b (id int primary key)")
    database.execute(
        "create table root (id int primary key) partition by list (id); create table leaf partition of root for values in (1)"
    )
    database.execute("create publication walcast for table a, root with (publish_via_partition_root = true)")
    async with await connect(database.dsn(), application="walcast:t") as connection:
        wanted = await read_wanted(connection, config(database, include=()))
        assert [t.id for t in wanted.selection.tables] == [TableId("public", "a"), TableId("public", "root")]
        database.execute("alter publication walcast set (publish_via_partition_root = false)")
        wanted = await read_wanted(connection, config(database, include=(), exclude=("a",)))
        assert [t.id for t in wanted.selection.tables] == [TableId("public", "leaf")]
        with pytest.raises(ConfigError, match="not a table pattern"):
            await read_wanted(connection, config(database, include=("a.b.c",)))
    assert errors(await found(database, include=())) == set()


async def test_partitions_under_another_name_than_configured(database: Database) -> None:
    database.execute("create table root (id int primary key) partition by list (id)")
    database.execute("create publication walcast for table root with (publish_via_partition_root = true)")
    assert "root's name" in (await found(database))["publication"].message
    assert errors(await found(database, publish_via_partition_root=True)) == set()


async def test_filters_and_columns_are_checked_against_the_catalog(database: Database) -> None:
    database.execute("create table a (id int primary key, x text)")
    assert "no column 'y'" in (await found(database, columns={"a": ("id", "y")}))["publication"].message
    database.execute("create publication walcast for table a where (x <> 'draft')")
    assert "reads x" in (await found(database))["filter_beyond_identity"].message
    database.execute("alter table a replica identity full")
    assert errors(await found(database)) == set()


async def test_features_that_the_server_does_not_have_yet(shared_postgres: Any, make_database: Any) -> None:
    database = make_database(shared_postgres(13))
    database.execute("create table a (id int primary key)")
    settings = {"filters": {"a": "true"}, "failover": True, "origin": "none", "ddl_capture": True}
    messages = [
        f.message for f in await preflight(config(database, **settings)) if f.name == "server_too_old_for"
    ]
    assert len(messages) == 4


async def test_a_synchronous_standby_by_accident_is_refused(postgres_factory: type[PostgresServer]) -> None:
    server = postgres_factory(
        18, settings={"max_slot_wal_keep_size": "1GB", "idle_replication_slot_timeout": "1h"}
    )
    server.execute("create table a (id int primary key)")
    server.execute("alter system set synchronous_standby_names = '*'")
    server.execute("set synchronous_commit = local; select pg_reload_conf()")
    with server.connect() as waiting:
        while waiting.execute("show synchronous_standby_names").fetchone() != ("*",):
            pass
    findings = await found(server)
    assert errors(findings) == {"synchronous_standby"}
    assert "unlimited_wal" not in findings
    assert findings["idle_slot_timeout"].level == "warning"
    assert errors(await found(server, allow_synchronous=True)) == set()


async def test_a_type_without_binary_output_makes_the_stream_text(database: Database) -> None:
    database.execute("create table a (id int primary key, rights aclitem[])")
    finding = (await found(database))["no_binary_output"]
    assert finding.level == "notice"
    assert "public.a.rights (aclitem[])" in finding.message
    assert (await found(database, binary="on"))["no_binary_output"].level == "error"
    assert "no_binary_output" not in await found(database, binary="off")


async def test_inheritance_is_noticed(database: Database) -> None:
    database.execute("create table a (id int primary key); create table b (primary key (id)) inherits (a)")
    assert (await found(database))["inheritance"].level == "notice"


async def test_a_standby_needs_16_and_a_publication_of_its_primary() -> None:
    for version in (15, 18):
        binaries = find(version, tools=("pg_basebackup",))
        with LocalServer(binaries=binaries) as primary:
            primary.execute("create table a (id int primary key)")
            with primary.standby() as standby:
                findings = await found(standby)
                if version < 16:
                    assert "standby_too_old" in errors(findings)
                else:
                    assert errors(findings) == {"publication_on_standby"}


async def test_a_source_that_cannot_be_asked_is_an_error_itself(postgres_server: PostgresServer) -> None:
    with pytest.raises(OperatorError, match="does not exist"):
        await preflight(SourceConfig(dsn=Secret(postgres_server.dsn("no_such_db"))))
