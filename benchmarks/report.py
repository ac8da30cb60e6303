"""The report: Markdown for people, JSON for everything else."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HEAD = """\
| Benchmark | Walcast | Baseline | | Ratio | Goal | Floor | CPU s | Peak MB |
|---|---:|---|---:|---:|---|---|---:|---:|"""


def machine() -> dict[str, Any]:
    """Where it was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    cells = (
        row["benchmark"],
        row["figure"] or _rate(row["ours"]),
        row["baseline"] or "-",
        row["baseline_figure"] or _rate(row["theirs"]),
        f"{row['ratio']:.2f}x ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})" if row["ratio"] else "-",
        row["goal"],
        row["floor"],
        f"{row['cpu_seconds']:.2f}" if row["cpu_seconds"] else "-",
        f"{row['peak_bytes'] / 2**20:.0f}" if row["peak_bytes"] else "-",
    )
    return "| " + " | ".join(cells) + " |"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    return "\n".join([_HEAD, *map(line, rows)])


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces bench.json and bench.md in the folder."""
    where = machine()
    (folder / "bench.json").write_text(json.dumps({"machine": where, "results": rows}, indent=1) + "\n")
    about = ", ".join(f"{key} {value}" for key, value in where.items())
    (folder / "bench.md").write_text(f"{markdown(rows)}\n\nMeasured on: {about}.\n")


def _rate(rate: float | None) -> str:
    return f"{rate:,.0f} rows/s" if rate else "-"
