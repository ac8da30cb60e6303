"""A PostgreSQL server of one's own: started in a fraction of a second, gone without a trace.

    initdb once a version -> template in the cache -> copied -> postgres (as nobody when we are root)
                                                                  ^ watchdog: ends it when this process dies

Local connections over the Unix socket are trusted (its folder is closed to other users); TCP wants a password.
The methods block, for fractions of a second; under asyncio use `async with` or `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from walcast.model import OperatorError
from walcast.postgres.local.binaries import Binaries, find
from walcast.postgres.local.cache import server_uid
from walcast.postgres.local.datadir import configure, copy_template, give_to_server, read_password
from walcast.postgres.local.process import (
    Watchdog,
    environment,
    family,
    free_port,
    pidfile_ready,
    signal_all,
    state,
)
from walcast.postgres.local.tls import Certificates, make_certificates

_START_TIMEOUT = 30.0
_POLL = 0.005


class StartFailed(OperatorError):
    """The server did not start; the message ends with its log."""


class LocalServer:
    """A server with its own data directory, port and socket folder, removed with it at `close`.

    `settings` are postgresql.conf's; `hba` are lines put before our own in pg_hba.conf; `tls` gives it certificates.
    `durable=False` turns fsync off: the data survive a killed server, not a killed machine.
    """

    def __init__(
        self,
        version: int = 18,
        *,
        settings: Mapping[str, object] | None = None,
        hba: Sequence[str] = (),
        tls: bool = False,
        durable: bool = False,
        binaries: Binaries | None = None,
    ) -> None:
        self.binaries = binaries or find(version, tls=tls)
        self.settings: dict[str, object] = dict(settings or {})
        self.hba = tuple(hba)
        self.durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="walcast-pg-", dir="/tmp"))
        self.data = self.folder / "data"
        self.log_file = self.folder / "server.log"
        self.certificates: Certificates | None = None
        self.port = free_port()
        self.password = ""
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = Watchdog(self.folder)

    @property
    def version(self) -> int:
        """The major version."""
        return self.binaries.major

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id. Raises OperatorError when it is not running."""
        if self._process is None:
            raise OperatorError("the server is not running", hint="call start() first")
        return self._process.pid

    def dsn(
        self, database: str = "postgres", *, via: Literal["tcp", "socket"] = "socket", **parameters: Any
    ) -> str:
        """A connection string (key=value), as superuser unless `user` says otherwise."""
        place: dict[str, Any] = {"host": str(self.folder), "port": self.port}
        if via == "tcp":
            place = {"host": "127.0.0.1", "port": self.port, "password": self.password}
        return make_conninfo(**{"user": "postgres", "dbname": database} | place | parameters)

    def start(self) -> Self:
        """Returns once connections are accepted. Raises StartFailed with the end of the log, ServerMissing."""
        if self.running:
            return self
        if not self.data.exists():
            self._initialise()
        for attempt in range(3):
            failure = self._launch()
            if failure is None:
                return self
            if (
                "in use" in failure and attempt < 2
            ):  # the port was taken meanwhile; or remains of a killed server
                self.port = free_port()
                self._configure()
                time.sleep(0.2)
                continue
            break
        raise StartFailed(
            f"PostgreSQL {self.binaries.version} did not start: {failure}", hint="see its log above"
        )

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = 30.0) -> None:
        """Asks it to stop and waits (seconds). Raises TimeoutError when it has not stopped by then."""
        if self._process is None:
            return
        if self.running:
            how = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
            self._process.send_signal(how)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"PostgreSQL did not stop within {timeout:g} s") from None
        self._process = None

    def kill(self) -> None:
        """kill -9 of the server and all its backends: what a crash of the machine looks like to a client. Returns when their
        connections are gone."""
        if self._process is None:
            return
        killed = family(self._process.pid)
        signal_all(killed, signal.SIGKILL)
        self._process.wait()
        self._process = None
        while any(state(pid) not in ("", "Z", "X") for pid in killed):
            time.sleep(_POLL)

    def pause(self) -> None:
        """Freezes all its processes: a server that hangs, with its connections open."""
        signal_all(family(self.pid), signal.SIGSTOP)

    def resume(self) -> None:
        signal_all(family(self.pid), signal.SIGCONT)

    def restart(self, settings: Mapping[str, object] | None = None) -> None:
        """Stops it fast and starts it again on the same port, with these settings on top."""
        self.stop()
        self.settings.update(settings or {})
        self._configure()
        self.start()

    def reload(self, settings: Mapping[str, object] | None = None) -> None:
        """Applies settings that need no restart."""
        self.settings.update(settings or {})
        self._configure()
        os.kill(self.pid, signal.SIGHUP)

    def close(self) -> None:
        """Ends it at once and removes its folder. Safe to call twice."""
        if self._watchdog is None:
            return
        if self.running:
            self.resume()
            self.kill()
        self._watchdog.close()
        self._watchdog = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, database: str = "postgres", **parameters: Any) -> psycopg.Connection[Any]:
        """A blocking superuser connection in autocommit."""
        return psycopg.connect(self.dsn(database, **parameters), autocommit=True)

    def execute(
        self,
        statement: LiteralString | sql.Composed,
        params: Sequence[object] = (),
        *,
        database: str = "postgres",
    ) -> list[tuple[Any, ...]]:
        """Runs one statement (several when there are no parameters) as superuser; the rows of the last one."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement, params or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def standby(self, name: str = "standby", settings: Mapping[str, object] | None = None) -> LocalServer:
        """A started physical standby made by pg_basebackup, with a slot of its name; close it before this one."""
        slot = f"{name}_slot"
        self.execute("select pg_create_physical_replication_slot(%s, true)", [slot])
        other = LocalServer(
            binaries=self.binaries,
            settings=self.settings | dict(settings or {}),
            hba=self.hba,
            durable=self.durable,
        )
        upstream = self.dsn("postgres", application_name=name)
        backup = [self.binaries.program("pg_basebackup"), "-D", str(other.data), "-d", upstream]
        done = subprocess.run(
            [*backup, "-X", "stream", "-c", "fast", "--no-sync"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            other.close()
            raise StartFailed(f"pg_basebackup failed: {done.stderr.strip()}", hint="see the message above")
        (other.data / "standby.signal").touch()
        other.settings |= {"primary_conninfo": upstream, "primary_slot_name": slot, "hot_standby": "on"}
        other.password = self.password
        give_to_server(other.folder)
        other._configure()
        try:
            return other.start()
        except StartFailed:
            other.close()
            raise

    def log(self, lines: int = 40) -> str:
        """The end of the server's log."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def _initialise(self) -> None:
        copy_template(self.binaries, self.data)
        self.password = read_password(self.binaries)
        if self._tls:
            self.certificates = make_certificates(self.folder / "tls")
            self.settings |= {
                "ssl": "on",
                "ssl_cert_file": self.certificates.server_cert,
                "ssl_key_file": self.certificates.server_key,
                "ssl_ca_file": self.certificates.root,
            }
        give_to_server(self.folder)
        if self.certificates is not None and server_uid() is not None:
            os.chown(self.certificates.client_key, os.geteuid(), os.getegid())
        self._configure()

    def _configure(self) -> None:
        own: dict[str, object] = {"port": self.port, "unix_socket_directories": self.folder}
        if not self.durable:
            own |= {"fsync": "off", "full_page_writes": "off"}
        configure(self.data, own | self.settings, self.hba)

    def _launch(self) -> str | None:
        """None once it is ready, else what its log says."""
        uid = server_uid()
        with open(self.log_file, "ab") as log:
            before = log.tell()
            self._process = subprocess.Popen(
                [self.binaries.program("postgres"), "-D", self.data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment(self.folder),
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return self.log_file.read_bytes()[before:].decode(errors="replace").strip()
            if self._ready():
                return None
            time.sleep(_POLL)
        self.kill()
        return f"not ready after {_START_TIMEOUT:g} s\n{self.log()}"

    def _ready(self) -> bool:
        return pidfile_ready(self.data, self.pid)
