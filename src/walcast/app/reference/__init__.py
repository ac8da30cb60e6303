"""The reference pages, made from the code: `python -m walcast.app.reference docs/reference` (or `make docs`).

A setting, command, metric or error that is added is on its page with the next run; a test fails until then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from walcast.app.reference.jsonl import jsonl
from walcast.app.reference.pages import commands, doctor, errors, metrics, settings
from walcast.app.reference.values import types

PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings,
    "commands.md": commands,
    "types.md": types,
    "metrics.md": metrics,
    "doctor.md": doctor,
    "errors.md": errors,
    "jsonl.md": jsonl,
}


def write(folder: Path) -> None:
    """Writes every page. Needs the extras duckdb, jsonl and arrow."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
