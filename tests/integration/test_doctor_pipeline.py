"""The doctor's checks of the pipeline, its targets and this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from tests.integration.doctor_tools import AT_REST, found, own_address

from walcast.diagnostics import Limits, Setup, SinkSetup, examine, opened
from walcast.model import RetryableError, SinkContext, SourceIdentity
from walcast.model.secret import Secret
from walcast.postgres.catalog import identity
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import connect
from walcast.postgres.local import LocalServer, find
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig, examination
from walcast.testing.postgres import Database, PostgresServer

NOWHERE = SourceIdentity(0, 0, 0, "")


def sink(name: str = "lake", **line: Any) -> dict[str, Any]:
    return {"name": name, "state": "stopped", "checkpoint": None, "stopped_tables": [], "error": None} | line


def status(*sinks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return AT_REST | {"sinks": list(sinks)} | more


async def test_what_the_pipeline_says_of_its_sinks(database: Database) -> None:
    error = {"code": "E", "message": "refused", "remedy": "mend it"}
    table = {"table": "public.t", "position": None, "reason": "its type changed", "hint": None}
    for state, running, expected in (
        ("stopped", True, ("sink_stopped", "error")),
        ("released", True, ("sink_released", "error")),
        ("retrying", True, ("sink_retrying", "warning")),
        ("stopped", False, ("sink_stopped", "error")),
    ):
        lines = status(sink(state=state, error=error, stopped_tables=[table]), running=running)
        findings = await found(database.dsn(), "sinks", status=lines)
        name, level = expected
        assert (findings[name].level, findings[name].hint, findings[name].where) == (level, "mend it", "lake")
        assert findings["table_stopped"].hint == "walcast resync 'public.t' --sink lake"
    problem = {"error": {"message": "the slot is gone", "remedy": "make one"}, "position": None}
    findings = await found(database.dsn(), "pipeline", status=status(running=True, source=problem))
    assert set(findings) == {"source_error"}
    assert set(await found(database.dsn(), "pipeline")) == {"not_running"}


async def test_a_pipeline_that_does_not_answer(database: Database) -> None:
    setup = Setup("t", Path("/tmp"), SourceConfig(dsn=Secret(database.dsn()), include=("*.*",)))

    async def silence() -> dict[str, Any]:
        raise RetryableError("the pipeline does not answer", hint="see its log")

    async with opened(setup, silence) as (case, problem):
        report = await examine(case, problem, ["pipeline", "sinks", "checkpoints"])
    (finding,) = report.findings
    assert (finding.name, finding.hint) == ("no_status", "see its log")


async def test_checkpoints_that_do_not_belong_to_the_slot_or_the_source(database: Database) -> None:
    database.execute("create publication walcast")
    name = database.name

    async def check(at: str, position: str = "FFFFFFFF/0", **line: Any) -> set[str]:
        lines = status(sink(checkpoint={"through": at}, **line), source={"error": None, "position": position})
        return set(await found(database.dsn(), "checkpoints", status=lines, slot=name))

    assert await check("0/1") == {"slot_gone"}
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    ((confirmed,),) = database.execute(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", [name]
    )
    assert await check("0/1") == {"slot_ahead"}
    assert await check("0/1", state="released") == set(), "it is copied anew"
    assert await check(confirmed, confirmed) == set()
    assert await check("FF/0", confirmed) == {"copy_ahead"}
    assert await check("FF/0") == {"slot_behind"}
    assert await check(confirmed, history={"system_id": "42"}) == {"another_source"}


async def test_files_that_cannot_be_written_and_disks_that_are_full(
    database: Database, tmp_path: Path
) -> None:
    copy = SinkSetup("lake", "duckdb", "x", (tmp_path / "deep/copy.duckdb",))
    setup: dict[str, Any] = {"state_dir": tmp_path, "sinks": (copy,)}
    assert "disk_low" not in await found(database.dsn(), "files", setup=setup)
    full = await found(database.dsn(), "files", setup=setup, limits=Limits(free=1 << 60))
    assert full["disk_low"].level == "warning"
    shm = Path("/dev/shm")
    if shm.is_dir():
        assert "state_passes" in await found(database.dsn(), "files", setup=setup | {"state_dir": shm})
    closed = Path("/proc/sys/kernel/random/boot_id/x")  # not even root may write there
    findings = await found(
        database.dsn(), "files", setup=setup | {"sinks": (SinkSetup("l", "jsonl", "y", (closed,)),)}
    )
    assert findings["not_writable"].where == "l"


async def test_a_password_that_others_may_read_is_closed_to_them(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "walcast.toml"
    path.write_text("x")
    path.chmod(0o640)
    setup = {"file": path, "holds_secret": True, "state_dir": tmp_path}
    finding = (await found(database.dsn(), "files", setup=setup))["secret_readable"]
    assert finding.fix is not None
    assert (finding.fix.action, finding.fix.target) == ("chmod", str(path))
    path.chmod(0o600)
    assert "secret_readable" not in await found(database.dsn(), "files", setup=setup)
    path.chmod(0o644)
    assert "secret_readable" not in await found(
        database.dsn(), "files", setup=setup | {"holds_secret": False}
    )


async def test_settings_that_do_not_go_together(database: Database) -> None:
    same = (SinkSetup("a", "duckdb", "one.duckdb"), SinkSetup("b", "duckdb", "one.duckdb"))
    findings = await found(database.dsn(), "configuration", setup={"sinks": same, "listen": "0.0.0.0:9187"})
    assert set(findings) == {"place_shared", "metrics_open"}
    assert set(await found(database.dsn(), "configuration")) == {"no_sinks"}


# -- targets


async def examined(
    target: Database | PostgresServer,
    source: SourceIdentity = NOWHERE,
    *,
    user: str = "postgres",
    **settings: Any,
) -> dict[str, Any]:
    """What the sink of a target finds, which is not opened."""
    config = PostgresSinkConfig(Secret(target.dsn(user=user)), **settings)
    findings = await PostgresSink(config, SinkContext("p", "s", source, "/tmp")).examine()
    assert all(finding.hint or finding.level == "notice" for finding in findings)
    return {finding.name: finding for finding in findings}


async def test_a_target_that_is_in_order(any_database: Database) -> None:
    assert await examined(any_database) == {}


async def test_a_target_that_cannot_be_reached_or_written(
    database: Database, shared_postgres: Callable[[int], PostgresServer]
) -> None:
    config = PostgresSinkConfig(Secret(database.dsn(dbname="no_such_db")))
    (finding,) = await PostgresSink(config, SinkContext("p", "s", NOWHERE, "/tmp")).examine()
    assert (finding.name, finding.level) == ("target", "error")
    database.execute(
        sql.SQL("alter database {} set default_transaction_read_only = on").format(
            sql.Identifier(database.name)
        )
    )
    assert set(await examined(database)) == {"target_read_only"}
    with LocalServer(binaries=find(18, tools=("pg_basebackup",))) as primary, primary.standby() as standby:
        assert "is a standby" in (await examined(standby))["target_read_only"].message


async def test_a_target_to_which_rows_travel_in_the_open(
    postgres_factory: Callable[..., PostgresServer],
) -> None:
    settings = {"listen_addresses": "*"}
    server = postgres_factory(15, tls=True, settings=settings, hba=("host all all all scram-sha-256",))
    context = SinkContext("p", "s", NOWHERE, "/tmp")
    for sslmode, name in (("disable", "tls_off"), ("require", "tls_unverified")):
        dsn = server.dsn(via="tcp", host=own_address(), sslmode=sslmode)
        (finding,) = await PostgresSink(PostgresSinkConfig(Secret(dsn)), context).examine()
        assert (finding.name, finding.level) == (name, "warning")
        assert "verify-full in sinks.s.dsn" in str(finding.hint)
    local = PostgresSinkConfig(Secret(server.dsn(via="tcp", sslmode="disable")))
    assert await PostgresSink(local, context).examine() == [], "loopback"


async def test_a_target_older_than_what_a_copy_needs(
    shared_postgres: Callable[[int], PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server before 13 can be had here: what is needed is set above the oldest that there is."""
    monkeypatch.setattr(examination, "_OLDEST", 140_000)
    assert set(await examined(shared_postgres(13))) == {"target_too_old"}
    assert "target_too_old" not in await examined(shared_postgres(14))


