"""`walcast ddl install`: a rename that the catalog alone cannot prove is renamed in the copy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from walcast.testing.postgres import Database


def walcast(folder: Path, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from walcast.cli import main; main()", *arguments]
    environment = {
        **os.environ,
        "WALCAST_SOURCE__DSN": dsn,
        "WALCAST_SOURCE__DDL_CAPTURE": "true",
        "WALCAST_SINKS__DUCK__TYPE": "duckdb",
        "WALCAST_SINKS__DUCK__PATH": "copy.duckdb",
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_rename_between_other_changes_is_proved_by_recorded_ddl(database: Database, tmp_path: Path) -> None:
    dsn = database.dsn()
    database.execute("create table public.t (id int primary key, before text)")
    database.execute("insert into public.t values (1, 'kept')")
    assert walcast(tmp_path, dsn, "ddl", "install").returncode == 0
    first = walcast(tmp_path, dsn, "run", "--until", "now")
    assert first.returncode == 0, first.stderr
    database.execute("alter table public.t rename before to middle")
    database.execute("insert into public.t values (2, 'two')")
    database.execute("alter table public.t rename middle to after")
    database.execute("alter table public.t add column extra int")
    database.execute("insert into public.t values (3, 'three', 3)")
    second = walcast(tmp_path, dsn, "run", "--until", "now")
    assert second.returncode == 0, second.stderr
    rows = walcast(
        tmp_path, dsn, "--json", "query", "duck", 'select id, "after", extra from public.t order by id'
    )
    assert json.loads(rows.stdout) == [
        {"id": "1", "after": "kept", "extra": None},
        {"id": "2", "after": "two", "extra": None},
        {"id": "3", "after": "three", "extra": "3"},
    ]
    assert walcast(tmp_path, dsn, "ddl", "remove").returncode == 0
