"""Carries out steps on a cluster of this machine. Each may have been begun before: it starts from what it finds."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from walcast.cluster import steps as s
from walcast.cluster.conf import REPLICATOR, configuration, upstream
from walcast.cluster.desired import Desired
from walcast.cluster.directory import Directory
from walcast.cluster.links import set_link
from walcast.cluster.session import Sessions
from walcast.model import Lsn, OperatorError, RetryableError
from walcast.postgres.connect import Connection
from walcast.postgres.local.binaries import Binaries, tool
from walcast.postgres.local.cache import give_away
from walcast.postgres.local.controlfile import read_control
from walcast.postgres.local.datadir import run_initdb
from walcast.postgres.local.instance import Instance
from walcast.postgres.local.process import port_is_free
from walcast.postgres.local.server import StartFailed
from walcast.postgres.local.task import run_task
from walcast.postgres.local.tls import make_certificates

TORN: Final = "rewinding"
"""The mark of a rewind that has begun: the data are neither one server's nor the other's."""
_PATIENCE: Final = 30.0
_POLL: Final = 0.01
_TLS_DAYS: Final = 3650
_REWIND_RIGHTS: Final = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)


class NotStreaming(RetryableError):
    """A replica was started and does not follow the primary."""


class PortTaken(OperatorError):
    """Another program has a node's port."""


