"""The connection to Neo4j: its transaction, its bookkeeping, and its errors in our terms. Runs in one thread."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

import neo4j
from neo4j import exceptions

from walcast.model import OperatorError, SinkUnavailable, WalcastError
from walcast.sinks.inplace.values import quoted
from walcast.sinks.neo4j.config import Neo4jConfig

Entity = Literal["NODE", "RELATIONSHIP"]
_OLDEST: Final = (5, 7)
"""The first with unique properties of relationships."""
_VERSION: Final = re.compile(r"Neo4j/(\d+)\.(\d+)")
_SCHEMA_TIMEOUT: Final = 600.0
"""Seconds for which making a constraint may look through what is there."""
_UNIQUE: Final = """show constraints yield entityType, labelsOrTypes, properties, type
where type ends with 'UNIQUENESS' return entityType, labelsOrTypes[0], properties"""
_INDEXED: Final = """show indexes yield entityType, labelsOrTypes, properties
where size(labelsOrTypes) = 1 return entityType, labelsOrTypes[0], properties"""


class Database:
    """An open connection. What was run since `begin` is there after `commit`, or not at all.

    The bookkeeping is nodes `(:_Walcast {id, value})`, values as JSON.
    """

    def __init__(self, config: Neo4jConfig) -> None:
        self._config = config
        self._transaction: neo4j.Transaction | None = None
        self._rows = 0
        with translated(config.uri):
            self._driver = driver_of(config)
            self._session = self._opened()
            try:
                check_version(self._session.run("return 1").consume().server.agent)
                self._unique = self._schema(_UNIQUE)
                self._indexed = self._schema(_INDEXED)
                self.unique("NODE", "_Walcast", "id")
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        self.rollback()
        with suppress(neo4j.exceptions.DriverError, neo4j.exceptions.Neo4jError, OSError):
            self._session.close()
        self._driver.close()

    @property
    def full(self) -> bool:
        return self._rows >= self._config.commit_rows

    def begin(self) -> None:
        if self._transaction is None:
            with translated(self._config.uri):
                self._transaction = self._session.begin_transaction()
            self._rows = 0

    def commit(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            with translated(self._config.uri):
                transaction.commit()
            self._rows = 0

    def rollback(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            with suppress(exceptions.DriverError, exceptions.Neo4jError, OSError):
                transaction.close()

    def run(self, query: str, **parameters: Any) -> list[list[Any]]:
        with translated(self._config.uri):
            runner = self._transaction or self._session
            result = runner.run(query, parameters)
            return [list(record.values()) for record in result]

    def read(self, query: str, parameters: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
        """On a session of its own that may only read."""
        name, mode = self._config.database or None, neo4j.READ_ACCESS
        with (
            translated(self._config.uri),
            self._driver.session(database=name, default_access_mode=mode) as session,
        ):
            result = session.run(query, parameters)
            return list(result.keys()), [list(record.values()) for record in result]

    def rows(self, query: str, rows: list[Any], **parameters: Any) -> list[list[Any]]:
        """`run` with `$rows`, counted for `full`."""
        self._rows += len(rows)
        return self.run(query, rows=rows, **parameters)

    def columns(self, query: str, k: Sequence[str], **columns: Any) -> list[list[Any]]:
        """`run` with a list for each column, of which `$k` has the keys, counted for `full`."""
        self._rows += len(k)
        return self.run(query, k=k, **columns)

    def unique(self, entity: Entity, name: str, key: str) -> None:
        """A uniqueness constraint, which is an index as well."""
        if (entity, name, key) not in self._unique:
            self._make(
                f"create constraint if not exists for {_pattern(entity, name)} require x.{quoted(key)} is unique"
            )
            self._unique.add((entity, name, key))

    def index(self, entity: Entity, name: str, key: str) -> None:
        if (entity, name, key) not in self._indexed:
            self._make(f"create index if not exists for {_pattern(entity, name)} on (x.{quoted(key)})")
            self._indexed.add((entity, name, key))

    def get(self, name: str) -> Any:
        rows = self.run("match (m:_Walcast {id: $name}) return m.value", name=name)
        return json.loads(rows[0][0]) if rows and rows[0][0] is not None else None

    def put(self, name: str, value: Any) -> None:
        if value is None:
            self.run("match (m:_Walcast {id: $name}) delete m", name=name)
        else:
            self.run(_PUT, name=name, value=json.dumps(value))

    def lock(self, name: str) -> None:
        """Until the transaction ends nobody else writes this value."""
        self.run("merge (m:_Walcast {id: $name}) set m.turns = coalesce(m.turns, 0) + 1", name=name)

    def save(self, name: str, value: Any) -> None:
        """Durable when it returns, whatever becomes of the open transaction."""
        if self._transaction is None:
            self.put(name, value)
            return
        with translated(self._config.uri), self._opened() as session:
            if value is None:
                session.run("match (m:_Walcast {id: $name}) delete m", name=name).consume()
            else:
                session.run(_PUT, name=name, value=json.dumps(value)).consume()

    def named(self, prefix: str) -> dict[str, Any]:
        rows = self.run(
            "match (m:_Walcast) where m.id starts with $prefix return m.id, m.value", prefix=prefix
        )
        return {name.removeprefix(prefix): json.loads(value) for name, value in rows}

    def _make(self, statement: str) -> None:
        """Schema and data do not go into one transaction: this is one of its own."""
        with translated(self._config.uri), self._opened() as session:
            query = neo4j.Query(statement, timeout=_SCHEMA_TIMEOUT)
            session.run(query).consume()

    def _schema(self, query: str) -> set[tuple[Entity, str, str]]:
        return {(entity, name, keys[0]) for entity, name, keys in self.run(query) if keys and len(keys) == 1}

    def _opened(self) -> neo4j.Session:
        return self._driver.session(database=self._config.database or None)


_PUT: Final = "merge (m:_Walcast {id: $name}) set m.value = $value"


def driver_of(config: Neo4jConfig) -> neo4j.Driver:
    return neo4j.GraphDatabase.driver(
        config.uri,
        auth=(config.user, config.password.reveal()) if config.user else None,
        user_agent="walcast",
        connection_timeout=config.connect_timeout,
        connection_acquisition_timeout=config.connect_timeout + 5,
        telemetry_disabled=True,
        notifications_min_severity="OFF",
    )


def check_version(agent: str) -> None:
    """Raises OperatorError for a server that is too old, or no Neo4j."""
    found = _VERSION.match(agent)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        raise OperatorError(
            f"the server is {agent}; the copy needs Neo4j {_OLDEST[0]}.{_OLDEST[1]} or later",
            hint="upgrade the server",
        )


def _pattern(entity: Entity, name: str) -> str:
    return f"(x:{quoted(name)})" if entity == "NODE" else f"()-[x:{quoted(name)}]-()"


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turns the driver's errors into ours. What the server says of data is left out: it quotes it."""
    try:
        yield
    except exceptions.Neo4jError as error:
        raise _of_server(error, uri) from error
    except (exceptions.ServiceUnavailable, exceptions.SessionExpired) as error:
        # After a commit whose answer was lost, too: the position is read again when the sink is opened.
        raise SinkUnavailable(
            f"{uri} cannot be reached, or went away", hint="is the server running?"
        ) from error
    except (exceptions.ConfigurationError, exceptions.AuthConfigurationError, ValueError) as error:
        raise OperatorError(
            f"{uri} cannot be connected to as configured: {error}", hint="see uri, user and password"
        ) from error
    except exceptions.DriverError as error:
        raise SinkUnavailable(f"{uri}: {type(error).__name__}", hint="see the server's log") from error
    except OSError as error:
        raise SinkUnavailable(f"{uri} cannot be reached: {error.strerror or error}") from error


