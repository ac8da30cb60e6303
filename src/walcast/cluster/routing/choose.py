"""The choice of a server for one read or write, as a generator of steps: the same for threads and for asyncio."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from walcast.cluster.routing.fleet import Fleet, Node
from walcast.model import Token

_WAITS_SINCE: Final = 190_000
"""server_version_num of the first server with WAIT FOR LSN."""
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
"""Seconds between two questions to a server, for all that wait together."""
_REPLICA_TIMEOUT: Final = 1.0
_PRIMARY_TIMEOUT: Final = 5.0
"""Seconds to wait for a connection of a pool."""


@dataclass(slots=True, eq=False)
class Held:
    """A connection of a pool, and the server's life that it belongs to."""

    node: Node
    connection: Any
    life: int


@dataclass(frozen=True, slots=True)
class Want:
    """What a read asks for. `until` bounds the wait for a replica, `patience` the search for a primary (monotonic)."""

    token: Token | None
    until: float
    patience: float
    only: Node | None = None
    """The one replica that will do."""
    avoid: Collection[Node] = ()
    """Failed this read already."""
    primary: bool = False
    """Nothing but the primary will do."""


class Step(NamedTuple):
    """What the router is to do next. `take` answers with Held, or None when the server cannot be had; the others with
    None. `ask` and `wait` put what they learn into the fleet; a connection that breaks is marked lost by them."""

    do: Literal["take", "give", "ask", "wait", "pause", "look"]
    node: Node | None = None
    held: Held | None = None
    token: Token | None = None
    seconds: float = 0.0


Plan = Generator[Step, Held | None, Held]


def for_write(fleet: Fleet, until: float) -> Plan:
    """The primary. Looks for it until then (monotonic). Raises SplitBrain, NodeUnavailable."""
    pause = _FIRST_PAUSE
    while True:
        primary = fleet.primary()
        if primary is not None:
            held = yield Step("take", primary, seconds=_PRIMARY_TIMEOUT)
            if held is not None:
                if fleet.primary() is primary:
                    return held
                yield Step("give", held=held)  # the new connection says that it no longer is
        left = until - time.monotonic()
        if left <= 0:
            raise fleet.nobody("take a write")
        yield Step("look", seconds=min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)


def for_read(fleet: Fleet, want: Want) -> Plan:
    """A replica that has the token (without one: any), the sooner the better; else the primary.

    Without a token, and with one that a replica is known to have, no server is asked. Else one question is asked at a
    time, whoever waits, and its answer is everybody's. Raises WriteLost, OperatorError, SplitBrain, NodeUnavailable.
    """
    token, pause = want.token, _FIRST_PAUSE
    if token is not None:
        fleet.check(token)
    while not want.primary:
        replicas = [node for node in fleet.by_load(fleet.replicas()) if node not in want.avoid]
        if want.only is not None:
            replicas = [node for node in replicas if node is want.only]
        for node in replicas:
            if token is None or fleet.has(node.mark, token):
                held = yield from _take(fleet, node, token)
                if held is not None:
                    return held
        left = want.until - time.monotonic()
        hopeful = [node for node in replicas if _worth_waiting(fleet, node, left)]
        if token is None or not hopeful:
            break
        held = yield from _ask(fleet, min(hopeful, key=lambda node: node.asked), token, pause, left)
        if held is not None:
            return held
        left = want.until - time.monotonic()
        if left <= 0:
            break
        yield Step("pause", seconds=min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
    return (yield from _on_primary(fleet, token, want.patience))


def _take(fleet: Fleet, node: Node, token: Token | None) -> Generator[Step, Held | None, Held | None]:
    """A connection to a server that has the token by what is known of it; a new connection may know better."""
    held = yield Step("take", node, seconds=_REPLICA_TIMEOUT)
    if held is None:
        return None
    if (
        node in fleet.replicas()
        and held.life == node.mark.life
        and (token is None or fleet.has(node.mark, token))
    ):
        return held
    yield Step("give", held=held)
    return None


def _ask(
    fleet: Fleet, node: Node, token: Token, pause: float, left: float
) -> Generator[Step, Held | None, Held | None]:
    """One question to one server, unless another reader has just asked it."""
    now = time.monotonic()
    if now - node.asked < pause:
        return None
    node.asked = now
    held = yield Step("take", node, seconds=_REPLICA_TIMEOUT)
    if held is None:
        return None
    if not fleet.has(node.mark, token):
        if node.version >= _WAITS_SINCE and left > 0 and node.mark.timeline == token.timeline:
            yield Step("wait", held=held, token=token, seconds=left)
        else:
            yield Step("ask", held=held)
    if node in fleet.replicas() and held.life == node.mark.life and fleet.has(node.mark, token):
        return held
    yield Step("give", held=held)
    return None


def _worth_waiting(fleet: Fleet, node: Node, left: float) -> bool:
    """Not when the replica is known to be further behind than the wait would last: the monitor will see it catch up."""
    lag = fleet.lag(node, time.monotonic())
    return lag is None or lag < max(left, 2 * fleet.interval)


def _on_primary(fleet: Fleet, token: Token | None, patience: float) -> Plan:
    """The primary has every token of its timeline: no question is needed. While none is known, somebody looks for it."""
    pause = _FIRST_PAUSE
    while True:
        primary = fleet.primary()
        if primary is not None and (token is None or fleet.can_answer(primary, token)):
            held = yield Step("take", primary, seconds=_PRIMARY_TIMEOUT)
            if held is not None:
                if fleet.primary() is primary:
                    return held
                yield Step("give", held=held)
        left = patience - time.monotonic()
        if left <= 0:
            raise fleet.nobody("serve a read" if token is None else f"serve a read that needs {token}")
        yield Step("look", seconds=min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
        if token is not None:
            fleet.check(token)
