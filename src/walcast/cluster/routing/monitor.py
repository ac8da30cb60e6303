"""Looks at every server once in a while, each by a connection of its own: no read pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import Final, NamedTuple

from psycopg.rows import tuple_row

from walcast.cluster.routing.fleet import Fleet, Node, Role
from walcast.model import WalcastError
from walcast.model.secret import Secret
from walcast.postgres.connect import Connection
from walcast.postgres.control import Control, hang_up
from walcast.postgres.standing import STANDING, Standing, read_history

log = logging.getLogger("walcast.cluster")

_PATIENCE: Final = 2.0
"""Seconds that a server may take to answer, at least; then it counts as lost."""
_SOONEST: Final = 0.01
"""Seconds between two looks at a server, however often somebody asks for one."""


_HISTORY_AGAIN: Final = 60.0
"""Seconds after which a server that would not tell its history is asked again."""


class _Known(NamedTuple):
    connection: Connection
    life: int


class Monitor:
    """One task a server. Made and used inside an event loop; `poke` may be called from any thread."""

    def __init__(self, fleet: Fleet, application: str) -> None:
        self._fleet = fleet
        self._application = application
        self._loop = asyncio.get_running_loop()
        self._wake = {node: asyncio.Event() for node in fleet.nodes}
        self._looked = {node: asyncio.Event() for node in fleet.nodes}
        self._tasks: list[asyncio.Task[None]] = []
        self._not_before = 0.0

    async def start(self, timeout: float) -> None:
        """Returns once every server was looked at, or after `timeout` seconds."""
        self._tasks = [asyncio.create_task(self._watch(node)) for node in self._fleet.nodes]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for looked in self._looked.values():
                    await looked.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def poke(self) -> None:
        """Every server is looked at now."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: so has the router
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for event in self._wake.values():
            event.set()

    async def _watch(self, node: Node) -> None:
        patience = max(_PATIENCE, 2 * self._fleet.interval)
        control = Control(Secret(node.watch), self._application, patience)
        control.on_lost = lambda: self._lost(node, "the connection was lost")
        known: _Known | None = None
        try:
            while True:
                try:
                    known = await control.ask(partial(self._look, node, known))
                    await self._learn_history(node)
                except WalcastError as error:
                    self._lost(node, error.message)
                self._looked[node].set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._fleet.interval):
                        await self._wake[node].wait()
                await asyncio.sleep(_SOONEST)
                self._wake[node].clear()
        finally:
            await control.close()

    async def _look(self, node: Node, known: _Known | None, connection: Connection) -> _Known:
        joined, life = None, -1
        if known is not None and known.connection is connection:
            life = known.life
        else:
            joined = self._fleet.join(node, connection.info.server_version)
        asked = time.monotonic()
        async with connection.cursor(row_factory=tuple_row) as cursor:
            standing = Standing.of(await (await cursor.execute(STANDING)).fetchone())
        before = self._fleet.role(node)
        life = self._fleet.note(node, standing, asked, life=life, joined=joined)
        after = self._fleet.role(node)
        if after is not before:
            log.info(
                "node_role",
                extra={"node": node.name, "role": after.value, "timeline": standing.timeline, "life": life},
            )
        return _Known(connection, life)

    async def _learn_history(self, node: Node) -> None:
        """Asked of the newest primary, once a timeline. Without the right to ask, tokens of an older timeline are not
        taken for granted anywhere but there."""
        history = self._fleet.history
        if history is None or history.timeline == 1 or history.ends or time.monotonic() < self._not_before:
            return
        if self._fleet.role(node) is not Role.PRIMARY:
            return
        try:
            self._fleet.learn(await read_history(node.watch, self._application, history.timeline))
        except WalcastError as error:
            self._not_before = time.monotonic() + _HISTORY_AGAIN
            log.warning(
                "history_unknown",
                extra={"node": node.name, "reason": error.message, "hint": error.hint or ""},
            )

    def _lost(self, node: Node, why: str) -> None:
        if node.up:
            log.warning("node_lost", extra={"node": node.name, "reason": why})
        self._fleet.lost(node, why)
        for pgconn in tuple(node.asking):
            hang_up(pgconn)  # whoever waits for its answer goes elsewhere
