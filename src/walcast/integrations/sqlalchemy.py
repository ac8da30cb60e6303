"""The router over SQLAlchemy engines: one engine a server, with SQLAlchemy's own pool. And what models say they become.

with engine_router([primary, replica]) as router:
    with router.write() as write:
        write.connection.execute(insert(orders).values(...))
    with router.read(fresh=write.token) as read, Session(read.connection) as session:
        session.scalars(select(Order))

mapping = mapping_of(Base)  # of every class with __walcast__: see walcast.mapping.declaring
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import psycopg
from sqlalchemy import Connection, Table, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import ColumnProperty, DeclarativeBase, Mapper, RelationshipProperty
from sqlalchemy.pool import ConnectionPoolEntry

from walcast.cluster.routing.base import RouterBase, RouterSettings, connection_parameters
from walcast.cluster.routing.fleet import Node
from walcast.cluster.routing.router import Router
from walcast.mapping import DataMapping, Declaration, Link, Through, declared_by, declaring, near_name
from walcast.model import ConfigError
from walcast.postgres.standing import look

_LIFE: Final = "walcast_life"
_POOL_TIMEOUT: Final = 5.0


def engine_router(
    nodes: Sequence[str] | Mapping[str, str] | None = None,
    settings: RouterSettings | None = None,
    *,
    engine_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Router[Connection]:
    """A `walcast.Router` whose leases are SQLAlchemy Connections, each inside a transaction that the router ends.

    `engine_options` go to create_engine. An ORM Session bound to the connection joins its transaction.
    """
    chosen = dict(engine_options or {})
    return Router(nodes, settings, pool=lambda router, node: EnginePool(router, node, chosen), **options)


class EnginePool:
    """`walcast.cluster.routing.router.Pool` over an engine."""

    def __init__(self, router: RouterBase, node: Node, options: Mapping[str, Any]) -> None:
        self._fleet, self._node = router.fleet, node
        parameters = connection_parameters(node.dsn, router.settings.application)
        defaults = {
            "pool_size": router.settings.max_size,
            "max_overflow": 0,
            "pool_timeout": _POOL_TIMEOUT,
        }
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(node.dsn, **parameters),
            **(defaults | dict(options)),
        )
        event.listen(self._engine, "connect", self._joined, insert=True)

    def open(self) -> None:
        """Connections are made when they are first needed."""

    def close(self) -> None:
        self._engine.dispose()

    def take(self, timeout: float) -> tuple[Connection, int]:
        try:
            connection = self._engine.connect()
        except PoolTimeout as error:
            raise psycopg.OperationalError(str(error)) from None
        except DBAPIError as error:
            raise psycopg.OperationalError(str(error.orig)) from None
        return connection, cast("int", connection.info.get(_LIFE, -1))

    def give(self, connection: Connection, *, broken: bool = False) -> None:
        if broken and not connection.closed:
            connection.invalidate()
        connection.close()

    def raw(self, connection: Connection) -> psycopg.Connection[Any]:
        return cast("psycopg.Connection[Any]", connection.connection.driver_connection)

    def begin(self, connection: Connection, *, read_only: bool) -> None:
        connection.execution_options(postgresql_readonly=read_only)
        connection.begin()

    def end(self, connection: Connection, *, commit: bool) -> None:
        transaction = connection.get_transaction()
        if transaction is not None:
            transaction.commit() if commit else transaction.rollback()

    def _joined(self, connection: psycopg.Connection[Any], entry: ConnectionPoolEntry) -> None:
        joined = self._fleet.join(self._node, connection.info.server_version)
        asked = time.monotonic()
        entry.info[_LIFE] = self._fleet.note(self._node, look(connection), asked, joined=joined)


def mapping_of(base: type[DeclarativeBase]) -> DataMapping:
    """What the classes of a declarative base say that they become, with `__walcast__` or a decorator. Raises ConfigError
    naming the class."""
    mappers = sorted(base.registry.mappers, key=lambda mapper: mapper.class_.__qualname__)
    return declaring.mapping_of(MappedClass(mapper) for mapper in mappers)


@dataclass(frozen=True, slots=True)
class MappedClass:
    """`walcast.mapping.declaring.Model` of a mapped class."""

    mapper: Mapper[Any]

    @property
    def name(self) -> str:
        return self.mapper.class_.__name__

    @property
    def table(self) -> str:
        return _table(self.mapper.local_table)

    @property
    def key(self) -> list[str]:
        return [column.name for column in self.mapper.primary_key]

    @property
    def declared(self) -> tuple[Declaration, ...]:
        return declared_by(self.mapper.class_)

    def column(self, attribute: str) -> str:
        found = self.mapper.attrs.get(attribute)
        if isinstance(found, ColumnProperty):
            return str(found.columns[0].name)
        raise self._missing("attribute", attribute, self.mapper.column_attrs.keys())

    def link(self, relation: str) -> Link:
        found = self.mapper.attrs.get(relation)
        if not isinstance(found, RelationshipProperty):
            raise self._missing("relationship", relation, self.mapper.relationships.keys())
        there, many = MappedClass(found.mapper), bool(found.uselist)
        if found.secondary is None:
            pairs = found.local_remote_pairs or ()
            return Link(there, many, {theirs.name: str(ours.name) for ours, theirs in pairs})
        ours = {join.name: str(column.name) for column, join in found.synchronize_pairs}
        theirs = {join.name: str(column.name) for column, join in found.secondary_synchronize_pairs or ()}
        return Link(there, many, {}, Through(_table(found.secondary), ours, theirs))

    def _missing(self, what: str, name: str, known: Sequence[str]) -> ConfigError:
        return ConfigError(f"{self.name} has no {what} {name!r}", hint=near_name(name, known))


def _table(table: Any) -> str:
    if not isinstance(table, Table):
        raise ConfigError(
            f"{table} is no table", hint="only classes that are mapped to a table can become something"
        )
    return f"{table.schema or 'public'}.{table.name}"
