"""psycopg_pool below the routers: connections that know which life of their server they belong to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from walcast.cluster.routing.base import RouterBase, connection_parameters
from walcast.cluster.routing.fleet import Node
from walcast.model import ConfigError
from walcast.postgres.standing import look, look_async

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

try:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool
except ImportError:
    raise ConfigError("the router needs psycopg_pool", hint="pip install 'walcast[router]'") from None

_GIVE_UP: Final = 5.0
"""Seconds after which the pool stops trying to connect; the monitor goes on."""


class PsycopgPool:
    """Connections to one server for the blocking router."""

    def __init__(self, router: RouterBase, node: Node) -> None:
        self._fleet, self._node = router.fleet, node
        self._lives: WeakKeyDictionary[Connection[Any], int] = WeakKeyDictionary()
        self._pool = ConnectionPool(
            node.dsn,
            kwargs={"autocommit": True} | connection_parameters(node.dsn, router.settings.application),
            min_size=0,
            max_size=router.settings.max_size,
            open=False,
            configure=self._configure,
            name=f"walcast-{node.name}",
            reconnect_timeout=_GIVE_UP,
            num_workers=1,
        )

    def open(self) -> None:
        self._pool.open()

    def close(self) -> None:
        self._pool.close()

    def take(self, timeout: float) -> tuple[Connection[Any], int]:
        connection = self._pool.getconn(timeout)
        return connection, self._lives.get(connection, -1)

    def give(self, connection: Connection[Any], *, broken: bool = False) -> None:
        if broken:
            connection.close()
        elif not connection.autocommit:
            connection.autocommit = True
        self._pool.putconn(connection)

    def raw(self, connection: Connection[Any]) -> Connection[Any]:
        return connection

    def begin(self, connection: Connection[Any], *, read_only: bool) -> None:
        connection.autocommit = False
        connection.read_only = read_only

    def end(self, connection: Connection[Any], *, commit: bool) -> None:
        connection.commit() if commit else connection.rollback()

    def _configure(self, connection: Connection[Any]) -> None:
        joined = self._fleet.join(self._node, connection.info.server_version)
        asked = time.monotonic()
        self._lives[connection] = self._fleet.note(self._node, look(connection), asked, joined=joined)


class AsyncPsycopgPool:
    """Connections to one server for the asyncio router."""

    def __init__(self, router: RouterBase, node: Node) -> None:
        self._fleet, self._node = router.fleet, node
        self._lives: WeakKeyDictionary[AsyncConnection[Any], int] = WeakKeyDictionary()
        self._pool = AsyncConnectionPool(
            node.dsn,
            kwargs={"autocommit": True} | connection_parameters(node.dsn, router.settings.application),
            min_size=0,
            max_size=router.settings.max_size,
            open=False,
            configure=self._configure,
            name=f"walcast-{node.name}",
            reconnect_timeout=_GIVE_UP,
            num_workers=1,
        )

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def take(self, timeout: float) -> tuple[AsyncConnection[Any], int]:
        connection = await self._pool.getconn(timeout)
        return connection, self._lives.get(connection, -1)

    async def give(self, connection: AsyncConnection[Any], *, broken: bool = False) -> None:
        if broken:
            await connection.close()
        elif not connection.autocommit:
            await connection.set_autocommit(True)
        await self._pool.putconn(connection)

    async def begin(self, connection: AsyncConnection[Any], *, read_only: bool) -> None:
        await connection.set_autocommit(False)
        await connection.set_read_only(read_only)

    async def end(self, connection: AsyncConnection[Any], *, commit: bool) -> None:
        await (connection.commit() if commit else connection.rollback())

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        joined = self._fleet.join(self._node, connection.info.server_version)
        asked = time.monotonic()
        standing = await look_async(connection)
        self._lives[connection] = self._fleet.note(self._node, standing, asked, joined=joined)
