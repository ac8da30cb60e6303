"""`walcast.AsyncRouter`: a primary and its replicas as one pool, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from psycopg import AsyncConnection

from walcast.cluster.routing.base import Fresh, Lease, RouterBase, RouterSettings, at_rest, dead, elsewhere
from walcast.cluster.routing.choose import Held, Plan, Step, for_read, for_write
from walcast.cluster.routing.fleet import Node
from walcast.cluster.routing.monitor import Monitor
from walcast.cluster.routing.session import Session, current, in_session
from walcast.model import NodeUnavailable, Token
from walcast.postgres.standing import look_async, wait_for_async

if TYPE_CHECKING:
    from walcast.cluster.routing.pools import AsyncPsycopgPool

T = TypeVar("T")
Connection = AsyncConnection[Any]


class AsyncRouter(RouterBase):
    """`walcast.Router` for asyncio, over psycopg's AsyncConnection: the same arguments, meanings and errors."""

    def __init__(
        self,
        nodes: Sequence[str] | Mapping[str, str] | None = None,
        settings: RouterSettings | None = None,
        *,
        watch: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nodes, settings, watch, options)
        self._pools: dict[Node, AsyncPsycopgPool] = {}
        self._monitor: Monitor | None = None

    async def open(self) -> Self:
        """As `Router.open`."""
        from walcast.cluster.routing.pools import AsyncPsycopgPool

        self._pools = {node: AsyncPsycopgPool(self, node) for node in self.fleet.nodes}
        self._monitor = Monitor(self.fleet, self.settings.application)
        try:
            await self._monitor.start(self.settings.timeout)
            if not any(node.up for node in self.fleet.nodes):
                raise self.fleet.nobody("be reached")
            self.fleet.refuse_strangers()
            for pool in self._pools.values():
                await pool.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Ends all connections. Safe to call twice."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return
        await monitor.stop()
        for pool in self._pools.values():
            await pool.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def poke(self) -> None:
        if self._monitor is not None:
            self._monitor.poke()

    @contextlib.asynccontextmanager
    async def read(
        self, fresh: Fresh = None, *, max_lag: float | None = None, wait: float | None = None
    ) -> AsyncIterator[Lease[Connection]]:
        """As `Router.read`."""
        async with self._reading(fresh, max_lag, wait, frozenset()) as lease:
            yield lease

    @contextlib.asynccontextmanager
    async def _reading(
        self, fresh: Fresh, max_lag: float | None, wait: float | None, avoid: frozenset[Node]
    ) -> AsyncIterator[Lease[Connection]]:
        held = await self._drive(for_read(self.fleet, self.want(fresh, max_lag, wait, avoid)))
        async with self._transaction(held, read_only=True) as lease:
            yield lease
        session = current.get()
        if session is not None:
            session.read(held)
        await self._give(held)

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Lease[Connection]]:
        """As `Router.write`."""
        held = await self._drive(for_write(self.fleet, time.monotonic() + self.settings.timeout))
        async with self._transaction(held, read_only=False) as lease:
            yield lease
        lease.token = await self._token_of(held) or await self._token_later()

    async def token(self) -> Token:
        """As `Router.token`."""
        held = await self._drive(for_write(self.fleet, time.monotonic() + self.settings.timeout))
        token = await self._token_of(held)
        if token is None:
            raise self.fleet.nobody("give a token")
        return token

    async def _token_of(self, held: Held) -> Token | None:
        asked = time.monotonic()
        try:
            standing = await look_async(held.connection)
        except psycopg.Error as error:
            self.failed(held, error)
            return None
        finally:
            await self._give(held)
        return self.committed(held, standing, asked)

    async def _token_later(self) -> Token:
        try:
            return await self.token()
        except NodeUnavailable as error:
            raise self.committed_without_token(error) from None

    async def query(
        self, statement: Any, params: Any = None, fresh: Fresh = None, **options: Any
    ) -> list[Any]:
        """As `Router.query`."""

        async def work(connection: Connection) -> list[Any]:
            return await (await connection.execute(statement, params)).fetchall()

        return await self.run(work, fresh, **options)

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        fresh: Fresh = None,
        *,
        max_lag: float | None = None,
        wait: float | None = None,
    ) -> T:
        """As `Router.run`."""
        avoid: frozenset[Node] = frozenset()
        while True:
            held: Held | None = None
            try:
                async with self._reading(fresh, max_lag, wait, avoid) as lease:
                    held = lease.held
                    return await work(lease.connection)
            except Exception as error:
                if held is None or held.node in avoid or not elsewhere(error):
                    raise
                avoid |= {held.node}

    @contextlib.contextmanager
    def session(self, token: Token | None = None) -> Iterator[Session]:
        """As `Router.session`."""
        with in_session(Session(token)) as session:
            yield session

    @contextlib.asynccontextmanager
    async def _transaction(self, held: Held, *, read_only: bool) -> AsyncIterator[Lease[Connection]]:
        pool = self._pools[held.node]
        try:
            await pool.begin(held.connection, read_only=read_only)
            yield Lease(held.connection, held.node.name, self.fleet.role(held.node), held)
            await pool.end(held.connection, commit=True)
        except BaseException as error:
            self.failed(held, error)
            with contextlib.suppress(Exception):  # the first error is the one to tell
                await pool.end(held.connection, commit=False)
            await self._give(held)
            raise

    async def _drive(self, plan: Plan) -> Held:
        holding: Held | None = None
        try:
            while True:
                step = plan.send(holding)
                if step.do == "take" and step.node is not None:
                    holding = await self._take(step.node, step.seconds)
                elif step.do == "give" and holding is not None:
                    await self._give(holding)
                    holding = None
                else:
                    await self._learn(step, holding)
        except StopIteration as done:
            held: Held = done.value
            return held
        except BaseException:
            if holding is not None:
                await self._give(holding)
            raise

    async def _learn(self, step: Step, holding: Held | None) -> None:
        if step.do == "look":
            self.poke()
        if holding is None:
            await asyncio.sleep(step.seconds)
            return
        node, connection = holding.node, holding.connection
        node.asking.add(connection.pgconn)
        try:
            if step.do == "wait" and step.token is not None:
                await wait_for_async(connection, step.token.lsn, step.seconds)
            asked = time.monotonic()
            self.fleet.note(node, await look_async(connection), asked, life=holding.life)
        except psycopg.Error as error:
            self.failed(holding, error)
        finally:
            node.asking.discard(connection.pgconn)

    async def _take(self, node: Node, seconds: float) -> Held | None:
        pool = self._pools[node]
        deadline = time.monotonic() + seconds
        while True:
            try:
                connection, life = await pool.take(max(0.001, deadline - time.monotonic()))
            except psycopg.OperationalError as error:
                self.refused(node, error)
                return None
            if life == node.mark.life and not dead(connection):
                node.held.add(id(connection))
                return Held(node, connection, life)
            await pool.give(connection, broken=True)

    async def _give(self, held: Held) -> None:
        held.node.held.discard(id(held.connection))
        await self._pools[held.node].give(held.connection, broken=not at_rest(held.connection))
