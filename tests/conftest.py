"""Fixtures of this suite; those that ship are in walcast.testing.plugin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from walcast.testing.postgres import Database, PostgresServer

VERSIONS = (13, 14, 15, 16, 17, 18)


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
