"""PGSync, as PyPI has it, in an environment of its own that is made when it is first asked for; and the Redis that it needs.

Nothing of Walcast depends on it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from walcast.model import OperatorError
from walcast.postgres.local import LocalServer
from walcast.postgres.local.cache import cache_root, locked
from walcast.postgres.local.process import free_port

VERSION: Final = "7.3.0"
_REDIS: Final = ("redis-server", "valkey-server")


class PGSync:
    """One installation with its Redis. `command` runs one of its programs for a source and a cluster."""

    def __init__(self, programs: Path, redis: int, folder: Path) -> None:
        self._programs = programs
        self._redis = redis
        self._folder = folder

    def command(
        self, program: str, *options: str, schema: Any, source: LocalServer, url: str
    ) -> subprocess.Popen[str]:
        """Starts it; its output goes to a file in the folder."""
        config = self._folder / "schema.json"
        config.write_text(json.dumps(schema))
        place = urlsplit(url)
        environment = {
            "PATH": os.environ["PATH"],
            "PG_HOST": "127.0.0.1",
            "PG_PORT": str(source.port),
            "PG_USER": "postgres",
            "PG_PASSWORD": source.password,
            "OPENSEARCH": "true",
            "ELASTICSEARCH": "false",
            "ELASTICSEARCH_HOST": str(place.hostname),
            "ELASTICSEARCH_PORT": str(place.port),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self._redis),
            "CHECKPOINT_PATH": str(self._folder),
        }
        with self.log.open("a") as log:
            return subprocess.Popen(
                [self._programs / "python", self._programs / program, "--config", str(config), *options],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, program: str, **how: Any) -> float:
        """Runs it to its end; seconds. Raises SystemExit with the end of what it said."""
        begin = time.perf_counter()
        process = self.command(program, **how)
        if process.wait() != 0:
            raise SystemExit(f"{program} failed:\n{self.log.read_text(errors='replace')[-2000:]}")
        return time.perf_counter() - begin

    @property
    def log(self) -> Path:
        return self._folder / "pgsync.log"


@contextmanager
def pgsync() -> Iterator[PGSync]:
    """Raises OperatorError when it cannot be had."""
    programs = _installed()
    redis = next((found for name in _REDIS if (found := shutil.which(name))), None)
    if redis is None:
        raise OperatorError("PGSync needs a Redis", hint="apt-get install redis-server")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([redis, *options], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            yield PGSync(programs, port, Path(folder))
        finally:
            process.terminate()
            process.wait()


def _installed() -> Path:
    """The folder of its programs."""
    name = f"pgsync-{VERSION}-{sys.version_info.major}.{sys.version_info.minor}"
    target = cache_root() / name
    with locked(name):
        if not (target / "bin" / "pgsync").exists():
            shutil.rmtree(target, ignore_errors=True)
            for command in (
                [sys.executable, "-m", "venv", str(target)],
                [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", f"pgsync=={VERSION}"],
            ):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    shutil.rmtree(target, ignore_errors=True)
                    raise OperatorError(
                        f"PGSync {VERSION} cannot be installed: {done.stderr.strip()[-300:]}",
                        hint="is PyPI in reach?",
                    )
    return target / "bin"
