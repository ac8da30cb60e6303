"""A Neo4j Community server for tests, run from its Maven artifacts."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from walcast.postgres.local import StartFailed
from walcast.postgres.local.cache import locked, server_uid
from walcast.postgres.local.process import environment, free_port
from walcast.testing.jars import jars, java
from walcast.testing.javaserver import JavaServer, own

VERSION: Final = "5.26.30"
ARTIFACTS: Final = (f"org.neo4j.app:neo4j-server:{VERSION}", f"org.neo4j:neo4j:{VERSION}")
_JVM: Final = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")
    ),
    "-Dio.netty.tryReflectionSetAccessible=true",
)
_SETTINGS: Final[Mapping[str, str]] = {
    "server.http.enabled": "false",
    "server.https.enabled": "false",
    "dbms.security.auth_enabled": "true",
    "dbms.usage_report.enabled": "false",
    "server.memory.pagecache.size": "64m",
    "db.tx_log.preallocate": "false",
    "server.jvm.additional": "-XX:+UseSerialGC",
}


class Neo4jServer(JavaServer):
    """The server, made with an empty database. `settings` are neo4j.conf's; they may be changed while it is stopped.

    Raises ServerMissing when it cannot be had, StartFailed.
    """

    name = "neo4j"
    user = "neo4j"

    def __init__(
        self, settings: Mapping[str, str] | None = None, heap: str = "384m", *, made: Path | None = None
    ) -> None:
        """`made`: a folder with a home and a password, by default the cache's."""
        self.jars = jars(f"neo4j-{VERSION}", ARTIFACTS)
        self.settings = dict(settings or {})
        self.port = free_port()
        self._heap = heap
        template = made or _template(self.jars)
        super().__init__()
        try:
            self.password = (template / "password").read_text()
            self.home = self.folder / "home"
            shutil.copytree(template / "home", self.home)
            own(self.home)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def uri(self) -> str:
        return f"bolt://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        _configure(self.home, self.port, self.settings)
        return _server(self.jars, self.home, self._heap)

    def ready(self) -> bool:
        from neo4j.exceptions import ServiceUnavailable, TransientError

        try:
            return self.run("return 1") == [[1]]
        except (ServiceUnavailable, TransientError):
            return False

    def run(self, cypher: str, **parameters: Any) -> list[list[Any]]:
        """The rows of one query, in a transaction of its own."""
        from neo4j import GraphDatabase

        with (
            GraphDatabase.driver(
                self.uri, auth=(self.user, self.password), telemetry_disabled=True
            ) as driver,
            driver.session() as session,
        ):
            return [list(record.values()) for record in session.run(cypher, parameters)]

    def wipe(self) -> None:
        """Removes all nodes; constraints stay."""
        self.run("match (n) detach delete n")

    def last_words(self) -> str:
        said = super().last_words()
        for log in (self.home / "logs" / "neo4j.log", self.home / "logs" / "debug.log"):
            if log.exists():
                said += "\n" + log.read_text(errors="replace").strip()[-800:]
        return said


def _server(folder: Path, home: Path, heap: str) -> list[str]:
    return [
        java(),
        f"-Xmx{heap}",
        f"-Xms{heap}",
        *_JVM,
        "-cp",
        f"{folder}/*",
        "org.neo4j.server.CommunityEntryPoint",
        f"--home-dir={home}",
        f"--config-dir={home / 'conf'}",
    ]


def _configure(home: Path, port: int, settings: Mapping[str, str]) -> None:
    address = f"127.0.0.1:{port}"
    mine = {"server.bolt.listen_address": address, "server.bolt.advertised_address": address}
    lines = [f"{name}={value}" for name, value in {**_SETTINGS, **mine, **settings}.items()]
    (home / "conf").mkdir(parents=True, exist_ok=True)
    (home / "conf" / "neo4j.conf").write_text("\n".join(lines) + "\n")
    own(home / "conf")


def _template(folder: Path) -> Path:
    """A home with a password and databases that were made and closed, and the password beside it: made once."""
    kind = hashlib.sha256(f"{folder}{_SETTINGS}".encode()).hexdigest()[:10]
    name = f"neo4j-home-{VERSION}-{kind}"
    with locked(name) as root:
        target = root / name
        if not target.is_dir():
            making = root / f"{name}.new"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(mode=0o755)
            _make(folder, making)
            making.rename(target)
    return target


def _make(folder: Path, making: Path) -> None:
    password = secrets.token_urlsafe(12)
    (making / "password").touch(mode=0o600)
    (making / "password").write_text(password)
    home = making / "home"
    _configure(home, free_port(), {})
    own(making)
    uid = server_uid()
    done = subprocess.run(
        [
            java(),
            *_JVM,
            "-cp",
            f"{folder}/*",
            "org.neo4j.cli.AdminTool",
            "dbms",
            "set-initial-password",
            password,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=making,
        env={**environment(making), "NEO4J_HOME": str(home), "NEO4J_CONF": str(home / "conf")},
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )
    if done.returncode:
        raise StartFailed(
            f"Neo4j's password could not be set: {done.stderr.strip()[-500:]}", hint="see above"
        )
    first = Neo4jServer(made=making)
    try:
        first.start()
        first.stop()
        shutil.rmtree(home)
        shutil.copytree(first.home, home)
    finally:
        first.close()
