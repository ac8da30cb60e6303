"""Programs that write to a server's folder (pg_basebackup, pg_rewind): one at a time, also over a killed caller's.

The program inherits a locked file: while it runs the lock is held, whoever else has died. The next caller ends what is
left of the last one before it begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from walcast.model import OperatorError
from walcast.postgres.local.cache import server_uid
from walcast.postgres.local.process import environment

_PATIENCE: Final = 30.0


class TaskFailed(OperatorError):
    """The program ended with an error; the message holds what it said."""


async def run_task(command: Sequence[str], folder: Path, hint: str = "see the message above") -> str:
    """Runs a program as the servers' user with the folder as HOME; what it said. Called off, it ends the program.

    Raises TaskFailed.
    """
    lock = os.open(folder / "task.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await asyncio.to_thread(_take, lock)
        uid = server_uid()
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env=environment(folder),
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            start_new_session=True,
            pass_fds=(lock,),
        )
        os.pwrite(lock, f"{process.pid}\n".encode().ljust(16), 0)
        try:
            said, _ = await process.communicate()
        except BaseException:
            _end(process.pid)
            await process.wait()
            raise
    finally:
        os.close(lock)
    text = said.decode(errors="replace").strip()
    if process.returncode:
        last = "; ".join(text.splitlines()[-4:]) or f"exit code {process.returncode}"
        raise TaskFailed(f"{Path(command[0]).name} failed: {last}", hint=hint)
    return text


def _take(lock: int) -> None:
    """Takes the lock; what a killed caller left behind is ended."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TaskFailed(
                    "another program is still at work on this node's folder", hint="wait for it, or end it"
                ) from None
        owner = os.pread(lock, 16, 0).strip()
        if owner.isdigit():
            _end(int(owner))
        time.sleep(0.05)


def _end(pid: int) -> None:
    """Ends the program and its children: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getsid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
