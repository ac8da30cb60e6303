"""One process owns a state directory: a lock that dies with the process."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from walcast.model import OperatorError

LOCK = "lock"


@contextlib.asynccontextmanager
async def owned(state_dir: Path, *, wait: bool = False) -> AsyncIterator[None]:
    """Holds the state directory (made when missing, 0700). With `wait` stands by until its owner is gone.

    Raises OperatorError when another process owns it, or it cannot be written.
    """
    file = _open(state_dir)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = owner(state_dir)
        if not wait:
            os.close(file)
            raise OperatorError(
                f"another process ({holder}) owns the state directory {state_dir}",
                hint="stop it; or give this pipeline a state_dir of its own; or start this one as a hot spare",
            ) from None
        await _stand_by(file)
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def owner(state_dir: Path) -> int | None:
    """The process that owns it (0: not known which); None when none does."""
    try:
        file = os.open(state_dir / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(file, 32, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(file)
    return None


def _open(state_dir: Path) -> int:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperatorError(
            f"cannot use the state directory {state_dir}: {error.strerror}",
            hint="set state_dir to a directory that this user may write",
        ) from error


async def _stand_by(file: int) -> None:
    """Waits for the lock in a thread, since the wait cannot be called off; who gives up leaves the thread to close it."""
    loop = asyncio.get_running_loop()
    got: asyncio.Future[None] = loop.create_future()
    guard = threading.Lock()
    given_up = False

    def tell() -> None:
        if not got.done():
            got.set_result(None)

    def wait() -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
        with guard:
            if given_up:
                os.close(file)
            else:
                loop.call_soon_threadsafe(tell)

    threading.Thread(target=wait, name="walcast hot spare", daemon=True).start()
    try:
        await got
    except asyncio.CancelledError:
        with guard:
            given_up = True
            if got.done() and not got.cancelled():
                os.close(file)
        raise
