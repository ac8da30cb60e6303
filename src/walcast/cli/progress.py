"""A snapshot's progress, on standard error and only for a person."""

from __future__ import annotations

import sys
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn


class SnapshotProgress:
    """One bar a table while it is copied. `update` takes the pipeline's progress reports."""

    def __init__(self, enabled: bool | None = None) -> None:
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("snapshot {task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rows]} rows"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, progress: Any) -> None:
        """Takes a table's progress: table, rows, bytes, total_bytes, done."""
        if not self._enabled:
            return
        name = str(progress.table)
        if name not in self._tasks:
            self._bars.start()
            self._tasks[name] = self._bars.add_task(name, total=max(progress.total_bytes, 1), rows=0)
        total = max(progress.total_bytes, progress.bytes, 1)
        self._bars.update(self._tasks[name], completed=total if progress.done else progress.bytes, total=total, rows=progress.rows)
        if progress.done:
            self._bars.update(self._tasks[name], visible=False)
        if all(task.finished for task in self._bars.tasks):
            self._bars.stop()