class Applier:
    """Carries out steps towards `desired` in `directory`."""

    def __init__(
        self, directory: Directory, desired: Desired, binaries: Binaries, sessions: Sessions
    ) -> None:
        self.directory, self.desired, self.binaries, self.sessions = directory, desired, binaries, sessions
        self._how: dict[type[s.Step], Callable[..., Awaitable[None]]] = {
            s.Initialise: self._initialise,
            s.Bootstrap: self._bootstrap,
            s.Configure: self._configure,
            s.Start: self._start,
            s.Stop: self._stop,
            s.Kill: self._kill,
            s.Freeze: self._freeze,
            s.Thaw: self._thaw,
            s.CreateSlot: self._create_slot,
            s.DropSlot: self._drop_slot,
            s.Clone: self._clone,
            s.Rewind: self._rewind,
            s.Remove: self._remove,
            s.Demote: self._demote,
            s.Unfence: self._unfence,
            s.Promote: self._promote,
            s.AwaitStreaming: self._await_streaming,
            s.Replay: self._replay,
            s.SetLink: self._set_link,
        }

    async def apply(self, step: s.Step) -> None:
        """Raises OperatorError when a person has to act, RetryableError when the same may succeed later."""
        await self._how[type(step)](step)

    def instance(self, name: str) -> Instance:
        return Instance(self.binaries, self.directory.node(name))

    # --- servers

    async def _initialise(self, step: s.Initialise) -> None:
        folder = self.directory.make_node(step.node)
        making = folder / "data.new"
        _erase(making)
        password = folder / "initial"
        password.touch(mode=0o600)
        password.write_text(self.directory.password("postgres").reveal())
        give_away(password)
        try:
            await asyncio.to_thread(run_initdb, self.binaries, making, password)
        finally:
            password.unlink()
        if self.desired.tls and not (self.directory.root / "tls" / "server.key").exists():
            await asyncio.to_thread(self._make_certificates)
        making.rename(folder / "data")

    def _make_certificates(self) -> None:
        making, tls = self.directory.root / "tls.new", self.directory.root / "tls"
        _erase(making)
        made = make_certificates(making, days=_TLS_DAYS)
        for path in (made.server_key, made.server_cert):
            give_away(path)
        making.chmod(0o755)
        made.root.chmod(0o644)
        making.rename(tls)

    async def _bootstrap(self, step: s.Bootstrap) -> None:
        """Roles and the database; passwords go over as what the server keeps of them, so no log can hold them."""
        async with self.sessions.session(step.node) as connection:
            for role, options in ((REPLICATOR, "login replication"), ("app", "login")):
                known = await (
                    await connection.execute("select from pg_roles where rolname = %s", [role])
                ).fetchone()
                if known is None:
                    text = sql.SQL("create role {} " + options + " password {}")
                    await connection.execute(
                        text.format(sql.Identifier(role), sql.Literal(self._verifier(connection, role)))
                    )
            for function in _REWIND_RIGHTS:
                await connection.execute(
                    sql.SQL("grant execute on function pg_catalog.{} to {}").format(
                        sql.SQL(function),
                        sql.Identifier(REPLICATOR),
                    )
                )
            if (
                await (await connection.execute("select from pg_database where datname = 'app'")).fetchone()
                is None
            ):
                await connection.execute("create database app owner app")

    def _verifier(self, connection: Connection, role: str) -> str:
        password = self.directory.password(role).reveal().encode()
        return connection.pgconn.encrypt_password(password, role.encode(), b"scram-sha-256").decode()

    async def _configure(self, step: s.Configure) -> None:
        made = configuration(self.desired, self.desired.node(step.node), self.directory.root)
        self.directory.make_node(step.node)
        self.directory.write_configuration(step.node, made)
        instance = self.instance(step.node)
        if instance.life != "up":
            return
        instance.reload()

        async def taken_up() -> bool:
            row = await self.sessions.row(step.node, "select current_setting('walcast.configuration', true)")
            return row is not None and row[0] == made.mark

        await _until(taken_up, f"{step.node} does not take up its configuration: {instance.last_words()}")

    async def _start(self, step: s.Start) -> None:
        instance, port = self.instance(step.node), self.desired.node(step.node).port
        taken = PortTaken(
            f"port {port} of {step.node} is taken by another program",
            hint="stop it, or let the cluster move to free ports: walcast cluster up --new-ports",
        )
        if instance.life == "down" and not port_is_free(port):
            raise taken
        try:
            await asyncio.to_thread(instance.start)
        except StartFailed:
            if instance.life == "down" and not port_is_free(port):  # somebody was quicker
                raise taken from None
            raise

    async def _stop(self, step: s.Stop) -> None:
        if step.ready:
            await self.sessions.rows(step.node, "checkpoint")
        await asyncio.to_thread(self.instance(step.node).stop)

    async def _kill(self, step: s.Kill) -> None:
        await asyncio.to_thread(self.instance(step.node).kill)

    async def _freeze(self, step: s.Freeze) -> None:
        self.instance(step.node).freeze()

    async def _thaw(self, step: s.Thaw) -> None:
        self.instance(step.node).thaw()

    # --- data

    async def _clone(self, step: s.Clone) -> None:
        folder = self.directory.make_node(step.node)
        making, data = folder / "data.new", folder / "data"
        left = [making, *folder.glob("*.gone-*")]  # by one that was killed
        await run_task(["/bin/rm", "-rf", *map(str, left)], folder)
        spec = self.desired.node(step.node)
        source = upstream(self.desired, spec, self.directory.root, application="walcast:clone")
        if self.desired.tls:  # its own libpq may have none
            source = source.replace("sslmode=verify-full", "sslmode=prefer")
        await run_task(
            [
                tool(self.binaries, "pg_basebackup", newer=True),
                *("-D", str(making), "-d", source),
                *("-X", "stream", "-c", "fast", "--no-sync", "--no-password"),
            ],
            folder,
            hint=f"see {self.directory.node(step.source) / 'server.log'}; the same command tries again",
        )
        _signal_file(making)
        _erase(data)
        making.rename(data)
        (folder / TORN).unlink(missing_ok=True)

    async def _rewind(self, step: s.Rewind) -> None:
        folder = self.directory.node(step.node)
        data = folder / "data"
        await self.sessions.rows(
            step.source, "checkpoint"
        )  # pg_rewind reads the timeline from its control file
        (folder / TORN).touch()
        (data / "standby.signal").unlink(
            missing_ok=True
        )  # its crash recovery runs in a single process, which refuses it
        spec = self.desired.node(step.node)
        source = upstream(self.desired, spec, self.directory.root, application="walcast:rewind")
        if self.desired.tls:
            source = source.replace("sslmode=verify-full", "sslmode=prefer")
        await run_task(
            [
                tool(self.binaries, "pg_rewind"),
                *("-D", str(data), "--source-server", f"{source} dbname=postgres"),
                "--no-sync",
            ],
            folder,
            hint=f"the same command copies {step.node} anew",
        )
        _signal_file(data)
        (folder / TORN).unlink()

    async def _remove(self, step: s.Remove) -> None:
        await asyncio.to_thread(self.instance(step.node).kill)
        await asyncio.to_thread(_erase, self.directory.node(step.node))

    async def _demote(self, step: s.Demote) -> None:
        _signal_file(self.instance(step.node).data)

    async def _unfence(self, step: s.Unfence) -> None:
        instance = self.instance(step.node)
        (instance.data / "standby.signal").unlink(missing_ok=True)
        await asyncio.to_thread(instance.start)

    # --- replication

    async def _create_slot(self, step: s.CreateSlot) -> None:
        await self.sessions.rows(
            step.node,
            "select pg_create_physical_replication_slot(%s, true) "
            "where not exists (select from pg_replication_slots where slot_name = %s)",
            [step.slot, step.slot],
        )

    async def _drop_slot(self, step: s.DropSlot) -> None:
        """A slot that is still in use is let go of: its reader was told to stop, or is not wanted."""

        async def dropped() -> bool:
            async with self.sessions.session(step.node) as connection:
                try:
                    await connection.execute(
                        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s "
                        "and active_pid is not null",
                        [step.slot],
                    )
                    await connection.execute(
                        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
                        [step.slot],
                    )
                except psycopg.errors.ObjectInUse:
                    return False
            return True

        await _until(dropped, f"slot {step.slot} on {step.node} stays in use")

    async def _promote(self, step: s.Promote) -> None:
        row = await self.sessions.row(step.node, "select pg_is_in_recovery()")
        if row is not None and row[0]:
            await self.sessions.rows(
                step.node, "select pg_wal_replay_resume() where pg_is_wal_replay_paused()"
            )
            if step.after:
                await self._await_last_word(step)
            await self.sessions.rows(step.node, "select pg_promote(false)")

        async def promoted() -> bool:
            now = await self.sessions.row(step.node, "select not pg_is_in_recovery()")
            return now is not None and bool(now[0])

        await _until(
            promoted, f"{step.node} does not become a primary: {self.instance(step.node).last_words()}"
        )
        # pg_rewind and the control file learn of the new timeline by a checkpoint.
        await self.sessions.rows(step.node, "checkpoint")

    async def _await_last_word(self, step: s.Promote) -> None:
        """The old primary's last record is its shutdown checkpoint: who has replayed that has everything."""
        control = read_control(self.instance(step.after).data)
        if control is None or control.state != "shut down":
            raise OperatorError(
                f"{step.after} has not stopped cleanly: {step.node} may lack its last commits",
                hint=f"walcast cluster switchover {step.after} starts it again",
            )

        async def has_it() -> bool:
            row = await self.sessions.row(step.node, "select pg_last_wal_replay_lsn()::text")
            return row is not None and row[0] is not None and Lsn.parse(row[0]) > control.checkpoint

        await _until(
            has_it,
            f"{step.node} did not get the last of {step.after} (up to {control.checkpoint}); nothing was promoted",
            hint=f"walcast cluster switchover {step.after} goes back",
        )

    async def _await_streaming(self, step: s.AwaitStreaming) -> None:
        instance = self.instance(step.node)

        async def streaming() -> bool:
            row = await self.sessions.row(
                step.source,
                "select true from pg_stat_replication where application_name = %s and state = 'streaming' "
                "and (sync_state <> 'async' or current_setting('synchronous_standby_names') = '')",
                [step.node],
            )
            if row is None:
                await self._check_history(step)
            return row is not None

        try:
            await _until(streaming, "")
        except TimeoutError:
            raise NotStreaming(
                f"{step.node} does not stream from {step.source}: {instance.last_complaint()}",
                hint=f"see walcast cluster logs {step.node}; walcast cluster rejoin {step.node} --clone copies it anew",
            ) from None

    async def _check_history(self, step: s.AwaitStreaming) -> None:
        """A replica that has diverged shows it only once it runs."""
        if self.instance(step.node).life == "down":
            raise NotStreaming(
                f"{step.node} has ended: {self.instance(step.node).last_words()}",
                hint=f"walcast cluster logs {step.node}",
            )

    async def _replay(self, step: s.Replay) -> None:
        if step.action == "pause":
            await self.sessions.rows(step.node, "select pg_wal_replay_pause()")
        else:
            await self.sessions.rows(
                step.node, "select pg_wal_replay_resume() where pg_is_wal_replay_paused()"
            )

    async def _set_link(self, step: s.SetLink) -> None:
        await asyncio.to_thread(set_link, self.directory.root / "links", step)


async def _until(
    holds: Callable[[], Awaitable[bool]], otherwise: str, hint: str = "see the server's log"
) -> None:
    """Waits until it holds. Raises RetryableError with `otherwise`."""
    deadline = time.monotonic() + _PATIENCE
    while not await holds():
        if time.monotonic() > deadline:
            if not otherwise:
                raise TimeoutError
            raise RetryableError(otherwise, hint=hint)
        await asyncio.sleep(_POLL)


def _signal_file(data: Path) -> None:
    path = data / "standby.signal"
    path.touch(mode=0o600)
    give_away(path)


def _erase(path: Path) -> None:
    """A folder, whole or in part there."""
    if path.exists():
        gone = path.with_name(f"{path.name}.gone-{os.getpid()}")
        path.rename(gone)
        shutil.rmtree(gone)
