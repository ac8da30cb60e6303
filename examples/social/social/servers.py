"""A real Neo4j and a real OpenSearch for the demonstration, from their Maven artifacts: fetched once, started, killed and
started again at will."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

from walcast.model import WalcastError
from walcast.testing.neo4j import Neo4jServer
from walcast.testing.search import SearchServer

Say = Callable[[str], None]


class Server(Protocol):
    name: str

    @property
    def running(self) -> bool: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class Servers:
    """By the sink that writes to them. `environment`: where they are, in the pipeline's words."""

    def __init__(self, graph: Neo4jServer, search: SearchServer) -> None:
        self.environment = {
            "WALCAST_SINKS__GRAPH__URI": graph.uri,
            "WALCAST_SINKS__GRAPH__PASSWORD": graph.password,
            "WALCAST_SINKS__SEARCH__HOSTS": search.url,
        }
        self._servers: dict[str, Server] = {"graph": graph, "search": search}
        self._turns = {name: threading.Lock() for name in self._servers}

    def running(self, sink: str) -> bool:
        return self._servers[sink].running

    def kill(self, sink: str) -> None:
        """kill -9: what a crash looks like."""
        with self._turns[sink]:
            self._servers[sink].kill()

    def start(self, sink: str) -> None:
        """Returns once it answers."""
        with self._turns[sink]:
            self._servers[sink].start()

    def start_later(self, sink: str) -> None:
        def start() -> None:
            with suppress(WalcastError):  # the page shows whether it runs
                self.start(sink)

        threading.Thread(target=start, name=f"start {sink}", daemon=True).start()


@contextmanager
def servers(say: Say) -> Iterator[Servers]:
    """Both, until the context ends. Raises ServerMissing, StartFailed."""
    opened: list[Server] = []

    def up(server: Server) -> None:
        began = time.monotonic()
        server.start()
        say(f"{server.name} answers, after {time.monotonic() - began:.0f} s")

    try:
        say("starting Neo4j and OpenSearch: ten seconds or so, a minute or two the first time")
        opened.append(graph := Neo4jServer())
        opened.append(search := SearchServer("opensearch"))
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(up, server) for server in (graph, search)]:
                done.result()
        yield Servers(graph, search)
    finally:
        for server in opened:
            server.close()


def fetch() -> None:
    """Has both in the cache, with their progress on standard error. Raises ServerMissing with what to install."""
    print("servers: Neo4j and OpenSearch, from Maven the first time (180 MB)", file=sys.stderr, flush=True)
    for make in (Neo4jServer, lambda: SearchServer("opensearch")):
        make().close()


if __name__ == "__main__":
    try:
        fetch()
    except WalcastError as error:
        sys.exit(f"social: {error.message}\nhint: {error.hint}")
