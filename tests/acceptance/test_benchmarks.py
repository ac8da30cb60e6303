"""The benchmarks run and report. What they measure is not asserted: that is for a quiet machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from walcast.accel import NATIVE

ROOT = Path(__file__).parents[2]


def benchmarks(folder: Path, options: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options, "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(NATIVE is None, reason="the benchmarks measure the native module")
def test_one_benchmark_runs_and_reports_in_markdown_and_json(tmp_path: Path) -> None:
    options = ["--only", "stream", "--runs", "1", "--rows-scale", "0.01", "--match", "updates"]
    done = benchmarks(tmp_path, options, timeout=90)
    assert done.stdout.startswith("| Benchmark | Walcast | Baseline |")
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [row["benchmark"] for row in report["results"]] == [
        "stream: 6,000 updates by 100, tcp",
        "stream: 6,000 updates by 100, socket",
    ]
    for row in report["results"]:
        assert row["runs"] == 1
        assert row["ours"] > 0
        assert row["ratio"] > 0
        assert row["peak_bytes"] > 0
    assert (tmp_path / "bench.md").read_text().startswith(done.stdout.rstrip("\n"))


def test_no_read_with_a_token_is_stale_while_lag_moves_and_without_one_some_are(tmp_path: Path) -> None:
    """The short form of `python -m benchmarks --only routing`, which reads a million times."""
    options = ["--only", "routing", "--runs", "1", "--rows-scale", "0.02", "--match", "moving lag"]
    benchmarks(tmp_path, options, timeout=110)
    (line,) = json.loads((tmp_path / "bench.json").read_text())["results"]
    (told,) = line["extra"]
    assert told["stale"] == 0
    assert told["stale_without"] > 0
    assert told["on_replicas"] > 0
