"""Connections to the nodes of a cluster, opened when they are needed and kept; superuser, and never waiting for replicas.

A node may stop, freeze or change its role at any moment: a lost connection is opened again, an answer that does not come
counts as one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from walcast.model.secret import Secret
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.control import Control, Row
from walcast.postgres.faults import explain

_PATIENCE: Final = 5.0
"""Seconds after which a node that does not answer counts as not answering."""
APPLICATION: Final = application_name("cluster")


class Sessions:
    """One connection a node for questions, and others for longer work. `dsn` gives a node's connection string."""

    def __init__(self, dsn: Callable[[str], Secret]) -> None:
        self._dsn = dsn
        self._controls: dict[str, Control] = {}

    def control(self, node: str) -> Control:
        if node not in self._controls:
            self._controls[node] = Control(self._dsn(node), APPLICATION, _PATIENCE)
        return self._controls[node]

    async def rows(
        self, node: str, query: LiteralString | sql.Composed, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Row]:
        """The rows of a statement that may take its time. Raises OperatorError, SourceUnavailable."""
        async with self.session(node) as connection:
            cursor = await connection.execute(query, params or None)
            return await cursor.fetchall() if cursor.description else []

    async def row(
        self, node: str, query: LiteralString | sql.Composed, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> Row | None:
        """The first row of a question that is answered at once; the connection is kept."""
        return await self.control(node).row(query, params)

    @contextlib.asynccontextmanager
    async def session(self, node: str) -> AsyncIterator[Connection]:
        """A connection of one's own. What goes wrong on it is raised as OperatorError or SourceUnavailable."""
        async with await connect(self._dsn(node), application=APPLICATION) as connection:
            try:
                await connection.execute("set synchronous_commit = local")
                yield connection
            except psycopg.Error as error:
                raise explain(error, f"working on {node}") from None

    async def forget(self, node: str) -> None:
        """Closes what is open to a node."""
        control = self._controls.pop(node, None)
        if control is not None:
            await control.close()

    async def close(self) -> None:
        for node in list(self._controls):
            await self.forget(node)
