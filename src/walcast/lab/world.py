"""What the lab does to its cluster, and what it has seen: writes with their outcome, reads with what they miss.

Nothing in here draws. Every deed says what it did through `tell`, one line at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import psycopg

from walcast.app import cluster as work
from walcast.cluster import operations as op
from walcast.cluster.commit import Outcome, commit, resolve
from walcast.cluster.desired import Desired
from walcast.cluster.local import LocalCluster
from walcast.cluster.profiles import parse
from walcast.cluster.routing.aio import AsyncRouter
from walcast.cluster.routing.fleet import Role
from walcast.cluster.steps import Plan, Step, Unfence
from walcast.lab import table
from walcast.model import Token, WalcastError
from walcast.postgres.connect import describe
from walcast.postgres.faults import explain_connect
from walcast.postgres.standing import take_token_async

Tell = Callable[[str, str], None]
"""Takes a line and its kind: info, good, bad, stale, step."""

_REMEMBERED: Final = 1000
"""Acknowledged rows that a read is checked against."""
_LATENCIES: Final = 200
_DELAY: Final = 0.3
"""Seconds by which `delay` holds back a replica's network, in each direction."""
_CONNECT_TIMEOUT: Final = 10
_MOMENT: Final = 2.0
"""Seconds for which a client waits that has nobody to call its COMMIT off."""
_PATIENCE: Final = 30.0
_WAIT: Final = 5.0
"""Seconds for which a read with the token waits for a replica."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One read. `missing` are acknowledged rows that it did not show."""

    node: str
    rows: int
    newest: str
    missing: frozenset[uuid.UUID]
    waited: float


