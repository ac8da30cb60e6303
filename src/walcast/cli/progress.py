"""A snapshot's progress, on standard error and only for a person."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from walcast.cli.output import human_seconds

if TYPE_CHECKING:
    from rich.progress import Progress

    from walcast.postgres.snapshot import Progress as SnapshotState


class SnapshotProgress:
    """One line while a snapshot runs: tables, rows, bytes, time to go."""

    def __init__(self, enabled: bool | None = None) -> None:
        shown = sys.stderr.isatty() if enabled is None else enabled
        self._bar = _bar() if shown else None
        if self._bar is not None:
            self._task = self._bar.add_task("snapshot", total=None, tables="", eta="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, state: SnapshotState) -> None:
        """Takes the source's progress; called a few times a second."""
        if self._bar is None or not state.tables:
            return
        if state.tables_done >= state.tables:
            self._bar.stop()
            return
        self._bar.start()
        whole = state.bytes * state.rows_expected / state.rows if state.rows and state.rows_expected else None
        self._bar.update(
            self._task,
            completed=state.bytes,
            total=max(whole, state.bytes) if whole else None,
            tables=f"{state.tables_done}/{state.tables} tables, {state.rows:,} rows",
            eta=f"{human_seconds(state.eta)} to go" if state.eta is not None else "",
        )


def _bar() -> Progress:
    """Imported only for somebody who looks."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("snapshot"),
        BarColumn(),
        TextColumn("{task.fields[tables]}"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
        console=Console(stderr=True),
        transient=True,
    )
