"""Session guarantees: what one user, request or task has written and read, which its next read must not fall behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from walcast.cluster.routing.choose import Held
from walcast.cluster.routing.fleet import Node
from walcast.model import Token


class Session:
    """Reads inside it see its own writes (its token), and never less than its last read saw (monotonic reads).

    `token` is what to hand on, in a cookie or to another service; None while nothing was written. Not for two threads
    at once.
    """

    def __init__(self, token: Token | None = None) -> None:
        self.token = token
        self.unproven = False
        """It has written, and has no token of that yet (frameworks that hold connections themselves)."""
        self._node: Node | None = None
        self._life = -1
        self._read_at = 0.0

    def wrote(self, token: Token) -> None:
        """Its next reads must have this write, too."""
        self.token = token.join(self.token)

    def read(self, held: Held, ended: float | None = None) -> None:
        """A read on this connection has ended: just now, unless the caller knows better (monotonic)."""
        self._node, self._life = held.node, held.life
        self._read_at = time.monotonic() if ended is None else ended

    @property
    def last(self) -> tuple[Node, float] | None:
        """Which server answered last, if it still lives, and when."""
        return None if self._node is None else (self._node, self._read_at)

    @property
    def at_home(self) -> Node | None:
        """The server of the last read, if it has not been restarted since: there reads only go forward."""
        node = self._node
        return node if node is not None and node.mark.life == self._life else None


current: Final[ContextVar[Session | None]] = ContextVar("walcast_session", default=None)
"""The session of the running request or task: set by `Router.session` and the middlewares."""


@contextlib.contextmanager
def in_session(session: Session) -> Iterator[Session]:
    """Makes it the running one."""
    before = current.set(session)
    try:
        yield session
    finally:
        current.reset(before)
