"""Data directories: initialised once a version, then copied; and their configuration files."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from walcast.model import OperatorError
from walcast.postgres.local.binaries import Binaries
from walcast.postgres.local.cache import locked, server_uid
from walcast.postgres.local.process import environment

_AUTHENTICATION: Final = ("-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256")
_INITDB: Final = (
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    "--data-checksums",
    "-U",
    "postgres",
    "-A",
    "trust",
)

_DEFAULTS: Final[Mapping[str, object]] = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_connections": 60,
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}

_HBA: Final = (
    "local all all trust",
    "local replication all trust",
    "host all all 127.0.0.1/32 scram-sha-256",
    "host replication all 127.0.0.1/32 scram-sha-256",
)


def copy_template(binaries: Binaries, data: Path) -> None:
    """A fresh data directory at `data`: a copy of the template of this installation, made on first use."""
    template = _template(binaries) / "data"
    done = subprocess.run(["cp", "-Rp", template, data], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OperatorError(f"cannot copy {template}: {done.stderr.strip()}", hint="is the disk full?")


def read_password(binaries: Binaries) -> str:
    """The superuser's password in data directories copied from this template."""
    return (_template(binaries) / "password").read_text()


def configure(data: Path, settings: Mapping[str, object], hba: Sequence[str]) -> None:
    """Writes the settings (over our defaults) and the access rules; the server reads them at start or reload."""
    lines = [f"{name} = {_quoted(value)}" for name, value in {**_DEFAULTS, **settings}.items()]
    _write(data / "walcast.conf", lines)
    _write(data / "pg_hba.conf", [*hba, *_HBA])
    main = data / "postgresql.conf"
    if "include 'walcast.conf'" not in main.read_text():
        with open(main, "a") as handle:
            handle.write("\ninclude 'walcast.conf'\n")


def give_to_server(folder: Path) -> None:
    """Makes the server's user the owner of a folder, when it is not the caller."""
    uid = server_uid()
    if uid is None:
        return
    for parent, folders, files in os.walk(folder):
        for name in ("", *folders, *files):
            os.chown(os.path.join(parent, name), uid, uid, follow_symlinks=False)


def _template(binaries: Binaries) -> Path:
    kind = hashlib.sha256(
        f"{binaries.bindir}{binaries.version}{_INITDB}{_AUTHENTICATION}".encode()
    ).hexdigest()[:10]
    name = f"template-{binaries.version}-{kind}"
    with locked(name) as root:
        target = root / name
        if not target.exists():
            making = root / f"{name}.new"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(mode=0o700)
            _initdb(binaries, making)
            making.rename(target)
    return target


def _initdb(binaries: Binaries, folder: Path) -> None:
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(12))
    give_to_server(folder)
    run_initdb(binaries, folder / "data", password)


def run_initdb(binaries: Binaries, data: Path, password: Path) -> None:
    """A new data directory with the superuser postgres, whose password is in that file. Raises OperatorError."""
    uid = server_uid()
    command = [binaries.program("initdb"), "-D", str(data), *_INITDB, *_AUTHENTICATION]
    command += [f"--pwfile={password}"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=data.parent,
        env=environment(data.parent),
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )
    if done.returncode != 0:
        raise OperatorError(
            f"initdb of PostgreSQL {binaries.version} failed: {(done.stdout + done.stderr).strip()[-1000:]}",
            hint="see the message above; programs and folder must be readable by the user that runs the server",
        )


def _quoted(value: object) -> str:
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _write(path: Path, lines: Sequence[str]) -> None:
    """Whole or not at all: the server may read it at any moment. Keeps the owner."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    owner = path.parent.stat()
    if owner.st_uid != os.geteuid():
        os.chown(new, owner.st_uid, owner.st_gid)
    new.replace(path)
