"""What an older Walcast left behind is taken up where it stopped; what a newer one left is not touched.

tests/state/formatN is what a pipeline with three copies wrote in state format N, with the source's own numbers left
open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import LiteralString, cast

import duckdb
import pytest
from tests.acceptance.person import Person

from walcast.engine.upgrade import STEPS
from walcast.model import FORMAT
from walcast.testing.postgres import Database, PostgresServer

STATES = Path(__file__).parents[1] / "state"
PART = "00000001-0000000000000001-0.jsonl.part"


def test_every_older_format_has_its_step_and_its_fixture() -> None:
    assert len(STEPS) == FORMAT
    assert {path.name for path in STATES.iterdir()} == {f"format{number}" for number in range(FORMAT)}


@pytest.fixture
def left_behind(
    person: Person, database: Database, make_database: Callable[[PostgresServer], Database]
) -> tuple[Person, Database, Database]:
    """A source with its slot, and the state that an older Walcast left of it."""
    target = make_database(database.server)
    database.execute(
        "create schema shop; create table shop.fruit (id int primary key, name text);"
        "insert into shop.fruit values (1, 'one'), (2, 'two'); create publication walcast for table shop.fruit"
    )
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [database.name])
    ((lsn, number, oid, system_id),) = database.execute(
        "select confirmed_flush_lsn::text, (confirmed_flush_lsn - '0/0')::int8, 'shop.fruit'::regclass::oid::int8,"
        " (select system_identifier::text from pg_control_system()) from pg_replication_slots where slot_name = %s",
        [database.name],
    )
    folder, state = STATES / "format0", person.folder / ".walcast"
    part = (folder / "lines.jsonl.part").read_text()
    values = {"lsn": lsn, "number": number, "oid": oid, "system_id": system_id, "offset": len(part.encode())}

    def filled(name: str) -> str:
        return Template((folder / name).read_text()).substitute(values)

    (state / "sinks").mkdir(parents=True)
    (person.folder / "lines").mkdir()
    (state / "pipeline.json").write_text(filled("pipeline.json"))
    (state / "sinks/lines.json").write_text(filled("journal.json"))
    (person.folder / "lines/.walcast.json").write_text(filled("lines.json"))
    (person.folder / "lines" / PART).write_text(part)
    target.execute(cast("LiteralString", filled("postgres.sql")))
    with duckdb.connect(str(person.folder / "copy.duckdb")) as copy:
        copy.execute(filled("duckdb.sql"))
    person.write(
        f"[source]\ndsn = {json.dumps(database.dsn())}\nslot = '{database.name}'\ninclude = ['shop.*']\n"
        "[sinks.lake]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
        "[sinks.lines]\ntype = 'jsonl'\ndirectory = 'lines'\nrotate_seconds = 0\n"
        f"[sinks.pg]\ntype = 'postgres'\ndsn = {json.dumps(target.dsn())}\n"
    )
    return person, database, target


def test_a_state_of_format_0_is_taken_up_without_a_new_copy(
    left_behind: tuple[Person, Database, Database],
) -> None:
    person, database, target = left_behind
    database.execute(
        "insert into shop.fruit values (3, 'three'); update shop.fruit set name = 'zwei' where id = 2"
    )
    result = person.run("run", "--until", "now")
    assert "snapshot_begins" not in result.err
    wanted = [(1, "one"), (2, "zwei"), (3, "three")]
    assert target.execute("select id, name from shop.fruit order by id") == wanted
    with duckdb.connect(str(person.folder / "copy.duckdb")) as copy:
        assert copy.execute("select id, name from shop.fruit order by id").fetchall() == wanted
    lines = (person.folder / "lines" / PART).read_text().splitlines()
    assert [json.loads(line)["op"] for line in lines] == ["snapshot", "insert", "insert", "update"]
    for file in (".walcast/pipeline.json", ".walcast/sinks/lines.json", "lines/.walcast.json"):
        assert json.loads((person.folder / file).read_text())["format"] == FORMAT


@pytest.mark.parametrize("place", ["pipeline", "journal", "lines", "postgres", "postgres journal", "duckdb"])
def test_a_state_of_a_newer_walcast_is_refused_and_left_as_it_is(
    left_behind: tuple[Person, Database, Database], place: str
) -> None:
    person, database, target = left_behind
    files = {
        "pipeline": ".walcast/pipeline.json",
        "journal": ".walcast/sinks/lines.json",
        "lines": "lines/.walcast.json",
    }
    if place in files:
        path = person.folder / files[place]
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    elif place == "postgres":
        target.execute("comment on schema walcast is 'from the future (format 2)'")
        assert FORMAT + 1 == 2
    elif place == "postgres journal":
        target.execute("insert into walcast.journal values ('walcast', 'pg', 'format', '2')")
    else:
        with duckdb.connect(str(person.folder / "copy.duckdb")) as copy:
            copy.execute(f"comment on table _walcast.checkpoints is 'format {FORMAT + 1}'")
    database.execute("insert into shop.fruit values (3, 'three')")
    result = person.run("run", "--until", "now", code=3)
    assert re.search(
        rf"written by a newer Walcast \(state format {FORMAT + 1}; this one knows up to {FORMAT}\)",
        result.err,
    )
    if place in files:
        assert json.loads((person.folder / files[place]).read_text())["format"] == FORMAT + 1
    if place.startswith("postgres"):
        assert target.execute("select count(*) from shop.fruit") == [(2,)]