class World:
    """A cluster, a router over it, and what was written and acknowledged in this session."""

    def __init__(self, cluster: LocalCluster, router: AsyncRouter, tell: Tell) -> None:
        self.cluster = cluster
        self.router = router
        self.tell = tell
        self.token: Token | None = None
        self.latencies: deque[float] = deque(maxlen=_LATENCIES)
        """Milliseconds of the last commits."""
        self.stale = 0
        """Reads that missed an acknowledged row."""
        self.writing_since: float | None = None
        """When the COMMIT that is under way began (monotonic)."""
        self._known: deque[uuid.UUID] = deque(maxlen=_REMEMBERED)

    @classmethod
    @asynccontextmanager
    async def opened(cls, cluster: LocalCluster, tell: Tell) -> AsyncIterator[Self]:
        """The world over a cluster that is up."""
        dsns = {node.name: cluster.dsn(node.name) for node in cluster.desired.members}
        watch = {name: cluster.dsn(name, role="postgres") for name in dsns}
        async with AsyncRouter(dsns, watch=watch, interval=0.5, application="walcast:lab") as router:
            world = cls(cluster, router, tell)
            async with world.connected(cluster.desired.primary) as connection:
                await connection.execute(table.CREATE)
                await connection.commit()
            yield world

    @property
    def primary(self) -> str:
        return self.cluster.desired.primary

    @property
    def replicas(self) -> list[str]:
        return [node.name for node in self.cluster.desired.replicas]

    async def view(self) -> work.View:
        return await work.view(self.cluster)

    # Writes

    async def write(self, message: str) -> Outcome | None:
        """One row. Being cancelled while the COMMIT waits calls the wait off, and the truth about the row is told; the outcome
        is None then."""
        table.checked(message)
        async with self.connected(self.primary) as connection:
            outcome = await self._write(connection, message)
        if outcome is not None:
            await self._say(message, outcome)
        return outcome

    async def _write(self, connection: psycopg.AsyncConnection[Any], message: str) -> Outcome | None:
        key = table.new_id()
        await connection.execute(table.INSERT, [key, message])
        self.writing_since = time.monotonic()
        try:
            outcome = await commit(connection)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # it was the wait that was called off, not what comes after
            waited = time.monotonic() - self.writing_since
            there = await asyncio.shield(self._is_there(key))
            self.tell(f"Interrupted after {waited * 1000:.0f} ms. {table.truth(there)}", "bad")
            return None
        finally:
            self.writing_since = None
        if outcome.committed:
            self._known.append(key)
            self.latencies.append(outcome.waited * 1000)
            if not connection.closed:
                self.token = (await take_token_async(connection)).join(self._same_system(self.token))
        return outcome

    async def write_many(self, count: int, reader: str) -> None:
        """One after another; each is looked for at `reader` at once, without its token. Being cancelled ends it."""
        began = time.monotonic()
        done = read = stale = 0
        try:
            async with contextlib.AsyncExitStack() as stack:
                reading = None
                with contextlib.suppress(WalcastError):  # it is down: then nothing is read
                    reading = await stack.enter_async_context(self.connected(reader))
                    await reading.set_autocommit(True)
                writing = await stack.enter_async_context(self.connected(self.primary))
                for number in range(count):
                    message = f"row {number + 1} of {count}"
                    outcome = await self._write(writing, message)
                    if outcome is None:
                        return
                    if outcome.kind != "replicated":
                        await self._say(message, outcome)
                    if writing.closed:
                        return
                    done += 1
                    if reading is not None:
                        missing = await self._missing_last(reading)
                        read, stale = read + (missing is not None), stale + (missing or 0)
        finally:
            self.stale += stale
            recent = sorted(list(self.latencies)[-done:]) if done else []
            typical = f", COMMIT took {recent[len(recent) // 2]:.1f} ms in the middle" if recent else ""
            self.tell(
                f"{done} of {count} rows written in {time.monotonic() - began:.1f} s{typical}",
                "good" if done else "bad",
            )
            if read:
                self.tell(
                    f"{stale} of {read} reads at {reader} right after the write, without its token, were STALE",
                    "stale" if stale else "info",
                )

    async def _say(self, message: str, outcome: Outcome) -> None:
        took = f"COMMIT took {outcome.waited * 1000:.0f} ms"
        if outcome.kind == "replicated":
            self.tell(f"Inserted {message} into PRIMARY. {took}", "good")
        elif outcome.kind == "local":
            self.tell(f"Inserted {message} into PRIMARY alone: {outcome.reason}. {took}", "bad")
        else:
            self.tell(f"Whether {message} was committed is not known: {outcome.reason}", "bad")
            found = await resolve(outcome, self.cluster.dsn(self.primary))
            self.tell(f"The primary says: {found.kind} ({found.reason})", "info")

    async def _missing_last(self, connection: psycopg.AsyncConnection[Any]) -> int | None:
        """1 when a server does not show the last acknowledged row, 0 when it does; None when it does not answer."""
        try:
            return len(await (await connection.execute(table.MISSING, [[self._known[-1]]])).fetchall())
        except psycopg.Error:
            return None

    async def _is_there(self, key: uuid.UUID) -> bool | None:
        try:
            async with self.connected(self.primary) as connection:
                row = await (await connection.execute(table.THERE, [key])).fetchone()
                found = bool(row and row[0])
        except (psycopg.Error, WalcastError):
            return None
        if found:
            self._known.append(key)
        return found

    def _same_system(self, token: Token | None) -> Token | None:
        return token if token is not None and token.system_id == self.router.fleet.system_id else None

    async def write_beside(self, node: str, message: str, *, alone: bool = False) -> Outcome:
        """One row by a client that writes to that node whoever the primary is; it waits for a moment. `alone`: it does not
        wait for replicas, as under async."""
        key = table.new_id()
        async with self.connected(node) as connection:
            if alone:
                await connection.execute("set local synchronous_commit = local")
            await connection.execute(table.INSERT, [key, message])
            outcome = await commit(connection, timeout=_MOMENT)
        if outcome.kind == "replicated":
            self._known.append(key)
            self.tell(f"Inserted {message} into {node}. COMMIT took {outcome.waited * 1000:.0f} ms", "bad")
        else:
            self.tell(
                f"{node} did not acknowledge {message!r} within {outcome.waited:.1f} s: {outcome.reason}",
                "good",
            )
        return outcome

    # Reads

    async def read(self, node: str) -> Seen:
        """From that node, whatever it has."""
        async with self.connected(node) as connection:
            return self._judged(await self._look(connection, node, time.monotonic()))

    async def read_with_token(self) -> Seen:
        """By the router, with the token of the last write."""
        began = time.monotonic()
        async with self.router.read(self.token or "any", wait=_WAIT) as lease:
            return self._judged(await self._look(lease.connection, lease.node, began), token=True)

    async def _look(self, connection: psycopg.AsyncConnection[Any], node: str, began: float) -> Seen:
        waited = time.monotonic() - began
        count = await (await connection.execute(table.COUNT)).fetchone()
        newest = await (await connection.execute(table.ROWS, [1])).fetchone()
        missing = await (await connection.execute(table.MISSING, [list(self._known)])).fetchall()
        return Seen(
            node,
            count[0] if count else 0,
            newest[1] if newest else "",
            frozenset(key for (key,) in missing),
            waited,
        )

    def _judged(self, seen: Seen, *, token: bool = False) -> Seen:
        how = f" with the token (waited {seen.waited * 1000:.0f} ms)" if token else ""
        newest = f", the newest {seen.newest!r}" if seen.newest else ""
        line = f"Read from {seen.node}{how}: {_rows(seen.rows)}{newest}"
        if seen.missing:
            lost = seen.node == self.primary
            self.stale += not lost
            what = "LOST: acknowledged, and gone" if lost else "STALE: acknowledged, and not here yet"
            self.tell(f"{line}. {_rows(len(seen.missing))} {what}", "stale")
            if lost:  # told once: no server will ever have them
                known = (key for key in self._known if key not in seen.missing)
                self._known = deque(known, maxlen=_REMEMBERED)
        else:
            self.tell(line, "good")
        return seen

    # Deeds

    async def profile(self, name: str) -> None:
        """Switches the durability profile: a reload."""
        wanted = parse(name)
        await self._change(lambda desired: op.with_profile(desired, wanted), f"Profile {wanted.name}")

    async def act(self, deed: str, node: str) -> None:
        """One of DEEDS, done to a node."""
        if deed == "kill":
            await work.kill(self.cluster, node, self._step)
            self.tell(f"{node} was killed (kill -9)", "info")
        elif deed in ("promote", "force"):
            await self._promote(node, force=deed == "force")
        else:
            change = DEEDS[deed]
            await self._change(lambda desired: change(desired, node), f"{deed} {node}")

    async def settle(self) -> None:
        """Everything as it was meant: all running, connected, replaying, rejoined."""

        def well(desired: Desired) -> Desired:
            for replica in desired.replicas:
                desired = op.rejoined(op.resumed(desired, replica.name), replica.name)
            return op.all_running(op.resumed(desired, desired.primary))

        await self._change(well, "All well again")

    async def unfence(self, node: str) -> None:
        """An old primary comes back as its machine would after a reboot that nobody was told of: writable. Returns once the
        router has seen it."""
        await self.cluster.apply((Unfence(node),), self._step)
        self.tell(f"{node} is back, and takes writes", "bad")
        async with asyncio.timeout(_PATIENCE):
            while (role := self._role(node)) is not Role.FENCED:
                self.router.poke()
                await asyncio.sleep(0.05)
        self.tell(f"the router calls {node} {role.value}, and sends nothing there", "good")
        for warning in (await self.view()).guarantee.warnings:
            self.tell(warning, "bad")

    def _role(self, node: str) -> Role:
        return next(status.role for status in self.router.status() if status.name == node)

    async def _promote(self, node: str, *, force: bool) -> None:
        loss = await work.loss(self.cluster, node)
        if loss is not None:
            self.tell(f"Promoting {node} loses {loss}", "info")
        plan = await work.promote(self.cluster, node, force=force, on_step=self._step)
        self._blocked(plan)
        self.router.poke()
        self.tell(f"{node} is the primary now", "good")

    async def _change(self, change: Callable[[Desired], Desired], done: str) -> None:
        self._blocked(await self.cluster.change(change, self._step))
        self.router.poke()
        self.tell(f"{done}: done", "info")

    def _blocked(self, plan: Plan) -> None:
        for stuck in plan.blocked:
            self.tell(f"{stuck.why}. hint: {stuck.hint}", "bad")

    def _step(self, step: Step, finished: bool) -> None:
        if not finished:
            self.tell(str(step), "step")

    @asynccontextmanager
    async def connected(self, node: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection as role app. Raises WalcastError when it cannot be made."""
        dsn = self.cluster.dsn(node)
        try:
            connection = await psycopg.AsyncConnection.connect(
                dsn, application_name="walcast:lab", connect_timeout=_CONNECT_TIMEOUT
            )
        except psycopg.OperationalError as error:
            raise explain_connect(error, describe(dsn)) from None
        try:
            yield connection
        finally:
            await connection.close()


DEEDS: Final[dict[str, Callable[[Desired, str], Desired]]] = {
    "stop": op.stopped,
    "start": op.started,
    "pause": op.paused,
    "resume": op.resumed,
    "delay": lambda desired, node: op.linked(desired, node, "delay", _DELAY),
    "cut": lambda desired, node: op.linked(desired, node, "cut"),
    "switchover": op.switched_over,
    "rejoin": op.rejoined,
}
"""What can be done to a node, besides kill, promote and force."""


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
