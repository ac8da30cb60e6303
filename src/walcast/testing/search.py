"""OpenSearch and Elasticsearch on this machine, from Maven's jars."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from walcast.postgres.local.process import free_port
from walcast.testing.jars import jars, java
from walcast.testing.javaserver import JavaServer, own

Family = Literal["opensearch", "elasticsearch"]
NEWEST: Final = {"opensearch": "3.8.0", "elasticsearch": "9.5.3"}
SUITE: Final = {"opensearch": "2.19.6", "elasticsearch": "8.19.21"}
"""What the suite runs; the others need Java 21."""
NEWEST_ASKED: Final = "WALCAST_TEST_SEARCH"
"""The environment variable that asks for the others (`newest`)."""
_LOG4J: Final = "org.apache.logging.log4j:log4j-core:2.25.4"
_JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


class SearchServer(JavaServer):
    """One node on loopback, without a password; port and data stay when it is started again. `settings` are
    opensearch.yml's or elasticsearch.yml's; `heap` is in MB.

    Raises ServerMissing when it cannot be had, StartFailed.
    """

    def __init__(
        self,
        family: Family,
        version: str | None = None,
        settings: Mapping[str, object] | None = None,
        *,
        durable: bool = False,
        heap: int = 512,
    ) -> None:
        self.name = family
        self._heap = (f"-Xms{heap}m", f"-Xmx{heap}m")
        self.family = family
        self.version = version or (NEWEST if os.environ.get(NEWEST_ASKED) == "newest" else SUITE)[family]
        newer = int(self.version.split(".", maxsplit=1)[0]) >= {"opensearch": 3, "elasticsearch": 9}[family]
        self._java = java(21 if newer else 17)
        self._jars = (_opensearch if family == "opensearch" else _elasticsearch)(self.version)
        self.settings = dict(settings or {})
        self.port = free_port()
        self._transport = free_port()
        super().__init__(durable=durable)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        if self.family == "elasticsearch":
            shutil.copytree(self._jars / "modules", self.folder / "modules", dirs_exist_ok=True)
            own(self.folder / "modules")
        settings: dict[str, object] = {
            "cluster.name": "test",
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": self.port,
            "transport.port": self._transport,
            "path.data": self.folder / "data",
            "path.logs": self.folder / "logs",
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **self.settings,
        }
        return [
            self._java,
            *self._heap,
            *_JVM,
            "-cp",
            f"{self._jars}/*",
            "OpenSearchNode" if self.family == "opensearch" else "ElasticsearchNode",
            str(self.folder),
            *(f"{name}={value}" for name, value in settings.items()),
        ]

    def ready(self) -> bool:
        try:
            health = self.ask("GET", "/_cluster/health?local=true")
        except OSError:
            return False
        return health.get("status") in ("green", "yellow")

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request as an operator makes it. Raises urllib.error.HTTPError."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def wipe(self) -> None:
        """Removes every index."""
        names = list(self.ask("GET", "/_all/_alias?expand_wildcards=all"))
        if names:
            self.ask("DELETE", f"/{','.join(names)}")


def _opensearch(version: str) -> Path:
    plugins = ["transport-netty4-client", "reindex-client", "lang-painless"]
    if version.startswith("2."):
        plugins.append("analysis-common")
    coordinates = [
        f"org.opensearch:opensearch:{version}",
        *(f"org.opensearch.plugin:{plugin}:{version}" for plugin in plugins),
        _LOG4J,
    ]
    starter = Path(__file__).with_name("OpenSearchNode.java")
    return jars(f"opensearch-{version}", coordinates, starter=starter)


def _elasticsearch(version: str) -> Path:
    coordinates = [
        f"org.elasticsearch:elasticsearch:{version}",
        f"org.elasticsearch.plugin:transport-netty4:{version}",
        _LOG4J,
    ]

    def arrange(folder: Path) -> None:
        """The transport is a module of its own: its jars and its description, which names a Java module that there is not."""
        module = folder / "modules" / "transport-netty4"
        module.mkdir(parents=True)
        for jar in folder.glob("*netty*.jar"):
            jar.rename(module / jar.name)
        shutil.unpack_archive(next(module.glob("transport-netty4-*.jar")), folder / "unpacked", "zip")
        for file in (folder / "unpacked/META-INF/es-plugins/transport-netty4").iterdir():
            kept = [line for line in file.read_text().splitlines() if not line.startswith("modulename")]
            (module / file.name).write_text("\n".join(kept) + "\n")
        shutil.rmtree(folder / "unpacked")

    starter = Path(__file__).with_name("ElasticsearchNode.java")
    return jars(f"elasticsearch-{version}", coordinates, starter=starter, arrange=arrange)
