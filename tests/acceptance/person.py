"""Somebody at a terminal: runs the installed `walcast`, and looks at what every answer must never hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = Path(sys.executable).with_name("walcast")
_OWN: Final = ("WALCAST_", "PG", "PYTHONDONTWRITEBYTECODE", "COLUMNS", "FORCE_COLOR", "NO_COLOR")
"""What of the tester's environment must not leak into the person's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The text after `error: `."""
        return "".join(line[7:] for line in self.err.splitlines() if line.startswith("error: "))

    @property
    def hint(self) -> str:
        """The text after `hint: `."""
        return " ".join(line[6:] for line in self.err.splitlines() if line.startswith("hint: "))


@dataclass(slots=True)
class Background:
    """A command that goes on: its output is in files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    check: Callable[[str], None]

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Sends the signal, waits, and looks at what it had said; its exit code."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 20) -> int:
        code = self.process.wait(timeout)
        self.check(self.out.read_text() + self.err.read_text())
        return code

    def says(self, pattern: str, timeout: float = 30) -> str:
        """Waits until it has said something that the regular expression finds, on either output; all that it said."""
        deadline = time.monotonic() + timeout
        while True:
            said = self.out.read_text() + self.err.read_text()
            if re.search(pattern, said):
                return said
            ended = self.process.poll()
            assert ended is None, f"it ended with {ended}: {said}"
            assert time.monotonic() < deadline, f"no {pattern!r} within {timeout} s: {said}"
            time.sleep(0.05)


@dataclass(slots=True)
class Person:
    """A folder, an environment, and secrets that no output may show."""

    folder: Path
    environment: dict[str, str]
    secrets: list[str] = field(default_factory=list)
    started: list[Background] = field(default_factory=list)

    @classmethod
    def at(cls, folder: Path, compiled: Path) -> Person:
        """`compiled` is where bytecode is kept, so that each command starts quickly."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        home = folder / "home"
        home.mkdir(parents=True)
        own = {"HOME": str(home), "PYTHONPYCACHEPREFIX": str(compiled), "LC_ALL": "C.UTF-8"}
        own["WALCAST_CLUSTER_DIR"] = tempfile.mkdtemp(prefix="walcast-cluster-", dir="/tmp")
        Path(own["WALCAST_CLUSTER_DIR"]).chmod(0o755)  # the servers' user must reach it
        own["PATH"] = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
        return cls(folder, inherited | own)

    def run(
        self,
        *arguments: str,
        code: int = 0,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        file_limit_kb: int | None = None,
        timeout: float = 60,
    ) -> Answer:
        """Runs `walcast` to its end and expects this exit code. `file_limit_kb`: no file may grow beyond it, as on a disk
        that is full."""
        limited = ["bash", "-c", f'ulimit -f {file_limit_kb}; exec "$0" "$@"'] if file_limit_kb else []
        done = subprocess.run(
            [*limited, PROGRAM, *arguments],
            cwd=self.folder,
            env=self.environment | dict(env or {}),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.check(done.stdout + done.stderr)
        assert done.returncode == code, (
            f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Background:
        """Starts `walcast` beside; it is killed with the test when it has not ended by then."""
        number = len(self.started)
        out, err = self.folder / f"out{number}.txt", self.folder / f"err{number}.txt"
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            process = subprocess.Popen(
                [PROGRAM, *arguments],
                cwd=self.folder,
                env=self.environment | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
            )
        self.started.append(Background(process, out, err, self.check))
        return self.started[-1]

    def write(self, text: str, name: str = "walcast.toml") -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def check(self, said: str) -> None:
        """No secret and no traceback, whatever was asked."""
        for secret in self.secrets:
            assert secret not in said, "a secret was shown"
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said

    def leave(self) -> None:
        for background in self.started:
            if background.process.poll() is None:
                background.process.kill()
                background.process.wait()
        cluster = Path(self.environment["WALCAST_CLUSTER_DIR"])
        if (cluster / "cluster.json").exists():
            self.run("cluster", "destroy", "--yes")
        shutil.rmtree(cluster, ignore_errors=True)
