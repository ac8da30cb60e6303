"""`python -m benchmarks`: runs them, prints Markdown, writes Markdown and JSON."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.harness import Plan
from benchmarks.report import line, markdown, write

GROUPS = (
    "stream",
    "postgres",
    "snapshot",
    "stores",
    "latency",
    "memory",
    "routing",
    "cluster",
    "search",
    "nested",
    "graphs",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=GROUPS, help="which groups")
    parser.add_argument("--match", default="", help="only benchmarks whose name contains this")
    parser.add_argument(
        "--runs", type=int, default=5, help="pairs of runs that count, after one that does not"
    )
    parser.add_argument("--rows-scale", type=float, default=1.0, help="multiplies all row counts and times")
    parser.add_argument("--full", action="store_true", help="memory at full size: 10M rows, 1 GB")
    parser.add_argument("--out", type=Path, default=Path("var/bench"), help="folder of the reports")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(options.runs, options.rows_scale, options.full, options.match)
    rows = []
    for group in options.only:
        for contest in importlib.import_module(f"benchmarks.{group}").contests(plan):
            rows.append(contest.row())
            print(line(rows[-1]), file=sys.stderr, flush=True)
            write(options.out, rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
