"""What every command prints the same way: data on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from walcast.model import ConfigError, Lsn, OperatorError, RetryableError, WalcastError

OK, FATAL, USAGE, OPERATOR, UNAVAILABLE, TABLES_STOPPED = 0, 1, 2, 3, 4, 5
EXIT_CODES: dict[int, str] = {
    OK: "done; `run` and `demo` also end so after a clean stop",
    FATAL: "a defect in Walcast, or a check that did not hold",
    USAGE: "the command line or the configuration is wrong; nothing was done",
    OPERATOR: "a person has to act: the message says what happened, the hint what to type",
    UNAVAILABLE: "a server could not be reached in time, or a wait timed out; the same command may succeed later",
    TABLES_STOPPED: "it works, but at least one table is stopped until it is snapshotted again",
}


def exit_code(error: BaseException) -> int:
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, OperatorError):
        return OPERATOR
    return UNAVAILABLE if isinstance(error, RetryableError) else FATAL


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
        return {key: jsonable(item) for key, item in _fields(value).items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return ".".join(map(str, value))
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    return value


def _fields(value: Any) -> dict[str, Any]:
    names = getattr(value, "__dataclass_fields__", {})
    return {name: getattr(value, name) for name in names} if names else asdict(value)


def print_json(value: Any) -> None:
    click.echo(json.dumps(jsonable(value), ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table; without decoration when it goes to a pipe."""
    console = Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    console.print(table)


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
