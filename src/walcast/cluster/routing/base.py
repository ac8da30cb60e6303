"""What the two routers share: names of servers, what a read asks for, which errors may be tried elsewhere."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Generic

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from walcast.cluster.routing.choose import Held, Want
from walcast.cluster.routing.fleet import Fleet, Node, NodeStatus, Role
from walcast.cluster.routing.session import Session, current
from walcast.model import ConfigError, NodeUnavailable, SplitBrain, Token
from walcast.postgres.connect import parse_dsn
from walcast.postgres.standing import Standing

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    C = TypeVar("C", default=psycopg.Connection[Any])
else:
    from typing import TypeVar  # knows no default before Python 3.13

    C = TypeVar("C")

Fresh = Token | str | None

_ELSEWHERE: Final = frozenset({"40001", "40P01", "57P01", "57P02", "57P03", "25006"})
"""Conflict with recovery (as 40001, and 40P01 for a buffer pin); shut down; not accepting; not writable."""
_CONNECT_TIMEOUT: Final = 5
"""Seconds."""
_PACE: Final = 0.02
"""Seconds between two looks at the servers, at least."""


@dataclass(slots=True, eq=False)
class Lease(Generic[C]):
    """A connection for one transaction, on one server until it ends."""

    connection: C
    node: str
    """The name of the server."""
    role: Role
    held: Held = field(repr=False)
    token: Token | None = None
    """After `write`: what a read has to show to see it."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """How a router goes about it. Times in seconds."""

    wait: float = 0.1
    """How long a read with a token waits for a replica before it goes to the primary."""
    timeout: float = 5.0
    """How long a read or write waits for a primary, while one is being promoted."""
    interval: float = 1.0
    """Between two looks at each server."""
    max_size: int = 10
    """Connections to each server, at most."""
    application: str = "walcast:router"
    """application_name, unless the DSN has one."""

    def __post_init__(self) -> None:
        for name in ("wait", "timeout", "interval", "max_size"):
            value = getattr(self, name)
            if value < 0 or (value == 0 and name in ("interval", "max_size")):
                raise ConfigError(
                    f"router: {name} = {value} makes no sense", hint="seconds and sizes are positive"
                )


class RouterBase:
    """Which servers there are, and what is known of them."""

    def __init__(
        self,
        nodes: Sequence[str] | Mapping[str, str] | None,
        settings: RouterSettings | None,
        watch: Mapping[str, str] | None,
        options: Mapping[str, Any],
    ) -> None:
        self.settings = replace(settings or RouterSettings(), **options)
        self.fleet = Fleet(_named(nodes), self.settings.interval, watch)

    def status(self) -> list[NodeStatus]:
        """What is known of each server now; asks nobody."""
        return self.fleet.status()

    def want(
        self, fresh: Fresh, max_lag: float | None, wait: float | None, avoid: frozenset[Node] = frozenset()
    ) -> Want:
        """What a read asks for, from what its caller said. Raises ConfigError, TokenInvalid."""
        now = time.monotonic()
        session = current.get()
        want = Want(
            None,
            until=now + (self.settings.wait if wait is None else wait),
            patience=now + self.settings.timeout,
            avoid=avoid,
        )
        if max_lag is not None:
            if fresh is not None:
                raise ConfigError("a read asks for `fresh` or for `max_lag`", hint="leave one of them out")
            return self._within(want, max_lag, now)
        if fresh is None:
            fresh = "any" if session is None else "monotonic"
        if isinstance(fresh, Token):
            return replace(want, token=fresh)
        if fresh == "any":
            return want
        if fresh == "monotonic":
            if session is None:
                raise ConfigError(
                    'fresh="monotonic" outside of a session',
                    hint="with router.session(): ... says where one begins",
                )
            return self._monotonic(want, session)
        return replace(want, token=Token.parse(fresh))

    def _within(self, want: Want, max_lag: float, now: float) -> Want:
        if max_lag <= 0:
            raise ConfigError(f"max_lag={max_lag} seconds makes no sense", hint="it is a positive number")
        if self.fleet.interval > max_lag / 2:
            self.fleet.interval = max(_PACE, max_lag / 2)
            self.poke()
        token = self.fleet.sample_since(now - max_lag, durable=True)
        return replace(want, token=token, primary=token is None)

    def _monotonic(self, want: Want, session: Session) -> Want:
        """At the server of the last read nothing is lost; elsewhere, what the primary had when that read was over."""
        last, home, token = session.last, session.at_home, session.token
        if last is None:
            return replace(want, token=token)
        usable = home is not None and home not in want.avoid and self.fleet.role(home) is Role.REPLICA
        if home is not None and usable and (token is None or self.fleet.has(home.mark, token)):
            return replace(want, token=token, only=home)
        sample = self.fleet.sample_since(last[1])
        if sample is None:
            return replace(want, token=token, primary=True)
        return replace(want, token=sample.join(token))

    def poke(self) -> None:
        """Has every server looked at now."""
        raise NotImplementedError

    def committed(self, held: Held, standing: Standing, asked: float) -> Token:
        """The token of a write that has just committed there. Raises SplitBrain when that was an old primary."""
        self.fleet.note(held.node, standing, asked, life=held.life)
        newest = self.fleet.history.timeline if self.fleet.history is not None else 0
        if standing.timeline < newest:
            raise SplitBrain(
                f"the write was committed on {held.node}, which is on timeline {standing.timeline}, but timeline {newest} "
                "has been seen since: it will be lost when that server rejoins",
                hint="write it again; and see that an old primary cannot come back writable",
            )
        session = current.get()
        if session is not None:
            session.wrote(standing.token)
        return standing.token

    @staticmethod
    def committed_without_token(error: NodeUnavailable) -> NodeUnavailable:
        """For a write whose server went away after the commit."""
        return NodeUnavailable(
            f"the write was committed, but its token cannot be had: {error.message}",
            hint="do not write it again; reads that must see it go to the primary until a token can be had",
        )

    def refused(self, node: Node, error: BaseException) -> None:
        """No connection could be had in time: all are handed out, or it cannot be reached."""
        if node.busy < self.settings.max_size:
            self.fleet.lost(node, str(error))
            self.poke()

    def failed(self, held: Held, error: BaseException) -> None:
        """Draws the conclusions of an error for the server that it came from."""
        state = sqlstate(error)
        if state in ("57P01", "57P02", "57P03") or (state is None and _is_lost(error)):
            self.fleet.lost(held.node, "the connection was lost")
            self.poke()
        elif state == "25006":
            self.poke()


def elsewhere(error: BaseException) -> bool:
    """Whether a read that failed so may be tried on another server: cancelled by recovery, or the server went away."""
    return sqlstate(error) in _ELSEWHERE or (sqlstate(error) is None and _is_lost(error))


def sqlstate(error: BaseException) -> str | None:
    """Of psycopg's error, or of the one that SQLAlchemy or Django wrapped."""
    found = _psycopg_error(error)
    return found.sqlstate if found is not None else None


