"""`walcast switch` from a real 16 to a real 18: no gap, nothing twice, no new snapshot; and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, LiteralString, cast

import psycopg
import pytest
from tests.acceptance.person import Person

from walcast.postgres.local import LocalServer, find
from walcast.postgres.local.cache import server_uid
from walcast.postgres.local.datadir import give_to_server, run_initdb
from walcast.postgres.local.process import environment
from walcast.testing import PostgresServer

SCHEMA = """
create schema shop;
create type shop.mood as enum ('good', 'bad');
create table shop.gone (id int primary key);
create table shop.fruit (dropped int, id bigint generated always as identity primary key, name text, mood shop.mood, price numeric(8, 2));
alter table shop.fruit drop column dropped;
drop table shop.gone;
create table shop.bare (a text, b text);
alter table shop.bare replica identity full;
insert into shop.fruit (name, mood, price) select 'fruit ' || n, 'good', n / 3.0 from generate_series(1, 2000) n;
insert into shop.bare select n::text, 'x' from generate_series(1, 20) n;
"""
BEFORE = """
update shop.fruit set mood = 'bad' where id % 7 = 0;
insert into shop.fruit (name) values ('before the switch');
delete from shop.bare where a = '3';
"""
AFTER = """
update shop.fruit set name = 'after', mood = 'good' where id in (1, 7, 2001);
insert into shop.fruit (name) values ('of the new server');
delete from shop.fruit where id = 9;
update shop.fruit set id = default where id = 11;
update shop.bare set b = 'y' where a = '5';
alter table shop.fruit add column more int default 4;
insert into shop.fruit (name, more) values ('with more', 5);
"""
TABLES = ("fruit", "bare")


@pytest.fixture
def new() -> Iterator[LocalServer]:
    with LocalServer(binaries=find(18, tools=("pg_dump", "psql"))) as server:
        server.execute("create database shop")
        yield server


@pytest.fixture
def old(postgres_factory: Callable[..., PostgresServer], person: Person) -> PostgresServer:
    server = postgres_factory(16)
    server.execute("create database shop")
    server.execute("create database copy")
    server.execute(cast("LiteralString", SCHEMA), database="shop")
    configure(person, server, server)
    person.run("run", "--until", "now")
    return server


def configure(person: Person, source: LocalServer, target: LocalServer) -> None:
    person.write(
        f"[source]\ndsn = {json.dumps(source.dsn('shop'))}\ninclude = ['shop.*']\n"
        f"[sinks.pg]\ntype = 'postgres'\ndsn = {json.dumps(target.dsn('copy'))}\n"
        "[sinks.lake]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
        "[sinks.lines]\ntype = 'jsonl'\ndirectory = 'lines'\n"
    )


def write(server: LocalServer, statements: str) -> None:
    for statement in filter(str.strip, statements.split(";\n")):
        server.execute(cast("LiteralString", statement), database="shop")


def restore(old: LocalServer, new: LocalServer) -> None:
    """pg_dump of the new version into its psql; without publications, as somebody would whose Walcast makes them."""
    dump = subprocess.run(
        [new.binaries.program("pg_dump"), "--no-publications", "-d", old.dsn("shop")],
        capture_output=True,
        check=True,
    )
    subprocess.run(
        [new.binaries.program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-d", new.dsn("shop")],
        input=dump.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def rows(server: LocalServer, table: str, database: str) -> list[tuple[Any, ...]]:
    columns = "id, name, mood, price" if table == "fruit" else "a, b"
    query = f"select {columns} from shop.{table} order by 1, 2"
    return server.execute(cast("LiteralString", query), database=database)


def lines(person: Person) -> list[dict[str, Any]]:
    files = sorted((person.folder / "lines").glob("*.jsonl*"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def assert_equal(person: Person, source: LocalServer, target: LocalServer) -> None:
    for table in TABLES:
        wanted = rows(source, table, "shop")
        assert rows(target, table, "copy") == wanted
        columns = "id, name, mood, price" if table == "fruit" else "a, b"
        said = person.run("query", "lake", f"select {columns} from shop.{table} order by 1, 2", "--json").json
        assert [tuple(row.values()) for row in said] == [
            tuple(None if cell is None else str(cell) for cell in row) for row in wanted
        ]


def test_from_16_to_18_by_dump_and_restore(person: Person, old: PostgresServer, new: LocalServer) -> None:
    write(old, BEFORE)
    drained = person.run("switch", "--json").json
    assert drained["source"] == old.execute("select system_identifier::text from pg_control_system()")[0][0]
    assert_equal(person, old, old)
    before = len(lines(person))
    restore(old, new)
    attached = person.run("switch", new.dsn("shop"), "--json").json
    assert attached == person.run("switch", new.dsn("shop"), "--json").json, "again says the same"
    write(new, AFTER)
    configure(person, new, old)
    person.run("run", "--until", "now")
    assert_equal(person, new, old)
    told = [(line["op"], line["table"]) for line in lines(person)[before:]]
    changes = [("update", "fruit")] * 3 + [("insert", "fruit"), ("delete", "fruit"), ("update", "fruit")]
    assert told == [*changes, ("update", "bare"), ("insert", "fruit")], "each change once, and no snapshot"
    write(new, "insert into shop.fruit (name) values ('a second run')")
    person.run("run", "--until", "now")
    assert_equal(person, new, old)
    passed = person.run("doctor", "--json", code=6).json["passed"]
    assert {"checkpoints", "sinks", "slot"} <= set(passed)


def test_what_is_refused(person: Person, old: PostgresServer, new: LocalServer) -> None:
    assert "were not drained" in person.run("switch", new.dsn("shop"), code=3).error
    with psycopg.connect(old.dsn("shop"), application_name="till") as writer:
        writer.execute("insert into shop.fruit (name) values ('not committed yet')")
        assert "till" in person.run("switch", code=3).error
    person.run("switch")
    assert "is the old source" in person.run("switch", old.dsn("shop"), code=2).error
    assert "no table matches" in person.run("switch", new.dsn("shop"), code=3).error
    restore(old, new)
    new.execute("alter table shop.bare alter b type varchar(9)", database="shop")
    assert "column b is character varying(9), not text" in person.run("switch", new.dsn("shop"), code=3).error
    new.execute("alter table shop.bare alter b type text", database="shop")
    new.execute("select pg_create_logical_replication_slot('walcast', 'pgoutput')", database="shop")
    assert "--keep-slot" in person.run("switch", new.dsn("shop"), code=3).hint
    configure(person, new, old)
    assert "another history" in person.run("run", "--until", "now", code=3).err, "without it nothing goes on"
    configure(person, old, old)
    attached = person.run("switch", new.dsn("shop"), "--keep-slot", "--json").json
    state = person.folder / ".walcast" / "pipeline.json"
    note = json.loads(state.read_text())
    assert note["switch"]["at"] == attached["at"]
    note["switch"]["at"] = None  # killed between the slot and its note
    state.write_text(json.dumps(note))
    assert person.run("switch", new.dsn("shop"), "--json").json == attached
    configure(person, new, old)
    write(new, AFTER)
    new.execute("select pg_replication_slot_advance('walcast', pg_current_wal_lsn())", database="shop")
    assert "find out who moved" in person.run("run", "--until", "now", code=3).err


def test_a_copy_that_was_not_drained_does_not_go_on(
    person: Person, old: PostgresServer, new: LocalServer
) -> None:
    saved = (person.folder / "copy.duckdb").read_bytes()
    write(old, BEFORE)
    person.run("switch")
    restore(old, new)
    person.run("switch", new.dsn("shop"))
    (person.folder / "copy.duckdb").write_bytes(saved)  # an older state of one copy, put back
    configure(person, new, old)
    write(new, AFTER)
    result = person.run("run", "--until", "now", code=3)
    assert "was drained to" in result.err
    assert rows(old, "fruit", "copy") == rows(new, "fruit", "shop"), "the others went on"
    assert "resync --all --sink lake" in result.err


@pytest.mark.parametrize("version", [16, 18])
def test_by_pg_upgrade(person: Person, version: int) -> None:
    """From 17 on it carries the slot over: the new server's slot is the old one's."""
    programs = find(18, tools=("pg_upgrade",))
    with (
        LocalServer(binaries=find(version, tools=("pg_upgrade",))) as old,
        LocalServer(binaries=programs) as new,
    ):
        old.execute("create database shop")
        old.execute(cast("LiteralString", SCHEMA), database="shop")
        configure_embedded(person, old)
        person.run("run", "--until", "now")
        write(old, BEFORE)
        person.run("switch")
        before = len(lines(person))
        old.stop()
        new.stop()
        initialise(new)
        pg_upgrade(old, new)
        new.start()
        slots = new.execute("select slot_name::text from pg_replication_slots")
        assert slots == ([("walcast",)] if version >= 17 else [])
        keep = ["--keep-slot"] if version >= 17 else []
        person.run("switch", *keep, new.dsn("shop"))
        configure_embedded(person, new)
        write(new, AFTER)
        person.run("run", "--until", "now")
        told = [line["op"] for line in lines(person)[before:]]
        assert told == ["update"] * 3 + ["insert", "delete", "update", "update", "insert"]
        report = person.run("verify", "lake", "--json").json
        assert report["state"] == "equal"
        assert report["rows"] > 2000


def configure_embedded(person: Person, source: LocalServer) -> None:
    person.write(
        f"[source]\ndsn = {json.dumps(source.dsn('shop'))}\ninclude = ['shop.*']\n"
        "[sinks.lake]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
        "[sinks.lines]\ntype = 'jsonl'\ndirectory = 'lines'\n"
    )


def initialise(server: LocalServer) -> None:
    """Local servers are copies of one template. This one gets a system identifier of its own, as every other has."""
    files = {
        name: (server.data / name).read_text() for name in ("walcast.conf", "pg_hba.conf", "postgresql.conf")
    }
    shutil.rmtree(server.data)
    password = server.folder / "password"
    password.write_text("secret")
    give_to_server(server.folder)
    run_initdb(server.binaries, server.data, password)
    for name, text in files.items():
        (server.data / name).write_text(text)


def pg_upgrade(old: LocalServer, new: LocalServer) -> None:
    """Both are stopped. It runs as the servers' own user, in a folder that is theirs."""
    uid = server_uid()
    options = {
        "old-bindir": old.binaries.bindir,
        "new-bindir": new.binaries.bindir,
        "old-datadir": old.data,
        "new-datadir": new.data,
        "socketdir": new.folder,
        "username": "postgres",
    }
    done = subprocess.run(
        [
            new.binaries.program("pg_upgrade"),
            "--no-sync",
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        cwd=new.folder,
        env=environment(new.folder),
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
