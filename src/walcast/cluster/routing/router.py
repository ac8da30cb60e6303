"""`walcast.Router`: a primary and its replicas as one pool, for threads."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import psycopg

from walcast.cluster.routing.base import C, Fresh, Lease, RouterBase, RouterSettings, at_rest, dead, elsewhere
from walcast.cluster.routing.choose import Held, Plan, Step, for_read, for_write
from walcast.cluster.routing.fleet import Node
from walcast.cluster.routing.monitor import Monitor
from walcast.cluster.routing.session import Session, current, in_session
from walcast.model import NodeUnavailable, Token
from walcast.postgres.standing import look, wait_for

T = TypeVar("T")


class Pool(Protocol[C]):
    """Connections to one server. What is not psycopg's own pool (an SQLAlchemy engine) comes in through this."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def take(self, timeout: float) -> tuple[C, int]:
        """A connection outside of any transaction, and the life it belongs to. Raises psycopg's OperationalError."""
        ...

    def give(self, connection: C, *, broken: bool = False) -> None:
        """Takes it back, outside of any transaction; a broken one is closed."""
        ...

    def raw(self, connection: C) -> psycopg.Connection[Any]:
        """The psycopg connection below."""
        ...

    def begin(self, connection: C, *, read_only: bool) -> None:
        """What runs next is one transaction."""
        ...

    def end(self, connection: C, *, commit: bool) -> None: ...


PoolFactory = Callable[["Router[C]", Node], Pool[C]]