def _is_lost(error: BaseException) -> bool:
    return isinstance(_psycopg_error(error), psycopg.OperationalError | psycopg.InterfaceError)


def _psycopg_error(error: BaseException | None) -> psycopg.Error | None:
    for found in (error, getattr(error, "orig", None), getattr(error, "__cause__", None)):
        if isinstance(found, psycopg.Error):
            return found
    return None


def connection_parameters(dsn: str, application: str) -> dict[str, Any]:
    """What a DSN does not say itself: who we are, and when a connection counts as lost. Raises OperatorError."""
    wanted = {
        "application_name": application,
        "connect_timeout": _CONNECT_TIMEOUT,
        "tcp_user_timeout": 30_000,
        "keepalives_idle": 30,
    }
    said = parse_dsn(dsn)
    return {name: value for name, value in wanted.items() if name not in said}


def at_rest(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether it is outside of any transaction, as far as we know."""
    return not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE


def dead(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether an idle connection has something to say: by a look at its socket, no query. A server that stops says so, and
    one that is promoted; either way the connection is of no more use."""
    pgconn = connection.pgconn
    if pgconn.status != ConnStatus.OK:
        return True
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The servers named by PRIMARY_DSN, REPLICA1_DSN, REPLICA2_DSN ...: what `walcast cluster env` prints.

    Raises ConfigError without PRIMARY_DSN.
    """
    if not environment.get("PRIMARY_DSN"):
        raise ConfigError(
            "PRIMARY_DSN is not set", hint='eval "$(walcast cluster env)", or name the servers yourself'
        )
    found = {"primary": environment["PRIMARY_DSN"]}
    number = 1
    while environment.get(f"REPLICA{number}_DSN"):
        found[f"replica{number}"] = environment[f"REPLICA{number}_DSN"]
        number += 1
    return found


def _named(nodes: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    if nodes is None:
        return from_environment()
    if isinstance(nodes, str):
        nodes = [nodes]
    named = dict(nodes) if isinstance(nodes, Mapping) else {f"node{n}": dsn for n, dsn in enumerate(nodes, 1)}
    for name, dsn in named.items():
        if "," in str(parse_dsn(dsn).get("host", "")):
            raise ConfigError(
                f"router: the DSN of {name} names several hosts",
                hint="a DSN for each server: the router finds out who is the primary",
            )
    if not named:
        raise ConfigError("a router needs a server at least", hint="Router([primary, replica, ...])")
    return named