async def test_a_target_that_is_the_source(database: Database) -> None:
    async with await connect(database.dsn(), application="walcast:t") as connection:
        itself = await identity(connection)
    assert set(await examined(database, itself)) == {"copy_into_itself"}
    assert await examined(database, itself, schemas={"public": "copy"}) == {}


@pytest.fixture
def limited(database: Database) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    role = f"sink_{database.name}"
    database.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    yield role
    database.execute(sql.SQL("drop owned by {0} cascade; drop role {0}").format(sql.Identifier(role)))


async def test_a_role_that_may_not_write(database: Database, limited: str) -> None:
    findings = await examined(database, user=limited)
    assert findings["target_rights"].level == "error"
    assert findings["target_replication_role"].level == "notice"
    assert (await examined(database, user=limited, replication_role="on"))[
        "target_replication_role"
    ].level == "error"
    async with PostgresSink(
        PostgresSinkConfig(Secret(database.dsn())), SinkContext("p", "s", NOWHERE, "/tmp")
    ):
        pass
    database.execute(
        "create table public.t (id int primary key); create function public.f() returns trigger language plpgsql as"
        " $$ begin return new; end $$; create trigger act before insert on t for each row execute function f();"
        " alter table t enable always trigger act;"
        " insert into walcast.relation values ('p', 's', 1, 'public', 't', '', '[]')"
    )
    assert "public.t (act)" in (await examined(database))["target_triggers"].message
    database.execute(
        sql.SQL("grant usage on schema walcast to {0}; grant select on walcast.relation to {0}").format(
            sql.Identifier(limited)
        )
    )
    finding = (await examined(database, user=limited))["target_rights"]
    assert "may not write public.t" in finding.message
    database.execute(str(finding.hint))  # type: ignore[arg-type]  # what it says can be typed
    assert "target_rights" not in await examined(database, user=limited)