class Router(RouterBase, Generic[C]):
    """Reads go to a replica that has what they ask for, writes to the primary, whichever server that is now.

    `nodes` are the servers' DSNs, in any order, or names and DSNs; by default PRIMARY_DSN, REPLICA1_DSN ... of the
    environment. Who is the primary is found out, and again after a failover. Needs the extra `walcast[router]`.

    `watch` are DSNs by server's name for the looks at it, if by another role: with pg_read_all_stats a standby's timeline
    is seen as soon as it changes, with REPLICATION the history of timelines. `options` are those of RouterSettings.

        with Router([primary, replica1, replica2]) as router:
            with router.write() as write:
                write.connection.execute("insert ...")
            with router.read(fresh=write.token) as read:
                read.connection.execute("select ...")
    """

    def __init__(
        self,
        nodes: Sequence[str] | Mapping[str, str] | None = None,
        settings: RouterSettings | None = None,
        *,
        watch: Mapping[str, str] | None = None,
        pool: PoolFactory[C] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nodes, settings, watch, options)
        self._make_pool = pool
        self._pools: dict[Node, Pool[C]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._monitor: Monitor | None = None

    def open(self) -> Self:
        """Looks at every server once. Raises NodeUnavailable when none can be reached, OperatorError when they are not of
        one cluster."""
        factory = self._make_pool
        if factory is None:
            from walcast.cluster.routing.pools import PsycopgPool

            factory = cast("PoolFactory[C]", PsycopgPool)
        self._pools = {node: factory(self, node) for node in self.fleet.nodes}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="walcast router", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
            if not any(node.up for node in self.fleet.nodes):
                raise self.fleet.nobody("be reached")
            self.fleet.refuse_strangers()
            for pool in self._pools.values():
                pool.open()
        except BaseException:
            self.close()
            raise
        return self

    async def _start(self) -> None:
        self._monitor = Monitor(self.fleet, self.settings.application)
        await self._monitor.start(self.settings.timeout)

    def close(self) -> None:
        """Ends all connections. Safe to call twice."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        if self._monitor is not None:
            asyncio.run_coroutine_threadsafe(self._monitor.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
        for pool in self._pools.values():
            pool.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def poke(self) -> None:
        if self._monitor is not None:
            self._monitor.poke()

    @contextlib.contextmanager
    def read(
        self, fresh: Fresh = None, *, max_lag: float | None = None, wait: float | None = None
    ) -> Iterator[Lease[C]]:
        """One read-only transaction on one server that has what `fresh` asks for.

        A token (or its text): everything before it. "any": any replica. "monotonic": what this session has seen and
        written. `max_lag`: everything that committed more than so many seconds ago. By default "monotonic" inside a
        session, else "any". Waits for a replica for at most `wait` seconds, then reads from the primary.

        Raises WriteLost when the token's write exists nowhere any more, NodeUnavailable when neither a replica nor a
        primary has it in time, and whatever psycopg raises. An error after which the read may be tried on another server
        (a conflict with recovery, a lost server) is not tried again here: `run` and `query` do that.
        """
        with self._reading(fresh, max_lag, wait, frozenset()) as lease:
            yield lease

    @contextlib.contextmanager
    def _reading(
        self, fresh: Fresh, max_lag: float | None, wait: float | None, avoid: frozenset[Node]
    ) -> Iterator[Lease[C]]:
        held = self._drive(for_read(self.fleet, self.want(fresh, max_lag, wait, avoid)))
        with self._transaction(held, read_only=True) as lease:
            yield lease
        session = current.get()
        if session is not None:
            session.read(held)
        self._give(held)

    @contextlib.contextmanager
    def write(self) -> Iterator[Lease[C]]:
        """One transaction on the primary; afterwards the lease has its token. Waits for a primary for at most `timeout`.

        Raises SplitBrain when the server turns out to have been replaced, NodeUnavailable. A connection lost in commit
        leaves the outcome unknown: psycopg's OperationalError says no more than that.
        """
        held = self._drive(for_write(self.fleet, time.monotonic() + self.settings.timeout))
        with self._transaction(held, read_only=False) as lease:
            yield lease
        lease.token = self._token_of(held) or self._token_later()

    def token(self) -> Token:
        """What the primary has committed by now is before it."""
        held = self._drive(for_write(self.fleet, time.monotonic() + self.settings.timeout))
        token = self._token_of(held)
        if token is None:
            raise self.fleet.nobody("give a token")
        return token

    def _token_of(self, held: Held) -> Token | None:
        """Taken on the connection of the write, which goes back to its pool; None when it has broken."""
        asked = time.monotonic()
        try:
            standing = look(self._pools[held.node].raw(held.connection))
        except psycopg.Error as error:
            self.failed(held, error)
            return None
        finally:
            self._give(held)
        return self.committed(held, standing, asked)

    def _token_later(self) -> Token:
        """A later token covers the write as well."""
        try:
            return self.token()
        except NodeUnavailable as error:
            raise self.committed_without_token(error) from None

    def query(self, statement: Any, params: Any = None, fresh: Fresh = None, **options: Any) -> list[Any]:
        """The rows of one read. Tried on other servers as `run` does it."""

        def work(connection: Any) -> list[Any]:
            rows: list[Any] = connection.execute(statement, params).fetchall()
            return rows

        return self.run(work, fresh, **options)

    def run(
        self,
        work: Callable[[C], T],
        fresh: Fresh = None,
        *,
        max_lag: float | None = None,
        wait: float | None = None,
    ) -> T:
        """What `work` makes of a connection, in one read-only transaction.

        When recovery cancels it, or the server goes away, it is run again on another replica and at last on the primary,
        each server once: it must do nothing that may not be done twice.
        """
        avoid: frozenset[Node] = frozenset()
        while True:
            held: Held | None = None
            try:
                with self._reading(fresh, max_lag, wait, avoid) as lease:
                    held = lease.held
                    return work(lease.connection)
            except Exception as error:
                if held is None or held.node in avoid or not elsewhere(error):
                    raise
                avoid |= {held.node}

    def route(self, fresh: Fresh = None, *, max_lag: float | None = None, wait: float | None = None) -> str:
        """The name of a server that has what a read asks for, for frameworks that hold connections themselves."""
        held = self._drive(for_read(self.fleet, self.want(fresh, max_lag, wait)))
        session = current.get()
        if session is not None:
            session.read(held, ended=math.inf)  # nobody says when the read is over
        self._give(held)
        return held.node.name

    def primary_name(self) -> str:
        """The name of the primary now. Raises SplitBrain, NodeUnavailable."""
        primary = self.fleet.primary()
        if primary is not None:
            return primary.name
        held = self._drive(for_write(self.fleet, time.monotonic() + self.settings.timeout))
        self._give(held)
        return held.node.name

    @contextlib.contextmanager
    def session(self, token: Token | None = None) -> Iterator[Session]:
        """Reads inside see the session's own writes, and never less than its last read saw. `token` goes on from an
        earlier one; the session's own is what to hand on. Sessions do not cross threads or tasks by themselves."""
        with in_session(Session(token)) as session:
            yield session

    @contextlib.contextmanager
    def _transaction(self, held: Held, *, read_only: bool) -> Iterator[Lease[C]]:
        """The connection goes back only when the transaction failed: a write still has to ask for its token."""
        pool = self._pools[held.node]
        try:
            pool.begin(held.connection, read_only=read_only)
            yield Lease(held.connection, held.node.name, self.fleet.role(held.node), held)
            pool.end(held.connection, commit=True)
        except BaseException as error:
            self.failed(held, error)
            with contextlib.suppress(Exception):  # the first error is the one to tell
                pool.end(held.connection, commit=False)
            self._give(held)
            raise

    def _drive(self, plan: Plan) -> Held:
        """Runs a plan. A connection that it holds when it fails goes back."""
        holding: Held | None = None
        try:
            while True:
                step = plan.send(holding)
                if step.do == "take" and step.node is not None:
                    holding = self._take(step.node, step.seconds)
                elif step.do == "give" and holding is not None:
                    self._give(holding)
                    holding = None
                else:
                    self._learn(step, holding)
        except StopIteration as done:
            held: Held = done.value
            return held
        except BaseException:
            if holding is not None:
                self._give(holding)
            raise

    def _learn(self, step: Step, holding: Held | None) -> None:
        if step.do == "look":
            self.poke()
        if holding is None:
            time.sleep(step.seconds)
            return
        node, raw = holding.node, self._pools[holding.node].raw(holding.connection)
        node.asking.add(raw.pgconn)
        try:
            if step.do == "wait" and step.token is not None:
                wait_for(raw, step.token.lsn, step.seconds)
            asked = time.monotonic()
            self.fleet.note(node, look(raw), asked, life=holding.life)
        except psycopg.Error as error:
            self.failed(holding, error)
        finally:
            node.asking.discard(raw.pgconn)

    def _take(self, node: Node, seconds: float) -> Held | None:
        pool = self._pools[node]
        deadline = time.monotonic() + seconds
        while True:
            try:
                connection, life = pool.take(max(0.001, deadline - time.monotonic()))
            except psycopg.OperationalError as error:
                self.refused(node, error)
                return None
            if life == node.mark.life and not dead(pool.raw(connection)):
                node.held.add(id(connection))
                return Held(node, connection, life)
            pool.give(connection, broken=True)

    def _give(self, held: Held) -> None:
        pool = self._pools[held.node]
        held.node.held.discard(id(held.connection))
        pool.give(held.connection, broken=not at_rest(pool.raw(held.connection)))
