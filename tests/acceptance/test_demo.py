"""`walcast demo` on a terminal, with the social network beside it, as somebody sees it who watches."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

from tests.acceptance.person import PROGRAM

ROOT = Path(__file__).parents[2]
COLUMNS, LINES = 80, 24


def test_the_live_table_fits_a_small_terminal_and_every_copy_is_equal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "STORES")
    }
    command = [PROGRAM, "demo", "--seconds", "2", "--app", ROOT / "examples/social"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**inherited, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while piece := _read(ours):
        said += piece
    os.close(ours)
    assert process.wait() == 0, said.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert "the social network is http://localhost:" in text
    for copy in ("postgres", "duckdb", "jsonl", "handlers"):
        rows = [line.rstrip() for line in text.splitlines() if re.match(rf"  {copy} ", line)]
        assert rows, copy
        assert all(len(row) <= COLUMNS and "…" not in row for row in rows), rows
        assert re.search(rf"^{copy}: equal, [\d,]+ rows", text, re.MULTILINE), text[-1000:]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody has the other end any more
        return b""
