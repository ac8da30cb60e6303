"""Servers that are Java archives: fetched by Maven itself once, so that mirrors and credentials are the user's own."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from walcast.postgres.local import ServerMissing
from walcast.postgres.local.cache import give_away, locked

log = logging.getLogger("walcast.testing")

_FETCH_TIMEOUT: Final = 900
"""Seconds."""


def java() -> str:
    """The Java that runs servers. Raises ServerMissing."""
    found = shutil.which("java")
    if found is None:
        raise ServerMissing("there is no java on this machine", hint="install a Java 17 runtime")
    return found


def jars(name: str, coordinates: Sequence[str]) -> Path:
    """A folder with these artifacts (`group:artifact:version`) and all that they need at run time, in the cache
    (`$XDG_CACHE_HOME/walcast`) under the name and a hash of the coordinates. Raises ServerMissing.
    """
    pom = _pom(coordinates)
    folder = f"{name}-{hashlib.sha256(pom.encode()).hexdigest()[:10]}"
    with locked(folder) as root:
        target = root / folder
        if target.is_dir():
            return target
        maven = shutil.which("mvn")
        if maven is None:
            raise ServerMissing(
                f"{name} is not in {root}, and there is no Maven to fetch it with",
                hint="install Maven (mvn), with a repository in reach",
            )
        print(f"walcast: fetching {name} with Maven, once, into {target}", file=sys.stderr, flush=True)
        making = root / f"{folder}.new"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o755)
        (making / "pom.xml").write_text(pom)
        _copy(maven, making, name)
        for file in (making, *making.iterdir()):
            file.chmod(0o755 if file.is_dir() else 0o644)
            give_away(file)
        making.rename(target)
    return target


def _copy(maven: str, folder: Path, name: str) -> None:
    command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    command.append(f"-DoutputDirectory={folder}")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT, check=False, cwd=folder
        )
        failed = (done.stdout + done.stderr).strip()[-500:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        failed = f"it took longer than {_FETCH_TIMEOUT} s"
    if failed or not any(folder.glob("*.jar")):
        log.warning("server_fetch_failed", extra={"server": name, "output": failed})
        raise ServerMissing(
            f"Maven could not fetch {name}: {failed.splitlines()[0] if failed else 'it fetched nothing'}",
            hint="is a repository in reach? try again",
        )


def _pom(coordinates: Sequence[str]) -> str:
    wanted = ""
    for coordinate in coordinates:
        group, artifact, version = coordinate.split(":")
        wanted += f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>walcast</groupId>'
        f"<artifactId>servers</artifactId><version>1</version><dependencies>{wanted}</dependencies></project>\n"
    )
