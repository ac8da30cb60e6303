"""A cluster of this machine: observe, plan, apply, until there is nothing left to do.

cluster = LocalCluster.open(folder)
async with cluster:
    observed = await cluster.observe()
    await cluster.change(lambda desired: ...)      # writes what is wanted, then converges
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from psycopg.conninfo import make_conninfo

from walcast.cluster import facts
from walcast.cluster.apply import TORN, Applier
from walcast.cluster.conf import HOST
from walcast.cluster.desired import Desired, settled
from walcast.cluster.directory import Directory
from walcast.cluster.links import observe_links, set_link
from walcast.cluster.observed import Facts, Files, Node, Observed
from walcast.cluster.planning import plan
from walcast.cluster.session import Sessions
from walcast.cluster.steps import Plan, Rewind, SetLink, Step
from walcast.model import WalcastError
from walcast.model.secret import Secret
from walcast.model.token import TimelineHistory
from walcast.postgres.connect import Connection
from walcast.postgres.local.binaries import Binaries, at
from walcast.postgres.local.controlfile import ControlData, read_control
from walcast.postgres.local.instance import Instance
from walcast.postgres.local.task import TaskFailed

OnStep = Callable[[Step, bool], None]
"""Called before (False) and after (True) each step."""

_ROUNDS: Final = 4
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
_MARK: Final = "walcast.configuration = '"


class LocalCluster:
    """A cluster in a folder. Use as an async context manager: it keeps connections."""

    def __init__(self, directory: Directory, desired: Desired) -> None:
        self.directory = directory
        self.desired = desired
        self.binaries: Binaries = at(Path(desired.bindir))
        self.sessions = Sessions(lambda name: Secret(self.dsn(name, role="postgres", database="postgres")))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises NoCluster, ConfigError, ServerMissing."""
        directory = Directory(folder)
        return cls(directory, directory.read())

    @classmethod
    def create(cls, folder: Path, desired: Desired) -> Self:
        """Claims the folder and writes what is wanted; nothing runs yet. Raises OperatorError, ConfigError."""
        directory = Directory(folder)
        desired.profile.check([node.name for node in desired.replicas])
        directory.check()
        with directory.locked():
            directory.make(desired)
        return cls(directory, desired)

    def instance(self, name: str) -> Instance:
        """The server of a node."""
        self.desired.node(name)
        return Instance(self.binaries, self.directory.node(name))

    def dsn(self, name: str, *, role: str = "app", database: str = "app", via_file: bool = False) -> str:
        """A connection string to a node. `via_file` names a password file instead of the password."""
        place: dict[str, Any] = {
            "host": HOST,
            "port": self.desired.node(name).port,
            "user": role,
            "dbname": database,
        }
        if via_file:
            place["passfile"] = str(self.directory.passfile)
        else:
            place["password"] = self.directory.password(role).reveal()
        if self.desired.tls:
            place |= {"sslmode": "verify-full", "sslrootcert": str(self.directory.root / "tls" / "root.crt")}
        if role == "postgres":
            place["connect_timeout"] = 10
        return make_conninfo(**place)

    # --- observe

    async def observe(self) -> Observed:
        """Looks at every node at once. Never raises for a node that cannot be asked: its `trouble` says why."""
        nodes = await asyncio.gather(*(self._observe(node.name) for node in self.desired.nodes))
        observed = Observed(
            tuple(nodes),
            observe_links(self.directory.root / "links"),
            can_rewind=self.binaries.has("pg_rewind"),
        )
        return replace(observed, history=self._history(observed))

    async def _observe(self, name: str) -> Node:
        spec, instance = self.desired.node(name), self.instance(name)
        life, pid = instance.life, instance.pid
        node = Node(name, spec.port, life, pid=pid, address=f"{HOST}:{spec.port}")
        try:
            node = replace(node, files=_files(instance))
            if life == "up":
                node = replace(node, facts=await self._facts(name))
            elif (
                life == "down"
                and node.files is not None
                and node.files.control is not None
                and not node.files.control.clean
            ):
                node = replace(node, trouble=instance.last_words())
        except WalcastError as error:
            node = replace(node, trouble=error.message)
        return node

    async def _facts(self, name: str) -> Facts:
        async def ask(connection: Connection) -> Facts:
            row = await (await connection.execute(facts.QUERY, {"settings": list(facts.SETTINGS)})).fetchone()
            assert row is not None
            return facts.read(row[0])

        return await self.sessions.control(name).ask(ask, f"asking {name}")

    def _history(self, observed: Observed) -> TimelineHistory | None:
        """The ancestry of the wanted primary's timeline, or of the newest there is."""
        wanted = observed.node(self.desired.primary)
        node = wanted if wanted is not None and wanted.writable else observed.primary or wanted
        if node is None or node.timeline is None or node.standby:
            return None
        if node.timeline == 1:
            return TimelineHistory(1)
        path = self.instance(node.name).data / "pg_wal" / facts.history_file(node.timeline)
        try:
            return TimelineHistory.parse(node.timeline, path.read_text())
        except OSError:
            return None

    # --- plan

    async def plan(self, desired: Desired | None = None) -> Plan:
        """What would be done now. Raises PlanRefused."""
        return plan(desired or self.desired, await self.observe(), self.directory.root)

    # --- apply

    async def change(self, change: Callable[[Desired], Desired], on_step: OnStep | None = None) -> Plan:
        """Writes down what is wanted from now on and makes it so; what was blocked is in the plan that is returned.

        The manifest on disk counts, not this object's: another operator may have been at work. Raises ClusterBusy,
        PlanRefused (nothing was changed then), and what a step raises: the same call takes up where it ended.
        """
        with self.directory.locked():
            before = self.directory.read()
            wanted = change(before)
            wanted.profile.check([node.name for node in wanted.replicas])
            self._take(wanted)
            try:
                plan(wanted, await self.observe(), self.directory.root)
            except WalcastError:
                self._take(before)
                raise
            self.directory.write(wanted)
            return await self._converge(on_step)

    async def converge(self, on_step: OnStep | None = None) -> Plan:
        """Makes what is wanted so. As `change`."""
        return await self.change(lambda desired: desired, on_step)

    async def apply(self, steps: tuple[Step, ...], on_step: OnStep | None = None) -> None:
        """Carries out steps as they are, under the lock: what no state of the cluster calls for, such as a crash."""
        with self.directory.locked():
            self._take(self.directory.read())
            await self._apply(steps, on_step)

    async def _converge(self, on_step: OnStep | None) -> Plan:
        for _ in range(_ROUNDS):
            now = plan(self.desired, await self.observe(), self.directory.root)
            if not now:
                break
            try:
                await self._apply(now.steps, on_step)
            except TaskFailed:
                if not any(isinstance(step, Rewind) for step in now.steps):
                    raise
                # the node is marked as torn: the next round copies it anew
            self._identify()
        else:
            now = plan(self.desired, await self.observe(), self.directory.root)
        if not now:
            self._settle(now)
        return now

    async def _apply(self, steps: tuple[Step, ...], on_step: OnStep | None) -> None:
        applier = Applier(self.directory, self.desired, self.binaries, self.sessions)
        for step in steps:
            if on_step is not None:
                on_step(step, False)
            await applier.apply(step)
            if on_step is not None:
                on_step(step, True)

    def end_links(self) -> None:
        """Ends every proxy."""
        folder = self.directory.root / "links"
        for link in observe_links(folder):
            set_link(folder, SetLink(link.node, "direct", link.port, link.target))

    def _identify(self) -> None:
        """The cluster is known by its first server's system identifier from its birth on."""
        control = _control(self.instance(self.desired.primary))
        if self.desired.system_id is None and control is not None:
            self._take(replace(self.desired, system_id=control.system_id))
            self.directory.write(self.desired)

    def _settle(self, now: Plan) -> None:
        blocked = {node.node for node in now.blocked}
        done = settled(self.desired)
        if done != self.desired and not blocked:
            self._take(done)
            self.directory.write(done)

    def _take(self, desired: Desired) -> None:
        self.desired = desired

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.sessions.close()


def _files(instance: Instance) -> Files:
    data = instance.data
    return Files(
        folder=instance.folder.is_dir(),
        data=(data / "PG_VERSION").exists(),
        torn=(instance.folder / TORN).exists(),
        fresh=(data / "backup_label").exists(),
        standby=(data / "standby.signal").exists(),
        control=_control(instance),
        configuration=_written(instance),
        timeline=_newest_timeline(data),
        slots=frozenset(_names(data / "pg_replslot")),
    )


def _newest_timeline(data: Path) -> int | None:
    """The newest timeline that a WAL segment belongs to: its name begins with it."""
    found = [int(name[:8], 16) for name in _names(data / "pg_wal") if _SEGMENT.fullmatch(name)]
    return max(found, default=None)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _control(instance: Instance) -> ControlData | None:
    return read_control(instance.data)


def _written(instance: Instance) -> str:
    """The mark in server.conf; empty when there is none."""
    try:
        text = instance.conf.read_text()
    except OSError:
        return ""
    _, found, rest = text.partition(_MARK)
    return rest.split("'", 1)[0] if found else ""
