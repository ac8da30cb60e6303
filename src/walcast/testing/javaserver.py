"""A Java server as a process of the tests: started, waited for, stopped, killed, and never left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from walcast.postgres.local import StartFailed
from walcast.postgres.local.cache import give_away, server_uid
from walcast.postgres.local.process import environment, signal_all, state

# The shell tells the server's process id, and kills it once our end of its standard input closes: the kernel does that
# however this process ends.
_KEEPER: Final = """
exec 3<&0
log=$1; shift
"$@" </dev/null >>"$log" 2>&1 3<&- &
child=$!
echo "$child"
exec >/dev/null
( read -r _ <&3; kill -CONT "$child"; kill -KILL "$child" ) 2>/dev/null &
watcher=$!
exec 3<&-
wait "$child"
kill "$watcher" 2>/dev/null
"""


_MEMORY: Final = "/dev/shm"
_ROOM: Final = 2 << 30


class JavaServer:
    """One server in a folder of its own, run by a user without rights when we are root. Subclasses say how it is started
    (`command`) and when it answers (`ready`)."""

    name = "server"
    patience = 120.0
    """Seconds to start in."""

    def __init__(self, *, durable: bool = True) -> None:
        """`durable=False`: in memory where there is room for it; on a disk the same tests take several times as long."""
        # Whatever TMPDIR says: the server's user must be able to get there.
        place = "/tmp" if durable or not _roomy(_MEMORY) else _MEMORY
        self.folder = Path(tempfile.mkdtemp(prefix=f"walcast-{self.name}-", dir=place))
        self.folder.chmod(0o755)
        give_away(self.folder)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it answers a real request."""
        raise NotImplementedError

    @property
    def log_file(self) -> Path:
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        return self._pid is not None and state(self._pid) not in ("", "Z")

    def start(self) -> None:
        """Returns once it answers. Raises StartFailed with what its log says."""
        if self.running:
            return
        self._reap()
        uid = server_uid()
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, f"walcast-{self.name}", str(self.log_file), *self.command()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env=environment(self.folder),
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            start_new_session=True,  # Ctrl-C in the terminal is ours
        )
        assert self._keeper.stdout is not None
        self._pid = int(self._keeper.stdout.readline())
        self.await_ready()

    def await_ready(self) -> None:
        """Raises StartFailed."""
        self._until(self.ready, "does not answer")

    def stop(self) -> None:
        """Asks it to end, and kills it when it goes on."""
        if self.running:
            signal_all([self._pid or 0], signal.SIGTERM)
            try:
                self._until(lambda: not self.running, "does not stop", 30.0)
            except StartFailed:
                self.kill()
        self._reap()

    def kill(self) -> None:
        """kill -9: what a crash looks like."""
        if self.running:
            signal_all([self._pid or 0], signal.SIGKILL)
        self._reap()

    def close(self) -> None:
        """Kills it and removes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            return self.log_file.read_text(errors="replace").strip()[-800:]
        return ""

    def _until(self, done: Callable[[], bool], what: str, patience: float | None = None) -> None:
        deadline = time.monotonic() + (patience or self.patience)
        starting = patience is None
        while not done():
            if starting and not self.running:
                raise StartFailed(f"{self.name} ended: {self.last_words()}", hint=f"see {self.log_file}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} {what}: {self.last_words()}", hint=f"see {self.log_file}")
            time.sleep(0.05)

    def _reap(self) -> None:
        keeper, self._keeper, self._pid = self._keeper, None, None
        if keeper is not None:
            for end in (keeper.stdin, keeper.stdout):
                if end is not None:
                    end.close()
            keeper.wait(30)


def own(path: Path) -> None:
    """A folder or file, and all in it, becomes the server's user's."""
    give_away(path)
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            give_away(Path(parent, name))


def _roomy(place: str) -> bool:
    return Path(place).is_dir() and shutil.disk_usage(place).free > _ROOM
