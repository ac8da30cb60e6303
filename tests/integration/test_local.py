"""Local servers and the proxy: what the rest of the suite stands on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from walcast.postgres.local import LocalServer, ServerMissing, StartFailed, TcpProxy, find
from walcast.testing.postgres import Database, PostgresServer

VERSIONS = (13, 14, 15, 16, 17, 18)


def test_every_major_version_starts_with_logical_wal(any_postgres: PostgresServer) -> None:
    assert any_postgres.execute("show wal_level") == [("logical",)]
    number = any_postgres.execute("select current_setting('server_version_num')::int / 10000")
    assert number == [(any_postgres.version,)]


def test_tcp_asks_for_the_password_and_the_socket_does_not(any_postgres: PostgresServer) -> None:
    psycopg.connect(any_postgres.dsn()).close()
    psycopg.connect(any_postgres.dsn(via="tcp")).close()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(any_postgres.dsn(via="tcp", password="wrong"))


def test_data_survive_a_restart_and_a_kill() -> None:
    with LocalServer(18) as server:
        server.execute("create table t (n int)")
        server.kill()
        assert not server.running
        server.start()
        server.execute("insert into t values (1)")
        server.restart({"work_mem": "5MB"})
        assert server.execute("select n, current_setting('work_mem') from t") == [(1, "5MB")]
        server.reload({"work_mem": "6MB"})
        deadline = time.monotonic() + 10
        while server.execute("show work_mem") != [("6MB",)]:
            assert time.monotonic() < deadline


def test_a_bad_setting_is_reported_with_the_servers_log() -> None:
    with (
        pytest.raises(StartFailed, match="no_such_setting"),
        LocalServer(18, settings={"no_such_setting": 1}),
    ):
        pass


def test_a_paused_server_hangs_and_resumes() -> None:
    with LocalServer(18) as server:
        server.pause()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            server.connect(connect_timeout=2)
        server.resume()
        assert server.execute("select 1") == [(1,)]


@pytest.mark.parametrize("version", VERSIONS)
def test_tls_verifies_fully_against_its_root_and_not_another(version: int) -> None:
    with LocalServer(version, tls=True) as server:
        assert server.certificates is not None
        encrypted = server.dsn(
            via="tcp", host="localhost", sslmode="verify-full", sslrootcert=server.certificates.root
        )
        with psycopg.connect(encrypted) as connection:
            assert connection.pgconn.ssl_in_use
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            psycopg.connect(encrypted, sslrootcert=str(server.certificates.other_root))


def test_a_standby_follows() -> None:
    binaries = find(18, tools=("pg_basebackup",))
    with LocalServer(binaries=binaries) as primary, primary.standby() as standby:
        assert standby.execute("select pg_is_in_recovery()") == [(True,)]
        primary.execute("create table t as select 1 as n")
        lsn = primary.execute("select pg_current_wal_lsn()::text")[0][0]
        deadline = time.monotonic() + 20
        while standby.execute("select pg_last_wal_replay_lsn() < %s::pg_lsn", [lsn]) == [(True,)]:
            assert time.monotonic() < deadline
        assert standby.execute("select n from t") == [(1,)]


def test_a_folder_named_by_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    other = find(13).bindir
    monkeypatch.setenv("WALCAST_POSTGRES_13", str(other))
    find.cache_clear()
    assert find(13).bindir == other
    monkeypatch.setenv("WALCAST_POSTGRES_16", str(other))  # of the wrong version: passed by
    assert find(16).major == 16
    find.cache_clear()


def test_a_version_that_cannot_be_had_says_how_to_get_it() -> None:
    with pytest.raises(ServerMissing) as caught:
        find(9)
    assert "WALCAST_POSTGRES_9" in str(caught.value.hint)


def test_a_killed_owner_leaves_no_server_and_no_folder() -> None:
    program = (
        "from walcast.postgres.local import LocalServer; import sys\n"
        "s = LocalServer(18).start(); print(s.pid, s.folder, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner.stdin, owner.stdout:
        pid, folder = owner.stdout.readline().decode().split()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    deadline = time.monotonic() + 10
    while Path(folder).exists() or _alive(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_proxy_forwards_and_counts(database: Database, tcp_proxy: TcpProxy) -> None:
    with psycopg.connect(database.dsn(via="tcp", port=tcp_proxy.port)) as connection:
        assert connection.execute("select repeat('x', 100000)").fetchone() is not None
    assert tcp_proxy.to_client > 100_000
    assert tcp_proxy.to_server > 0


def test_a_cut_connection_fails_and_the_next_one_works(database: Database, tcp_proxy: TcpProxy) -> None:
    connection = psycopg.connect(database.dsn(via="tcp", port=tcp_proxy.port))
    tcp_proxy.cut()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    connection.close()
    psycopg.connect(database.dsn(via="tcp", port=tcp_proxy.port)).close()


def test_a_refusing_proxy_refuses_until_restored(database: Database, tcp_proxy: TcpProxy) -> None:
    tcp_proxy.refuse()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(database.dsn(via="tcp", port=tcp_proxy.port))
    tcp_proxy.restore()
    psycopg.connect(database.dsn(via="tcp", port=tcp_proxy.port)).close()


def test_a_stalled_direction_delivers_later_and_loses_nothing() -> None:
    with _Echo() as (port, _), TcpProxy("127.0.0.1", port) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port))
        client.settimeout(0.2)
        assert _ask(client, b"one") == b"one"
        proxy.stall("to_client")
        with pytest.raises(TimeoutError):
            _ask(client, b"two")
        proxy.restore()
        client.settimeout(5)
        assert client.recv(100) == b"two"
        client.close()


def test_a_delay_holds_every_chunk_back() -> None:
    with _Echo() as (port, _), TcpProxy("127.0.0.1", port) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port))
        proxy.delay(0.1)
        begun = time.monotonic()
        assert _ask(client, b"x") == b"x"
        assert time.monotonic() - begun >= 0.2
        client.close()


def test_half_open_tells_the_client_nothing() -> None:
    with _Echo() as (port, server), TcpProxy("127.0.0.1", port) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port))
        assert _ask(client, b"one") == b"one"
        proxy.half_open()
        server.wait_closed()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            _ask(client, b"two")
        proxy.restore()
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        client.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(100)


class _Echo:
    """An echo server for one connection."""

    def __enter__(self) -> tuple[int, _Echo]:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self._listener.getsockname()[1], self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        self._thread.join(5)

    def wait_closed(self) -> None:
        assert self._closed.wait(5)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            try:
                while data := connection.recv(100):
                    connection.sendall(data)
            except OSError:
                pass
        self._closed.set()
