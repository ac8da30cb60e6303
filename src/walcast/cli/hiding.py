"""A connection string given as an argument may hold a password: other users must not read it in the process list."""

from __future__ import annotations

import ctypes
from pathlib import Path

_ARG_START, _ARG_END = 45, 46
"""Numbers of arg_start and arg_end among what follows the command's name in /proc/PID/stat (man 5 proc)."""


def hide_argument(text: str | None) -> None:
    """Overwrites this process's argument with asterisks, as `ps` and /proc/PID/cmdline show it. Linux only: elsewhere it
    does nothing."""
    wanted = (text or "").encode(errors="surrogateescape")
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    except (OSError, ValueError, IndexError):
        return
    if not wanted or not 0 < begin < end:
        return
    at = ctypes.string_at(begin, end - begin).find(b"\0" + wanted + b"\0")
    if at >= 0:
        ctypes.memset(begin + at + 1, ord("*"), len(wanted))
