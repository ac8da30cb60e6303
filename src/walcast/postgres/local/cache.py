"""Where binaries and initialised data directories are kept between runs, and by whom servers are run.

PostgreSQL refuses to run as root: then it runs as `nobody`, and everything it opens must be reachable by that user.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from walcast.model import OperatorError

NOBODY = 65534


def server_uid() -> int | None:
    """The user id to run a server under; None: the caller's own."""
    return NOBODY if os.geteuid() == 0 else None


def give_away(path: Path) -> None:
    """Makes the user that runs servers the owner of one file or folder, when it is not the caller."""
    uid = server_uid()
    if uid is not None:
        os.chown(path, uid, uid, follow_symlinks=False)


def reachable(path: Path) -> bool:
    """Whether the user that runs servers can read below `path`."""
    if server_uid() is None:
        return os.access(path, os.R_OK)
    resolved = path.resolve()
    chain = (resolved, *resolved.parents)
    return all(p.stat().st_mode & stat.S_IXOTH for p in chain if p.is_dir()) and bool(
        resolved.stat().st_mode & stat.S_IROTH
    )


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/walcast`, or a folder in /var/tmp when the server's user cannot reach that one.

    Raises OperatorError when the folder in /var/tmp belongs to somebody else: its programs would be run.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "walcast"
    home.mkdir(parents=True, exist_ok=True)
    if reachable(home):
        return home
    shared = Path(f"/var/tmp/walcast-{os.geteuid()}")
    shared.mkdir(mode=0o755, exist_ok=True)
    found = shared.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise OperatorError(
            f"{shared} is not a folder that only this user can write",
            hint=f"remove {shared}, or set XDG_CACHE_HOME to a folder of yours that user {NOBODY} can traverse",
        )
    return shared


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """Holds a lock over all processes while something in the cache is being made; the cache's root."""
    root = cache_root()
    with open(root / f".{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield root
