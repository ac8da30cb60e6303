"""A person in a fresh folder, and a database for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.person import Person

from walcast.testing import PostgresServer
from walcast.testing.postgres import Database


@pytest.fixture
def person(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody in an empty folder, with nothing of the tester's own environment."""
    somebody = Person.at(tmp_path / "w", tmp_path_factory.getbasetemp().parent / "compiled")
    yield somebody
    somebody.leave()


@pytest.fixture
def shop(database: Database, person: Person) -> Database:
    """A database with two tables; the person's secrets know its password."""
    person.secrets.append(database.server.password)
    database.execute(
        "create schema shop;"
        "create table shop.fruit (id bigint generated always as identity primary key, name text not null);"
        "create table shop.crates (id int primary key, fruit bigint);"
        "insert into shop.fruit (name) select 'fruit ' || n from generate_series(1, 100) n"
    )
    return database


@pytest.fixture
def secret_dsn(shop: Database) -> str:
    """How to reach it over TCP, with the password that must not be seen."""
    return shop.dsn(via="tcp")


@pytest.fixture
def server(postgres_server: PostgresServer, person: Person) -> PostgresServer:
    """The session's server; the person's secrets know its password."""
    person.secrets.append(postgres_server.password)
    return postgres_server
