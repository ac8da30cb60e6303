"""Fixtures of this suite; those that ship are in walcast.testing.plugin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from walcast.testing.postgres import Database, PostgresServer

VERSIONS = (13, 14, 15, 16, 17, 18)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-xdist 3.8 writes a test's group where pytest 9.2 no longer reads it: tests of one group ran beside each other."""
    for item in items:
        grouped = vars(item).get("_nodeid")
        if grouped is not None and grouped != item.nodeid and hasattr(item, "_id"):
            item._id = type(item.id).parse(grouped)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What a test, or a framework that it loads, sets for the process is not the next one's."""
    loggers = [logging.getLogger(name) for name in (None, "walcast", "walcast.engine")]
    before = [(logger.level, logger.propagate, logger.disabled, list(logger.handlers)) for logger in loggers]
    yield
    logging.disable(logging.NOTSET)
    for logger, (level, propagate, disabled, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.disabled, logger.handlers[:] = propagate, disabled, handlers


@pytest.fixture(params=VERSIONS, ids=lambda version: f"pg{version}")
def any_postgres(
    request: pytest.FixtureRequest, shared_postgres: Callable[[int], PostgresServer]
) -> PostgresServer:
    """Each supported major version in turn; one server a version and session, started on first use."""
    return shared_postgres(request.param)


@pytest.fixture
def any_database(
    any_postgres: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Database:
    """A fresh database on each supported major version in turn."""
    return make_database(any_postgres)
