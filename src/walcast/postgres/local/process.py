"""Processes of a local server: its family, a free port, and the watchdog that outlives us."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

# Waits until its standard input closes, which the kernel does for us however this process ends. The name is compared so
# that a process that got the number of a dead server is left alone.
_WATCH: Final = """
read -r _
for file in "$1"/data/postmaster.pid "$1"/*/data/postmaster.pid; do
    pid=$(head -n 1 "$file" 2>/dev/null)
    if [ -n "$pid" ] && { [ ! -d /proc ] || [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = postgres ]; }; then
        kill -CONT "$pid" 2>/dev/null
        kill -QUIT "$pid" 2>/dev/null
        ended=yes
    fi
done
[ -z "$ended" ] || sleep 1
rm -rf "$1"
"""


class Watchdog:
    """A shell that ends the servers of `folder`, or of the folders in it, and removes it when this process dies."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "walcast-watchdog", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal must not end it
        )

    def close(self) -> None:
        """Ends the watchdog alone."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def family(pid: int) -> list[int]:
    """The process and its children (Linux; elsewhere the process alone)."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as handle:
            return [pid, *map(int, handle.read().split())]
    except OSError:
        return [pid]


def signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def state(pid: int) -> str:
    """The process's state letter (Linux); empty where it cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def environment(home: Path) -> dict[str, str]:
    """What a server, or a program that works on its folder, is started with."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(home)}


def spawn(
    command: Sequence[str], log: Path, *, cwd: Path, env: Mapping[str, str], uid: int | None = None
) -> int:
    """Starts a process that outlives this one, its output appended to `log`; its process id.

    A shell starts it and ends at once, so that it is init's child: nobody here has to wait for it.
    """
    line = f"{shlex.join(command)} </dev/null >>{shlex.quote(str(log))} 2>&1 & echo $!"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env=env,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        start_new_session=True,
        timeout=30,
    )
    return int(done.stdout)


def pidfile_ready(data: Path, pid: int) -> bool:
    """Whether that server accepts connections: the last line of postmaster.pid is its own word for it
    (src/include/utils/pidfile.h)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() in ("ready", "standby")
