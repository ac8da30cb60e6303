"""Connecting: session settings, names, and every way in which it fails, with its remedy."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from walcast.model import OperatorError, RetryableError, SinkUnavailable, SourceUnavailable
from walcast.model.secret import Secret
from walcast.postgres.connect import application_name, connect, describe
from walcast.postgres.faults import explain
from walcast.testing import PostgresServer, TcpProxy
from walcast.testing.postgres import Database

SETTINGS = (
    "select current_setting('datestyle'), current_setting('intervalstyle'), current_setting('timezone'), "
    "current_setting('extra_float_digits'), current_setting('search_path'), current_setting('statement_timeout')"
)


async def test_settings_of_database_and_role_do_not_leak_into_values(any_database: Database) -> None:
    for setting in (
        "datestyle = 'German'",
        "timezone = 'Asia/Tokyo'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = -5",
        "statement_timeout = '1s'",
        "client_encoding = 'LATIN1'",
    ):
        any_database.execute(f"alter database {any_database.name} set {setting}")
    for replication in (False, True):
        connection = await connect(any_database.dsn(), application="walcast:t", replication=replication)
        async with connection:
            found = await (await connection.execute(SETTINGS)).fetchone()
            name = await (await connection.execute("show application_name")).fetchone()
        assert found == ("ISO, MDY", "postgres", "UTC", "3", '""', "0")
        assert name == ("walcast:t",)


async def test_a_replication_connection_takes_replication_commands(any_database: Database) -> None:
    connection = await connect(any_database.dsn(), application="walcast:t", replication=True)
    async with connection:
        row = await (await connection.execute("IDENTIFY_SYSTEM")).fetchone()
    assert row is not None
    assert row[3] == any_database.name


@pytest.mark.parametrize(
    ("parameters", "says", "remedy"),
    [
        ({"host": "no-such-host.invalid"}, "resolve host", "host name"),
        ({"password": "opensesame"}, "password authentication failed", ".pgpass"),
        ({"user": "nobody_there"}, "authentication failed", "password"),
        ({"sslmode": "require"}, "does not support SSL", "sslmode"),
        ({"sslmode": "strict"}, "invalid sslmode", "verify-full"),
        ({"dbname": "no_such_db"}, '"no_such_db" does not exist', "dbname"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_wrong_dsn_is_the_operators_to_mend(
    postgres_server: PostgresServer, parameters: dict[str, str], says: str, remedy: str
) -> None:
    dsn = postgres_server.dsn(via="tcp")
    dsn = psycopg.conninfo.make_conninfo(dsn, **parameters)
    with pytest.raises(OperatorError, match=says) as caught:
        await connect(dsn, application="walcast:t")
    assert remedy in str(caught.value.hint)
    assert "opensesame" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_wrong_port_may_pass_and_says_what_to_look_at(postgres_server: PostgresServer) -> None:
    with pytest.raises(SourceUnavailable, match="Connection refused") as caught:
        await connect(postgres_server.dsn(via="tcp", port=1), application="walcast:t")
    assert "port" in str(caught.value.hint)
    with pytest.raises(SinkUnavailable):
        await connect(
            postgres_server.dsn(via="tcp", port=1), application="walcast:t", unavailable=SinkUnavailable
        )


@pytest.mark.parametrize(
    "dsn", ["host=a hunter2", "postgresql://u:hunter2@[bad/x", "hosst=a password=hunter2"]
)
async def test_a_dsn_that_cannot_be_read_is_not_repeated(dsn: str) -> None:
    with pytest.raises(OperatorError, match="cannot be read") as caught:
        await connect(Secret(dsn), application="walcast:t")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


async def test_a_service_and_a_password_file_are_libpqs(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "services").write_text(
        f"[here]\nhost=127.0.0.1\nport={database.server.port}\ndbname={database.name}\nuser=postgres\n"
    )
    (tmp_path / "pgpass").write_text(f"127.0.0.1:*:*:postgres:{database.server.password}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    async with await connect("service=here", application="walcast:t") as connection:
        assert connection.info.dbname == database.name
    assert describe("service=here") == "service here"
    with pytest.raises(OperatorError, match='"elsewhere" not found'):
        await connect("service=elsewhere", application="walcast:t")


async def test_tls_verifies_and_names_a_wrong_root(postgres_factory: type[PostgresServer]) -> None:
    server = postgres_factory(
        17, tls=True, hba=["hostssl all cert_user 127.0.0.1/32 cert", "hostnossl all all all reject"]
    )
    files = server.certificates
    assert files is not None
    secure = {"via": "tcp", "host": "localhost", "sslmode": "verify-full", "sslrootcert": files.root}
    async with await connect(server.dsn(**secure), application="walcast:t") as connection:
        assert connection.pgconn.ssl_in_use
    for wrong, says in (
        ({"sslrootcert": files.other_root}, "certificate verify failed"),
        ({"sslrootcert": "/no/such/root.crt"}, "does not exist"),
        ({"host": "elsewhere", "hostaddr": "127.0.0.1"}, "does not match host name"),
        ({"sslmode": "disable"}, "rejects connection"),
    ):
        with pytest.raises(OperatorError, match=says):
            await connect(server.dsn(**secure | wrong), application="walcast:t")


async def test_a_client_certificate_logs_in_without_a_password(
    postgres_factory: type[PostgresServer],
) -> None:
    server = postgres_factory(15, tls=True, hba=["hostssl all postgres 127.0.0.1/32 cert"])
    files = server.certificates
    assert files is not None
    secure = {"via": "tcp", "password": "", "sslmode": "verify-full", "sslrootcert": files.root}
    with pytest.raises(OperatorError, match="client certificate"):
        await connect(server.dsn(**secure), application="walcast:t")
    secure |= {"sslcert": files.client_cert, "sslkey": files.client_key}
    async with await connect(server.dsn(**secure), application="walcast:t", replication=True) as connection:
        assert connection.pgconn.ssl_in_use


async def test_roles_without_rights_are_told_which_one_is_missing(
    postgres_factory: type[PostgresServer],
) -> None:
    server = postgres_factory(18, hba=["host all shut_out 127.0.0.1/32 reject"])
    server.execute("create role plain login; create role shut_out login; create role asleep")
    server.execute("create database closed with allow_connections false")
    server.execute("create database private")
    server.execute("revoke connect on database private from public")
    for dsn, says, replication in (
        (server.dsn(user="plain"), "start WAL sender", True),
        (server.dsn(user="asleep"), "not permitted to log in", False),
        (server.dsn(user="missing"), 'role "missing" does not exist', False),
        (server.dsn(via="tcp", user="shut_out"), "pg_hba.conf", False),
        (server.dsn("closed"), "not currently accepting", False),
        (server.dsn("private", user="plain"), "permission denied for database", False),
    ):
        with pytest.raises(OperatorError, match=says) as caught:
            await connect(dsn, application="walcast:t", replication=replication)
        assert caught.value.hint


async def test_a_full_server_may_pass(postgres_factory: type[PostgresServer]) -> None:
    server = postgres_factory(18, settings={"max_wal_senders": 1, "max_connections": 6})
    server.execute("create role plain login")
    async with await connect(server.dsn(), application="walcast:one", replication=True):
        with pytest.raises(SourceUnavailable, match="max_wal_senders") as caught:
            await connect(server.dsn(), application="walcast:two", replication=True)
        assert "walsender" in str(caught.value.hint)
    held = [server.connect(user="plain") for _ in range(3)]
    try:
        with pytest.raises(SourceUnavailable, match="remaining connection slots") as caught:
            await connect(server.dsn(user="plain"), application="walcast:t")
        assert "max_connections" in str(caught.value.hint)
    finally:
        for connection in held:
            connection.close()


async def test_a_silent_server_times_out(postgres_server: PostgresServer, tcp_proxy: TcpProxy) -> None:
    tcp_proxy.stall()
    with pytest.raises(SourceUnavailable, match="timeout"):
        await connect(
            postgres_server.dsn(via="tcp", port=tcp_proxy.port, connect_timeout=2), application="walcast:t"
        )


async def test_errors_never_repeat_values(database: Database) -> None:
    async with await connect(database.dsn(), application="walcast:t") as connection:
        for statement in (
            "select 'hunter2'::int",
            "do $$begin raise unique_violation using message = 'hunter2'; end$$",
        ):
            with pytest.raises(psycopg.Error) as caught:
                await connection.execute(statement)
            shown = explain(caught.value, "reading")
            assert "hunter2" not in str(shown)
            assert not isinstance(shown, RetryableError)


def test_where_a_dsn_leads_is_told_without_the_password() -> None:
    assert describe("postgresql://app:hunter2@db.example:5433/shop") == "app@db.example:5433/shop"
    assert describe(Secret("host=/run/pg dbname=shop password=hunter2")) == "/run/pg:5432/shop"
    assert describe("nonsense hunter2") == "the DSN"


def test_application_names_fit_the_server() -> None:
    assert application_name("shop", "snapshot") == "walcast:shop:snapshot"
    assert len(application_name("ü" * 40).encode()) <= 63
