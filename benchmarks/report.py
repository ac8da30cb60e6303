"""The report: Markdown for people, JSON for everything else.

    python -m benchmarks.report docs/benchmarks.md var/bench/bench.json ...

puts the figures of these runs into the page, between its two marks, in place of the same benchmarks' earlier ones.
"""

from __future__ import annotations

import json
import os
import platform
import sys
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


_RULE = "|---|---:|---:|---:|---|---:|---:|"
_BEGIN, _END = "<!-- figures -->\n", "<!-- end of figures -->"
_SECTIONS = {
    "stream": ("The stream, decoded to Arrow, into nothing", "`pg_recvlogical -o binary=true`"),
    "PostgreSQL to PostgreSQL": ("PostgreSQL to PostgreSQL", "native subscription, binary"),
    "snapshot": ("The first copy, into PostgreSQL", "`psql COPY`, piped into `psql COPY`"),
    "to DuckDB": ("To DuckDB", "our null sink"),
    "to JSON Lines": ("To JSON Lines", "our null sink"),
    "to OpenSearch": ("To OpenSearch", "`_bulk` of encoded documents; a put with `refresh=true`"),
    "to tantivy": ("To tantivy", "added, committed and looked up by the process itself"),
    "nested documents": ("Nested documents in OpenSearch", "PGSync 7.3.0"),
    "to LadybugDB": ("To LadybugDB", "`load from` Arrow, `match`, `create` by 50,000"),
    "to Neo4j 5.26": ("To Neo4j", "`unwind`, `match`, `create` by 20,000"),
    "latency": ("From commit to handler", "a bare blocking reader"),
    "memory": ("Memory", ""),
    "cluster": ("The cluster", "async"),
    "routing": ("Reads with a token", "the bare pool"),
}


def page(text: str, rows: Sequence[dict[str, Any]]) -> str:
    """The page with these figures in it, a table for each group; what was not measured now stays as it is."""
    head, rest = text.split(_BEGIN)
    figures, tail = rest.split(_END)
    tables: dict[str, dict[str, str]] = {}
    for piece in figures.split("## ")[1:]:
        title, *lines = piece.splitlines()
        tables[title] = {line.split(" | ")[0]: line for line in lines[3:] if line}
    for row in rows:
        title, _ = _SECTIONS[row["benchmark"].split(": ")[0]]
        written = _short(row)
        tables.setdefault(title, {})[written.split(" | ")[0]] = written
    sheets = [
        "\n".join(
            [
                f"## {title}\n",
                f"| | Walcast | {baseline} | Ratio | Goal | CPU | Peak |",
                _RULE,
                *tables[title].values(),
            ]
        )
        for title, baseline in _SECTIONS.values()
        if title in tables
    ]
    return head + _BEGIN + "\n" + "\n\n".join(sheets) + "\n\n" + _END + tail


def _short(row: dict[str, Any]) -> str:
    cells = (
        row["benchmark"].split(": ", 1)[1],
        row["figure"] or _rate(row["ours"]),
        row["baseline_figure"] or _rate(row["theirs"]),
        f"**{row['ratio']:.2f}x** ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})" if row["ratio"] else "",
        row["goal"].strip("-"),
        f"{row['cpu_seconds']:.1f} s" if row["cpu_seconds"] else "",
        f"{row['peak_bytes'] / 2**20:.0f} MB" if row["peak_bytes"] else "",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    found = [row for name in sys.argv[2:] for row in json.loads(Path(name).read_text())["results"]]
    target.write_text(page(target.read_text(), found))
