"""kill -9 at every named point, on a real server: after each death the pipeline goes on, and both copies end equal."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

from walcast.engine import failpoints
from walcast.model import Lsn
from walcast.testing.postgres import Database

PROCESS = Path(__file__).with_name("fault_process.py")
# The first deaths are those of a first start; each goes on where the one before died.
DEATHS = (
    "slot.created=kill",
    "sink.opened=kill@2",
    "snapshot.begin=kill",
    "snapshot.part=kill@2",
    "table.done.before=kill",
    "table.done.after=kill@2",
    "prepare.after=kill",
    "write.before=kill@2",
    "write.after=kill",
    "part.between=kill@2",
    "flush.before=kill",
    "flush.after=kill",
    "save.before=kill",
    "save.after=kill",
    "confirm.before=kill",
    "confirm.after=kill@2",
    "aside.before=kill",
    "aside.kept=kill",
    "aside.after=kill",
    "aside.after=kill@3",
)
SCHEMA = """
create table users (id bigint primary key, name text);
create table orders (id bigint primary key, user_id bigint, note text);
alter table orders replica identity full;
insert into users select n, 'user ' || n from generate_series(1, 300) n;
insert into orders select n, n % 7, repeat('x', 50) from generate_series(1, 300) n;
create publication p for all tables;
"""
WORK = """
insert into users select n + %(round)s * 10000, 'late ' || n from generate_series(1, 20) n;
update orders set note = note || %(round)s where id %% 5 = %(round)s %% 5;
delete from users where id = %(round)s;
update users set id = -id where id = 100 + %(round)s;
insert into users values (%(round)s * 10000 + 5000, 'refuse'), (%(round)s * 10000 + 5001, 'fine');
update users set name = name || ' again' where id = %(round)s * 10000 + 5000;
insert into orders select n + %(round)s * 10000, n, repeat('y', 100) from generate_series(1, 1500) n;
"""


def test_every_failpoint_is_died_at() -> None:
    elsewhere = {
        "build.noted"
    }  # tests/acceptance/test_resync.py: it takes what `walcast run` has beside the engine
    assert {death.partition("=")[0] for death in DEATHS} | elsewhere == set(failpoints.FAILPOINTS)


async def test_killed_at_every_point_it_goes_on_and_the_copies_end_equal(
    database: Database, tmp_path: Path
) -> None:
    database.execute(SCHEMA)
    slot = database.name
    with database.connect() as writer:
        for number, death in enumerate(DEATHS, 1):
            process = await _start(database, slot, tmp_path, death)
            for statement in WORK.strip().split(";\n"):
                writer.execute(statement.rstrip(";"), {"round": number})  # type: ignore[arg-type]  # a constant
            ended = await asyncio.wait_for(process.wait(), 20)
            assert ended == -signal.SIGKILL, death
            _check(database, slot, tmp_path, death)
        token = writer.execute("select pg_current_wal_insert_lsn()::text").fetchone()
        assert token is not None
    process = await _start(database, slot, tmp_path, "", "--until", token[0])
    assert await asyncio.wait_for(process.wait(), 30) == 0
    _check(database, slot, tmp_path, "the end")
    for table in ("users", "orders"):
        expected = {
            row["id"]: row
            for (row,) in database.execute(f"select to_jsonb(t) from {table} t")  # type: ignore[arg-type]  # constants
        }
        for name in ("exact", "late"):
            found = sqlite3.connect(tmp_path / f"{name}.db")
            rows = [
                json.loads(row)
                for (row,) in found.execute("select row from rows where tab = ?", [f"public.{table}"])
            ]
            found.close()
            refused = {number * 10000 + 5000 for number in range(1, len(DEATHS) + 1)} & set(expected)
            assert {row["id"]: row for row in rows} == {
                key: row for key, row in expected.items() if key not in refused
            }, name
    with sqlite3.connect(tmp_path / "exact.db") as found:
        exact = [json.loads(row) for (row,) in found.execute("select letter from dead")]
    found.close()
    late = [json.loads(line) for line in (tmp_path / "state/sinks/late.dead.jsonl").read_text().splitlines()]
    again = base64.b64encode(b"refuse again").decode()
    for letters in (exact, late):  # each once, and the last of each key brings what the source has
        assert len({(*letter["keys"], letter["commit_lsn"], letter["ordinal"]) for letter in letters}) == len(
            letters
        )
        last = {letter["keys"][0]: letter["new"][1][1:] for letter in letters}
        assert last == {f'["{number * 10000 + 5000}"]': again for number in range(1, len(DEATHS) + 1)}


async def _start(
    database: Database, slot: str, folder: Path, death: str, *more: str
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(PROCESS), database.dsn(), slot, str(folder), *more, env=_environment(death)
    )


def _environment(death: str) -> dict[str, str]:
    return {**os.environ, failpoints.ENVIRONMENT: death}


def _check(database: Database, slot: str, folder: Path, where: str) -> None:
    """Confirmed <= saved, as server and files have it."""
    rows = database.execute(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", [slot]
    )
    confirmed = Lsn.parse(rows[0][0])
    for name in ("exact", "late"):
        file = folder / "state" / "sinks" / f"{name}.json"
        journal = json.loads(file.read_text()) if file.exists() else {}
        if "history" not in journal:
            continue
        saved = journal.get("checkpoint")
        if name == "exact":
            with sqlite3.connect(folder / "exact.db") as found:
                row = found.execute("select value from state where key = 'checkpoint'").fetchone()
            found.close()
            saved = json.loads(row[0]) if row else None
        through = Lsn.parse(saved["through"] if saved else journal["history"]["floor"])
        assert confirmed <= through, f"{where}: {name} has {through}, the slot is at {confirmed}"
