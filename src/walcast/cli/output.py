"""What every command prints the same way: data on standard output, everything else on standard error."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import click

from walcast.model import ConfigError, FatalError, Lsn, OperatorError, RetryableError, WalcastError

OK, FATAL, USAGE, OPERATOR, UNAVAILABLE, TABLES_STOPPED, WARNINGS = 0, 1, 2, 3, 4, 5, 6
INTERRUPTED, TERMINATED = 130, 143
EXIT_CODES: dict[int, str] = {
    OK: "done; `run` and `demo` also end so after a clean stop",
    FATAL: "a defect in Walcast, or a check that did not hold",
    USAGE: "the command line or the configuration is wrong; nothing was done",
    OPERATOR: "a person has to act: the message says what happened, the hint what to type",
    UNAVAILABLE: "a server could not be reached in time, or a wait timed out; the same command may succeed later",
    TABLES_STOPPED: "it works, but at least one table is stopped until it is copied anew",
    WARNINGS: "`doctor` has warnings and no error",
    INTERRUPTED: "interrupted by Ctrl-C (`run` stops cleanly instead)",
    TERMINATED: "ended by SIGTERM (`run` stops cleanly instead)",
}
_FALLBACK_WIDTH = 80
_LEAST_WRAP = 20
"""A last column narrower than this is not wrapped: the terminal does it as well."""


def exit_codes_text() -> str:
    """All of them, for `walcast --help`; click leaves lines as they are after its mark."""
    wrapped = (textwrap.wrap(text, 70, subsequent_indent=" " * 5) for text in EXIT_CODES.values())
    lines = [f"{code:<5}" + "\n".join(text) for code, text in zip(EXIT_CODES, wrapped, strict=True)]
    return "\b\nExit codes:\n" + "\n".join(lines)


def exit_code(error: BaseException) -> int:
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, OperatorError):
        return OPERATOR
    return UNAVAILABLE if isinstance(error, RetryableError) else FATAL


def translate(error: Exception) -> WalcastError:
    """An error that is not one of ours, as one of ours: what the system refuses is the operator's, the rest a defect."""
    if isinstance(error, TimeoutError):
        return RetryableError(
            "no answer in time", hint="the other side is busy or hangs; try again, or see its log"
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return OperatorError(f"{where}{error.strerror}", hint="check the path, its permissions and the disk")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "walcast" in frame.filename] or frames
    place = f" at {'/'.join(Path(own[-1].filename).parts[-2:])}:{own[-1].lineno}" if own else ""
    return FatalError(
        f"internal: {type(error).__name__}{place}",
        hint="this is a defect: run it again with --log-level debug, and report what it prints",
    )


def print_error(error: WalcastError, *, as_json: bool = False) -> None:
    if as_json:
        body = {"error": error.code, "message": error.message, "hint": error.hint}
        click.echo(json.dumps(body, ensure_ascii=False), err=True)
        return
    click.echo(click.style("error: ", fg="red", bold=True) + error.message, err=True)
    if error.hint:
        click.echo(click.style("hint: ", fg="cyan", bold=True) + error.hint, err=True)


def jsonable(value: Any) -> Any:
    """Plain JSON of our frozen values; an LSN as its text."""
    if isinstance(value, Lsn):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: jsonable(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return ".".join(map(str, value))
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    return value


def print_json(value: Any) -> None:
    click.echo(json.dumps(jsonable(value), ensure_ascii=False, default=str))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, null: str = "-", drop_empty: bool = True
) -> None:
    """Aligned columns; text is never cut. `drop_empty` leaves out columns without any value; at a terminal the last
    column is wrapped."""
    cells = [[null if cell is None else str(cell) for cell in row] for row in rows]
    shown = [
        number
        for number in range(len(columns))
        if not drop_empty or any(row[number] != null for row in cells)
    ] or [0]
    lines = [[row[number] for number in shown] for row in [list(columns), *cells]]
    widths = [max(len(line[number]) for line in lines) for number in range(len(shown))]
    left = sum(widths[:-1]) + 2 * (len(shown) - 1)
    room = shutil.get_terminal_size((_FALLBACK_WIDTH, 24)).columns - left if sys.stdout.isatty() else 0
    for number, line in enumerate(lines):
        *head, last = line
        wrapped = textwrap.wrap(last, room) if room >= _LEAST_WRAP else [last]
        text = "  ".join(
            [*(cell.ljust(width) for cell, width in zip(head, widths, strict=False)), *wrapped[:1]]
        )
        text = "\n".join([text.rstrip(), *(" " * left + more for more in wrapped[1:])])
        click.echo(text if number else click.style(text, bold=True))


def human_bytes(count: int | None) -> str:
    """`1.5 MB`; `-` when it is not known."""
    if count is None:
        return "-"
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TB"


def human_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
