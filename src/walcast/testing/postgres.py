"""PostgreSQL servers for tests, and databases of one test each."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from walcast.postgres.local import LocalServer as PostgresServer

__all__ = ["Database", "PostgresFactory", "PostgresServer"]


@dataclass(frozen=True, slots=True)
class Database:
    """A fresh database on a server."""

    server: PostgresServer
    name: str

    @classmethod
    def create(cls, server: PostgresServer) -> Database:
        name = f"t_{secrets.token_hex(4)}"
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return cls(server, name)

    def dsn(self, **parameters: Any) -> str:
        """As `PostgresServer.dsn`, to this database."""
        return self.server.dsn(self.name, **parameters)

    def execute(
        self, statement: LiteralString | sql.Composed, params: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        """Runs a statement (several when there are no parameters) as superuser; the rows of the last one."""
        return self.server.execute(statement, params, database=self.name)

    def connect(self) -> psycopg.Connection[Any]:
        """A blocking superuser connection in autocommit."""
        return self.server.connect(self.name)

    def drop(self) -> None:
        """Ends its connections and drops its slots, subscriptions and itself."""
        with self.server.connect() as connection:
            connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s"
                if self.server.version >= 14
                else "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                [self.name],
            )
            slots = connection.execute(
                "select slot_name from pg_replication_slots where database = %s", [self.name]
            ).fetchall()
        for (slot,) in slots:
            self._drop_slot(slot)
        self.server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name)))

    def _drop_slot(self, slot: str) -> None:
        for _ in range(50):
            try:
                self.server.execute(  # whoever has it now: a reader that was ended before may be back
                    "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s",
                    [slot],
                )
                self.server.execute(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
                    [slot],
                )
                return
            except psycopg.errors.ObjectInUse:
                self.server.execute("select pg_sleep(0.05)")
        raise RuntimeError(f"slot {slot} of a test's database stays in use")


class PostgresFactory:
    """Starts servers as asked and closes them all at the end. Equal requests share one server when `shared`."""

    def __init__(self) -> None:
        self._shared: dict[tuple[object, ...], PostgresServer] = {}
        self._own: list[PostgresServer] = []

    def __call__(
        self,
        version: int = 18,
        *,
        shared: bool = False,
        settings: Mapping[str, object] | None = None,
        hba: Sequence[str] = (),
        tls: bool = False,
        durable: bool = False,
    ) -> PostgresServer:
        """A started server. Raises ServerMissing, StartFailed."""
        kind = (version, tuple(sorted((settings or {}).items())), tuple(hba), tls, durable)
        if shared and kind in self._shared:
            return self._shared[kind].start()
        server = PostgresServer(version, settings=settings, hba=hba, tls=tls, durable=durable)
        self._own.append(server)
        server.start()
        if shared:
            self._shared[kind] = server
        return server

    def close(self) -> None:
        for server in reversed(self._own):
            server.close()
        self._own.clear()
        self._shared.clear()
