"""Servers that are already there: looked at, and changed only where that was allowed.

Nodes go by the name that they give themselves at their primary (application_name), or by cluster_name, or by where they are.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from walcast.cluster import facts
from walcast.cluster.directory import ATTACHED, NoCluster, write_whole
from walcast.cluster.observed import Facts, Node, Observed
from walcast.cluster.profiles import Profile
from walcast.cluster.session import Sessions
from walcast.model import ConfigError, OperatorError, WalcastError
from walcast.model.secret import Secret
from walcast.postgres.connect import Connection, describe


class AttachedCluster:
    """Servers by their connection strings, kept (0600) in a folder. Use as an async context manager."""

    def __init__(self, folder: Path, dsns: Sequence[str], *, allowed: bool) -> None:
        self.folder, self.dsns, self.allowed = folder, tuple(dsns), allowed
        self._sessions = Sessions(lambda number: Secret(self.dsns[int(number)]))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises NoCluster, ConfigError."""
        try:
            value: Mapping[str, Any] = json.loads((folder / ATTACHED).read_text())
            return cls(folder, value["dsns"], allowed=value["allowed"])
        except FileNotFoundError:
            raise NoCluster(
                f"nothing is attached in {folder}", hint="walcast cluster attach DSN..."
            ) from None
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{folder / ATTACHED} cannot be read",
                hint="attach the servers again: walcast cluster attach DSN...",
            ) from None

    async def attach(self) -> Observed:
        """Looks at the servers and remembers them. Raises OperatorError when one cannot be asked, they are not of one system, or
        the folder holds a cluster."""
        if (self.folder / "cluster.json").exists():
            raise OperatorError(f"there is a cluster in {self.folder}", hint="choose another folder: --dir")
        observed = await self.observe()
        for node in observed.nodes:
            if node.facts is None:
                raise OperatorError(f"{node.address}: {node.trouble}", hint="check the connection string")
        systems = {node.facts.system_id: node for node in observed.nodes if node.facts}
        if len(systems) > 1:
            one, other = list(systems.values())[:2]
            raise OperatorError(
                f"{one.address} and {other.address} are of two systems: neither is a replica of the other",
                hint="attach the servers of one cluster",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        value = {"dsns": self.dsns, "allowed": self.allowed}
        write_whole(self.folder / ATTACHED, json.dumps(value) + "\n", 0o600)
        return observed

    def detach(self) -> None:
        """Forgets the servers."""
        (self.folder / ATTACHED).unlink(missing_ok=True)

    async def observe(self) -> Observed:
        """As of this moment; a server that cannot be asked is in it with its trouble."""
        nodes = await asyncio.gather(*(self._observe(number) for number in range(len(self.dsns))))
        return Observed(_named_apart(nodes))

    async def set_profile(self, profile: Profile) -> None:
        """By ALTER SYSTEM and a reload at the primary, for the replicas that are connected. Raises OperatorError."""
        self._check_allowed()
        observed = await self.observe()
        primary = observed.primary
        if primary is None or primary.facts is None:
            raise OperatorError("none of the attached servers is a primary", hint="attach it, too")
        replicas = list(dict.fromkeys(stream.name for stream in primary.facts.streams))
        profile.check(replicas)
        number = str(observed.nodes.index(primary))
        async with self._sessions.session(number) as connection:
            for name, value in profile.settings(replicas).items():
                statement = sql.SQL("alter system set {} = {}").format(
                    sql.Identifier(name), sql.Literal(value)
                )
                await connection.execute(statement)
            await connection.execute("select pg_reload_conf()")

    async def replay(self, name: str, *, paused: bool) -> None:
        """Pauses or resumes replay at a replica. Raises OperatorError."""
        self._check_allowed()
        number = await self._number(name)
        query = "select pg_wal_replay_pause()" if paused else "select pg_wal_replay_resume()"
        await self._sessions.rows(str(number), query)

    async def dsn(self, name: str) -> str:
        """The connection string of a node by its name or part. Raises ConfigError."""
        return self.dsns[await self._number(name)]

    async def _number(self, name: str) -> int:
        observed = await self.observe()
        found = {node.name: number for number, node in enumerate(observed.nodes)}
        for part, number in parts(observed).items():
            found.setdefault(part, number)
        if name not in found:
            raise ConfigError(f"there is no node {name!r}", hint=f"there are {', '.join(found)}")
        return found[name]

    def _check_allowed(self) -> None:
        if not self.allowed:
            raise OperatorError(
                "these servers are attached for looking only",
                hint="walcast cluster attach --allow-changes DSN...",
            )

    async def _observe(self, number: int) -> Node:
        given = conninfo_to_dict(self.dsns[number])
        place = {name: str(given[name]) for name in ("host", "hostaddr", "port") if given.get(name)}
        where = describe(make_conninfo(**place)).removesuffix("/")
        port = int(given.get("port") or os.environ.get("PGPORT") or 5432)
        node = Node(where, port, "unreachable", address=where)

        async def ask(connection: Connection) -> Facts:
            row = await (await connection.execute(facts.QUERY, {"settings": list(facts.SETTINGS)})).fetchone()
            assert row is not None
            return facts.read(row[0])

        try:
            said = await self._sessions.control(str(number)).ask(ask, f"asking {where}")
        except WalcastError as error:
            return replace(node, trouble=error.message)
        own = said.receiver.application if said.receiver is not None else ""
        return replace(node, name=own if own != "walreceiver" else "", life="up", facts=said)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._sessions.close()


def parts(observed: Observed) -> dict[str, int]:
    """`primary`, `replica1`, ... with the number of the node, in the order in which they were attached."""
    found: dict[str, int] = {}
    for number, node in enumerate(observed.nodes):
        if node is observed.primary:
            found["primary"] = number
        elif node.facts is not None and node.facts.in_recovery:
            found[f"replica{sum(part.startswith('replica') for part in found) + 1}"] = number
    return found


def _named_apart(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """By the name that a node gives itself; else by its cluster_name, unless it shares that; else by where it is."""
    shared = [node.facts.settings.get("cluster_name") for node in nodes if node.facts is not None]
    named = []
    for node in nodes:
        cluster = node.facts.settings.get("cluster_name") if node.facts is not None else None
        alone = cluster if cluster and shared.count(cluster) == 1 else ""
        named.append(replace(node, name=node.name or alone or node.address))
    names = [node.name for node in named]
    return tuple(replace(node, name=node.address) if names.count(node.name) > 1 else node for node in named)