def _of_server(error: exceptions.Neo4jError, uri: str) -> WalcastError:
    code = error.code or ""
    if isinstance(error, exceptions.AuthError) or "Security" in code:
        return OperatorError(
            f"{uri} refuses the user: {code.rpartition('.')[2]}",
            hint="see user and password; it needs to read, write and make constraints",
        )
    if "ReadOnly" in code:
        return OperatorError(
            f"{uri} is read-only", hint="see server.databases.read_only, or name the server that writes"
        )
    if code.endswith("OutOfMemoryError"):
        return OperatorError(
            f"{uri}: the transaction needs more memory than it may have",
            hint="raise server.memory.heap.max_size and dbms.memory.transaction.total.max, or lower commit_rows",
        )
    if error.is_retryable():
        return SinkUnavailable(f"{uri} asks to try again: {code}", hint="nothing; it is tried again")
    if ".Schema." in code:
        return OperatorError(
            f"{uri} refuses the constraint on _key: {code.rpartition('.')[2]}",
            hint="labels and types are the sink's own: see what else has them, or rename the target",
        )
    if code.endswith("DatabaseNotFound"):
        return OperatorError(f"{uri} has no such database", hint="see the setting database")
    return OperatorError(f"{uri} says {code}", hint="see the server's log; is its disk full?")
