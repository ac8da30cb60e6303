"""The folder of a cluster: manifest, secrets, lock, and one folder a node.

    cluster.json   what the cluster is to be        secrets.json, pgpass   0600
    lock           one operator at a time           tls/  archive/  links/
    node1/         data/ server.conf hba.conf server.log pgpass

As root the servers run as another user: the folder itself stays the caller's, the nodes' are given away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walcast.cluster.conf import HOST, REPLICATOR, Configuration
from walcast.cluster.desired import Desired
from walcast.model import ConfigError, OperatorError
from walcast.model.secret import Secret
from walcast.postgres.local.cache import NOBODY, cache_root, give_away, reachable

MANIFEST: Final = "cluster.json"
ATTACHED: Final = "attached.json"
"""What stands for servers that were there already."""
ROLES: Final = ("postgres", REPLICATOR, "app")


class ClusterBusy(OperatorError):
    """Another operator is at work on this cluster."""


class NoCluster(ConfigError):
    """There is no cluster in that folder."""


def default_folder() -> Path:
    """`$XDG_STATE_HOME/walcast/cluster`, or beside the cache when the servers' user cannot reach that."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "walcast"
    home.mkdir(parents=True, exist_ok=True)
    return (home if reachable(home) else cache_root()) / "cluster"


@dataclass(frozen=True, slots=True)
class Directory:
    """A cluster's folder, which may not be there yet."""

    root: Path

    @property
    def exists(self) -> bool:
        return (self.root / MANIFEST).exists()

    def node(self, name: str) -> Path:
        return self.root / name

    @property
    def passfile(self) -> Path:
        """A libpq password file for the caller, with the roles postgres and app."""
        return self.root / "pgpass"

    def check(self) -> None:
        """Raises OperatorError unless it is an empty folder of the caller's, or can be made one."""
        try:
            there = self.root.exists()
            if there and self.root.stat().st_uid != os.geteuid():
                raise OperatorError(
                    f"{self.root} belongs to somebody else", hint="choose another folder: --dir"
                )
            entries = [entry.name for entry in self.root.iterdir()] if there else []
        except OSError as error:
            raise OperatorError(
                f"cannot use {self.root} for a cluster: {error.strerror}", hint="choose another folder: --dir"
            ) from None
        strange = sorted(set(entries) - {"lock", "secrets.json", "pgpass", "tls", "archive", "links"})
        if strange:
            raise OperatorError(
                f"{self.root} is not a cluster's folder and not empty ({', '.join(strange[:3])})",
                hint="choose another folder: --dir",
            )

    def make(self, desired: Desired) -> None:
        """Claims the folder and writes the manifest. Raises OperatorError as `check` does, and when the servers' user cannot
        reach it."""
        self.check()
        if not reachable(self.root):
            raise OperatorError(
                f"user {NOBODY}, who runs the servers, cannot reach {self.root}",
                hint="PostgreSQL does not run as root: choose a folder such as /var/tmp/cluster with --dir",
            )
        self._make_secrets()
        for name in ("links", *(["archive"] if desired.archive else [])):
            (self.root / name).mkdir(exist_ok=True, mode=0o755)
        if desired.archive:
            give_away(self.root / "archive")
        self.write(desired)

    def read(self) -> Desired:
        """Raises NoCluster, ConfigError, and OperatorError for attached servers."""
        try:
            text = (self.root / MANIFEST).read_text()
        except FileNotFoundError:
            if (self.root / ATTACHED).exists():
                raise OperatorError(
                    f"the servers in {self.root} are attached: this is for clusters that walcast cluster up has made",
                    hint="status, profile, pause, resume, env and psql work on them; walcast cluster detach forgets them",
                ) from None
            raise NoCluster(
                f"there is no cluster in {self.root}", hint="walcast cluster up makes one"
            ) from None
        except OSError as error:
            raise OperatorError(
                f"cannot read {self.root / MANIFEST}: {error.strerror}", hint="is it yours?"
            ) from None
        try:
            value = json.loads(text)
        except ValueError:
            raise ConfigError(
                f"{self.root / MANIFEST} is not JSON", hint="restore it, or: walcast cluster destroy"
            ) from None
        return Desired.from_json(value)

    def write(self, desired: Desired) -> None:
        """Whole or not at all, and on the disk when it returns."""
        write_whole(self.root / MANIFEST, json.dumps(desired.to_json(), indent=1) + "\n", 0o644)

    def password(self, role: str) -> Secret:
        """Raises OperatorError when the secrets are gone."""
        try:
            return Secret(json.loads((self.root / "secrets.json").read_text())[role])
        except (OSError, ValueError, KeyError):
            raise OperatorError(
                f"the cluster's passwords in {self.root / 'secrets.json'} cannot be read",
                hint="are you its owner?",
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the cluster against other operators. Raises ClusterBusy, and OperatorError when the folder cannot be used."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            file = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperatorError(
                f"cannot use {self.root} for a cluster: {error.strerror}", hint="choose another folder: --dir"
            ) from None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(file, 32, 0).decode().strip()
                raise ClusterBusy(
                    f"another operator (process {holder or 'unknown'}) is at work on the cluster in {self.root}",
                    hint="wait until it has finished, or end it: what it left half done is taken up from there",
                ) from None
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(file)

    def make_node(self, name: str) -> Path:
        """The node's folder, with the password file that its server reads from the primary with."""
        folder = self.node(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        line = f"*:*:*:{REPLICATOR}:{self.password(REPLICATOR).reveal()}\n"
        give_away(folder)
        write_whole(folder / "pgpass", line, 0o600, to_server=True)
        return folder

    def write_configuration(self, name: str, made: Configuration) -> None:
        """Both files; the server reads them at its start, or when it is told to."""
        folder = self.node(name)
        for file, text in (("hba.conf", made.hba), ("server.conf", made.text)):
            write_whole(folder / file, text, 0o600, to_server=True)

    def destroy(self) -> None:
        """Removes what belongs to the cluster, the manifest last; and the folder, unless something else is in it."""
        with contextlib.suppress(OperatorError):
            for node in self.read().nodes:
                shutil.rmtree(self.node(node.name), ignore_errors=True)
        for name in ("tls", "archive", "links"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in ("pgpass", "secrets.json", MANIFEST, "lock"):
            (self.root / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.root.rmdir()

    def _make_secrets(self) -> None:
        path = self.root / "secrets.json"
        if path.exists():
            return
        made = {role: secrets.token_urlsafe(15) for role in ROLES}
        lines = [
            f"{HOST}:*:*:{role}:{made[role]}\nlocalhost:*:*:{role}:{made[role]}\n"
            for role in ("postgres", "app")
        ]
        write_whole(self.passfile, "".join(lines), 0o600)
        write_whole(path, json.dumps(made), 0o600)


def write_whole(path: Path, text: str, mode: int, *, to_server: bool = False) -> None:
    """Whole or not at all, and on the disk when it returns."""
    new = path.with_name(path.name + ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(file, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(file)
    if to_server:
        give_away(new)
    new.replace(path)
