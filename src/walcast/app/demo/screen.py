"""The live table: rows a second, lag in bytes and milliseconds, and position, by sink."""

from __future__ import annotations

import time
from typing import Final, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from walcast.app.demo.workload import Shop
from walcast.engine import Pipeline, PipelineStatus

_WIDE: Final = 96
"""Columns of a terminal from which positions are shown as well."""


class Screen:
    """Redrawn a few times a second on a terminal; a line every few seconds elsewhere."""

    def __init__(self, pipeline: Pipeline, shop: Shop, *, live: bool, beside: str = "") -> None:
        """`beside`: where the application is, if there is one."""
        self._beside = f"\nThe social network beside it: {beside}, log in as alice." if beside else ""
        self._pipeline, self._shop = pipeline, shop
        self._live = Live(console=Console(), auto_refresh=False) if live else None
        self._seen: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}
        self._note = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        self._note = text

    async def update(self) -> None:
        """Looks at the source and draws."""
        if self._live is None:
            return
        status = await self._pipeline.observe()
        self._measure(status)
        self._live.update(self._drawn(status), refresh=True)

    def _measure(self, status: PipelineStatus) -> None:
        now = time.monotonic()
        for sink in status.sinks:
            then, rows = self._seen.get(sink.name, (now, sink.rows))
            if now - then >= 1 or sink.name not in self._seen:
                self._rates[sink.name] = (sink.rows - rows) / (now - then) if now > then else 0.0
                self._seen[sink.name] = (now, sink.rows)

    def _drawn(self, status: PipelineStatus) -> Group:
        wide = self._live is not None and self._live.console.width >= _WIDE
        table = Table(title="Walcast: one PostgreSQL, four copies", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("copy", no_wrap=True)
        table.add_column("state", min_width=9)
        for name, width in (("rows", 9), ("rows/s", 6), ("behind", 8), ("p50", 8), ("p99", 8)):
            table.add_column(name, justify="right", min_width=width, no_wrap=True)
        if wide:
            table.add_column("position", justify="right", no_wrap=True)
        for sink in status.sinks:
            state = (
                f"{sink.state.value}, {len(sink.stopped_tables)} stopped"
                if sink.stopped_tables
                else sink.state.value
            )
            table.add_row(
                sink.name,
                f"[red]{state}[/red]" if sink.error or sink.stopped_tables else state,
                f"{sink.rows:,}",
                f"{self._rates.get(sink.name, 0):,.0f}",
                f"{(sink.lag_bytes or 0) / 1024:,.0f} kB",
                *(f"{value * 1000:,.1f} ms" if value is not None else "-" for value in sink.latency),
                *([str(sink.checkpoint.position) if sink.checkpoint else "-"] if wide else []),
            )
        foot = f"{self._shop.transactions:,} transactions written; source at {status.source.position}. {self._note}"
        return Group(
            table,
            Text(
                foot + self._beside + "\nCtrl-C stops the workload and compares every copy with the source."
            ),
        )
