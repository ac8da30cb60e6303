"""A PostgreSQL server that outlives the process that started it: a folder, and whatever runs on it now.

    folder/data           the data directory
    folder/server.conf    the configuration, outside the data: no base backup or rewind brings another server's
    folder/hba.conf       who may connect
    folder/server.log

Nothing is remembered: each question is answered from `postmaster.pid` and /proc. The methods block for fractions of a
second.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from walcast.postgres.local.binaries import Binaries
from walcast.postgres.local.cache import server_uid
from walcast.postgres.local.process import environment, family, pidfile_ready, signal_all, spawn, state
from walcast.postgres.local.server import StartFailed

Life = Literal["down", "starting", "up", "frozen"]
StopMode = Literal["fast", "immediate"]

_START_TIMEOUT: Final = 60.0
_POLL: Final = 0.005
_LOG_TAIL: Final = 1 << 16
_OTHERS: Final = re.compile(
    r"FATAL:  (streaming replication receiver|terminating|the database system|password|role|database) "
)
"""Ends of sessions and failures to connect: not the server's own."""
_COMPLAINT: Final = re.compile(r"(ERROR|FATAL|PANIC):  ")


@dataclass(frozen=True, slots=True)
class Instance:
    """The server of `folder`, run by the programs in `binaries`."""

    binaries: Binaries
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def conf(self) -> Path:
        return self.folder / "server.conf"

    @property
    def hba(self) -> Path:
        return self.folder / "hba.conf"

    @property
    def log_file(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when none runs on this folder."""
        try:
            first = (self.data / "postmaster.pid").read_text().split("\n", 1)[0]
        except OSError:
            return None
        pid = int(first) if first.isdigit() else 0
        return pid if pid and _runs_here(pid, self.data) else None

    @property
    def life(self) -> Life:
        pid = self.pid
        if pid is None:
            return "down"
        if state(pid) == "T":
            return "frozen"
        return "up" if pidfile_ready(self.data, pid) else "starting"

    def start(self, timeout: float = _START_TIMEOUT) -> None:
        """Returns once connections are accepted. Raises StartFailed with what its log says."""
        if self.pid is None:
            self._launch()
        deadline = time.monotonic() + timeout
        while (life := self.life) != "up":
            if life == "down":
                raise StartFailed(
                    f"PostgreSQL {self.binaries.version} in {self.folder} did not start: {self.last_words()}",
                    hint=f"see {self.log_file}",
                )
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"PostgreSQL in {self.folder} is not ready after {timeout:g} s: {self.last_words()}",
                    hint=f"it may be replaying much WAL: see {self.log_file}, and try again",
                )
            time.sleep(_POLL)

    def stop(self, mode: StopMode = "fast", timeout: float = 60.0) -> None:
        """Asks it to stop and waits (seconds); a frozen one is thawed. Raises TimeoutError when it goes on."""
        pid = self.pid
        if pid is None:
            return
        how = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        if self.life == "frozen":
            self.thaw()
        signal_all([pid], how)
        self._await_end(pid, timeout)

    def kill(self) -> None:
        """kill -9 of the server and all its backends: what a crash looks like."""
        pid = self.pid
        if pid is None:
            return
        signal_all(family(pid), signal.SIGKILL)
        self._await_end(pid, 30.0)

    def freeze(self) -> None:
        """Stops all its processes where they are: a server that hangs, with its connections open."""
        self._all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._all(signal.SIGCONT)

    def reload(self) -> None:
        """Has it read its configuration again."""
        pid = self.pid
        if pid is not None:
            signal_all([pid], signal.SIGHUP)

    def last_words(self) -> str:
        """Why it ended, in the words of its log: the last grave line since its last start."""
        lines = self._since_start()
        grave = [
            line for line in lines if "PANIC:" in line or ("FATAL:" in line and not _OTHERS.search(line))
        ]
        if grave:
            return grave[-1].strip()
        return (
            "it ended without a word: killed, or the machine went down"
            if self.log_file.exists()
            else "it has no log"
        )

    def last_complaint(self) -> str:
        """What a server that runs last complained of, be it of others."""
        lines = [line for line in self._since_start() if _COMPLAINT.search(line)]
        return lines[-1].strip() if lines else "its log says nothing of it"

    def _since_start(self) -> list[str]:
        """The end of its log, from its last start on."""
        try:
            with open(self.log_file, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        starts = [number for number, line in enumerate(lines) if "LOG:  starting PostgreSQL" in line]
        return lines[starts[-1] :] if starts else lines

    def _launch(self) -> None:
        self._forget_the_dead()
        server = [self.binaries.program("postgres"), "-D", str(self.data), "-c", f"config_file={self.conf}"]
        child = spawn(server, self.log_file, cwd=self.folder, env=environment(self.folder), uid=server_uid())
        deadline = time.monotonic() + _START_TIMEOUT
        while self.pid is None and _alive(child) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _await_end(self, pid: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while _alive(pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL in {self.folder} did not stop within {timeout:g} s")
            time.sleep(_POLL)

    def _forget_the_dead(self) -> None:
        """A process that has ended and that nobody has waited for still has its number: the server would take the remains of
        itself for another server."""
        file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError):
            first = file.read_text().split("\n", 1)[0]
            if first.isdigit() and state(int(first)) == "Z":
                file.unlink()

    def _all(self, number: int) -> None:
        pid = self.pid
        if pid is not None:
            signal_all(family(pid), number)


def _alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return state(pid) != "Z"


def _runs_here(pid: int, data: Path) -> bool:
    """Whether that process is a server on that folder: the number may belong to another by now. A postmaster's working
    directory is its data directory."""
    if not _alive(pid):
        return False
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == data.resolve()
    except PermissionError:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
    except OSError:
        return not Path("/proc").is_dir()
