"""`python -m benchmarks`: runs them, prints Markdown, writes JSON beside it."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.harness import machine, markdown

GROUPS = ("stream", "postgres", "snapshot", "stores", "latency", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=GROUPS, help="which groups")
    parser.add_argument("--runs", type=int, default=5, help="counted pairs of runs")
    parser.add_argument("--out", type=Path, default=Path("var/bench"), help="folder of the reports")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for group in options.only:
        for contest in importlib.import_module(f"benchmarks.{group}").contests(options.runs):
            rows.append(contest.row())
            print(markdown(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            report = {"machine": machine(), "results": rows}
            (options.out / "bench.json").write_text(json.dumps(report, indent=1))
            (options.out / "bench.md").write_text(markdown(rows) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
