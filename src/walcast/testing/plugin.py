"""pytest fixtures: servers that start in a fraction of a second, and a database of its own for each test.

A server that cannot be had skips the test; with CI=true it fails it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

from walcast.postgres.local import ServerMissing
from walcast.testing.postgres import Database, PostgresFactory, PostgresServer
from walcast.testing.proxy import TcpProxy

if TYPE_CHECKING:
    from walcast.testing.neo4j import Neo4jServer
    from walcast.testing.search import Family, SearchServer

T = TypeVar("T")


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[Callable[[int], PostgresServer]]:
    """A function from major version to a server with default settings, started on first use, shared by the session."""
    factory = PostgresFactory()

    def start(version: int) -> PostgresServer:
        return or_skip(lambda: factory(version, shared=True))

    yield start
    factory.close()


@pytest.fixture(scope="session")
def postgres_server(shared_postgres: Callable[[int], PostgresServer]) -> PostgresServer:
    """A PostgreSQL 18 shared by the session. Tests must leave its settings and roles as they found them."""
    return shared_postgres(18)


@pytest.fixture
def postgres_factory() -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers with a test's own settings; they end with the test. Takes what `PostgresFactory` takes."""
    factory = PostgresFactory()

    def start(*args: int, **options: object) -> PostgresServer:
        return or_skip(lambda: factory(*args, **options))  # type: ignore[arg-type]  # passed through as they came

    yield start
    factory.close()


@pytest.fixture
def make_database() -> Iterator[Callable[[PostgresServer], Database]]:
    """Makes fresh databases on any server; dropped after the test, with their slots."""
    made: list[Database] = []

    def make(server: PostgresServer) -> Database:
        made.append(Database.create(server))
        return made[-1]

    yield make
    for database in reversed(made):
        if database.server.running:
            database.drop()


@pytest.fixture
def database(
    postgres_server: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Database:
    """A fresh database on the session's PostgreSQL 18."""
    return make_database(postgres_server)


@pytest.fixture
def tcp_proxy(postgres_server: PostgresServer) -> Iterator[TcpProxy]:
    """A proxy before the session's PostgreSQL 18: `database.dsn(via="tcp", port=tcp_proxy.port)`."""
    with TcpProxy("127.0.0.1", postgres_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def neo4j_server() -> Iterator[Neo4jServer]:
    """A Neo4j 5 shared by the session; its tests go into `pytest.mark.xdist_group("neo4j")`, so that one worker starts it.
    It has one database: `wipe()` it first."""
    from walcast.testing.neo4j import Neo4jServer

    server = or_skip(Neo4jServer)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def shared_search() -> Iterator[Callable[[Family], SearchServer]]:
    """A function from family to a running OpenSearch or Elasticsearch, started on first use, shared by the session. Mark what
    uses it with `xdist_group("search")`: then there is one of each for all workers."""
    from walcast.testing.search import SearchServer

    servers: dict[Family, SearchServer] = {}

    def start(family: Family) -> SearchServer:
        if family not in servers:
            servers[family] = or_skip(
                lambda: SearchServer(family, settings={"http.max_content_length": "8mb"})
            )
        servers[family].start()
        return servers[family]

    yield start
    for server in servers.values():
        server.close()


def or_skip(start: Callable[[], T]) -> T:
    """Starts a server; skips the test when this machine has none, unless CI=true."""
    try:
        return start()
    except ServerMissing as missing:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            raise
        pytest.skip(f"{missing.message}; hint: {missing.hint}")
