"""PostgreSQL, the only place that is written to. A request reads in one transaction and writes in another; what it wrote
gives it a token, which the browser brings back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from typing import Final

from flask import Flask, current_app, g
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from walcast import Router
from walcast.integrations.sqlalchemy import engine_router
from walcast.model import NodeUnavailable

_opening: Final = Lock()
_PATIENCE: Final = 2.0
"""Seconds that a page waits for a PostgreSQL that is away."""


def plain_uri(uri: str) -> str:
    """The URI as libpq has it: SQLAlchemy's may name a driver."""
    scheme, colon, rest = uri.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}" if colon else uri


def make_router(uri: str) -> Router[Connection]:
    return engine_router([plain_uri(uri)], timeout=_PATIENCE)


def router() -> Router[Connection]:
    """Raises NodeUnavailable when PostgreSQL cannot be reached."""
    found: Router[Connection] = current_app.extensions["social.router"]
    with _opening:
        if not current_app.extensions["social.router.open"]:
            found.open()
            current_app.extensions["social.router.open"] = True
    return found


def reading() -> Session:
    """The request's own session to read with; it ends with the request."""
    if "reading" not in g:
        g.reading_ends = ExitStack()
        lease = g.reading_ends.enter_context(router().read())
        g.reading = g.reading_ends.enter_context(Session(lease.connection))
    session: Session = g.reading
    return session


@contextmanager
def writing() -> Iterator[Session]:
    """One transaction. What was read before it in this request is forgotten, so that what follows sees the write."""
    end_reading()
    with router().write() as lease, Session(lease.connection, expire_on_commit=False) as session:
        yield session
        session.flush()


def end_reading(_: BaseException | None = None) -> None:
    ends: ExitStack | None = g.pop("reading_ends", None)
    g.pop("reading", None)
    if ends is not None:
        ends.close()


def install(app: Flask, made: Router[Connection]) -> None:
    """PostgreSQL need not be there yet: it is asked for again by each request."""
    app.extensions["social.router"] = made
    app.extensions["social.router.open"] = False
    app.teardown_request(end_reading)
    with suppress(NodeUnavailable), app.app_context():
        router()
