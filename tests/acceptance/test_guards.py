"""What must be recognised before a row is applied: a source that was restored, a slot made anew, a second Walcast."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, LiteralString, cast

import duckdb
import pytest
from tests.acceptance.person import Person

from walcast.testing import PostgresServer
from walcast.testing.postgres import Database

Factory = Callable[..., PostgresServer]


@pytest.fixture
def source(postgres_factory: Factory, person: Person) -> PostgresServer:
    """A server with a table; a copy of it in another database, in DuckDB and in files."""
    server = postgres_factory(17)
    server.execute("create database shop")
    server.execute("create database copy")
    server.execute(
        "create table t (id int primary key, x text); insert into t values (1, 'one')", database="shop"
    )
    configure(person, server)
    person.run("run", "--until", "now")
    return server


def configure(person: Person, server: PostgresServer, more: str = "") -> None:
    person.write(
        f"[source]\ndsn = {json.dumps(server.dsn('shop'))}\ninclude = ['public.t']\n{more}"
        "[engine]\nbackoff_most = '2s'\n"
        "[sinks.lake]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
        "[sinks.lines]\ntype = 'jsonl'\ndirectory = 'lines'\n"
    )


def write(server: PostgresServer, statement: str) -> None:
    server.execute(cast("LiteralString", statement), database="shop")


def copied(person: Person) -> list[list[str]]:
    said = person.run("query", "lake", "select id, x from public.t order by id", "--json").json
    return [list(row.values()) for row in said]


def there(server: PostgresServer) -> list[list[str]]:
    rows = server.execute("select id::text, x from t order by id", database="shop")
    return [list(row) for row in rows]


def lines(person: Person) -> list[dict[str, Any]]:
    files = sorted((person.folder / "lines").glob("*.jsonl*"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def backup(server: PostgresServer, to: Path) -> None:
    """The data directory of a stopped server, as a file-level backup has it."""
    server.stop()
    subprocess.run(["cp", "-a", server.data, to], check=True)
    server.start()


def restore(server: PostgresServer, kept: Path) -> None:
    server.stop()
    shutil.rmtree(server.data)
    subprocess.run(["cp", "-a", kept, server.data], check=True)
    server.start()


def test_a_source_restored_to_an_earlier_state_is_recognised_before_a_row_is_applied(
    person: Person, source: PostgresServer, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    backup(source, kept)
    write(source, "insert into t select n, 'lost' from generate_series(2, 2000) n")
    person.run("run", "--until", "now")
    before = copied(person), lines(person)
    restore(source, kept)
    write(source, "insert into t select n, 'of the restored one' from generate_series(3, 6) n")
    refused = person.run("run", "--until", "now", code=3)
    assert "it was restored to an earlier state" in refused.error
    assert (copied(person), lines(person)) == before, "nothing was applied"
    findings = person.run("doctor", "--json", code=3).json["findings"]
    assert {"copy_ahead"} <= {finding["name"] for finding in findings}
    person.run("resync", "--all")
    person.run("run", "--until", "now")
    assert copied(person) == there(source)
    write(source, "update t set x = 'later' where id = 4")
    person.run("run", "--until", "now")
    assert copied(person) == there(source)
    told = lines(person)[len(before[1]) :]
    assert [line["op"] for line in told] == ["truncate", *["snapshot"] * 5, "update"]


def test_a_source_restored_under_a_running_pipeline(
    person: Person, source: PostgresServer, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    backup(source, kept)
    write(source, "insert into t select n, 'lost' from generate_series(2, 2000) n")
    pipeline = person.start("run")
    pipeline.says("stream_opened")
    person.run("wait", person.run("token").out.strip())
    restore(source, kept)
    write(source, "insert into t values (2, 'of the restored one')")
    pipeline.says("restored to an earlier state", timeout=40)
    assert pipeline.wait(40) == 3
    assert len(copied(person)) == 2000


def test_a_slot_that_was_dropped_and_made_again(person: Person, source: PostgresServer) -> None:
    write(source, "insert into t values (2, 'two')")
    source.execute("select pg_drop_replication_slot('walcast')")
    assert "the slot is gone" in person.run("run", "--until", "now", code=3).error
    source.execute("select pg_create_logical_replication_slot('walcast', 'pgoutput')", database="shop")
    write(source, "insert into t values (3, 'three')")
    assert "the changes between are lost" in person.run("run", "--until", "now", code=3).err
    assert copied(person) == [["1", "one"]]
    names = {finding["name"] for finding in person.run("doctor", "--json", code=3).json["findings"]}
    assert "slot_ahead" in names
    person.run("resync", "--all")
    person.run("run", "--until", "now")
    assert copied(person) == there(source)


def test_two_walcasts_on_one_target_are_refused(
    person: Person, database: Database, make_database: Any
) -> None:
    target = make_database(database.server)
    database.execute("create table t (id int primary key); insert into t values (1)")

    def config(slot: str, name: str = "walcast") -> None:
        person.write(
            f"[pipeline]\nname = '{name}'\nstate_dir = '{slot}'\n"
            f"[source]\ndsn = {json.dumps(database.dsn())}\nslot = '{slot}'\ninclude = ['public.t']\n"
            f"[sinks.pg]\ntype = 'postgres'\ndsn = {json.dumps(target.dsn())}\n"
        )

    first, second = f"{database.name}_a", f"{database.name}_b"
    config(first)
    running = person.start("run")
    running.says("stream_opened")
    config(second)
    assert "followed it" in person.run("run", "--until", "now", code=3).err, "the same names"
    config(second, name="other")
    stopped = person.run("run", "--until", "now", code=5)
    assert "is kept by sink 'pg' of pipeline 'walcast'" in stopped.err, "other names, the same table"
    database.execute("insert into t values (2)")
    config(first)
    person.run("wait", person.run("token").out.strip())
    assert target.execute("select id from t order by 1") == [(1,), (2,)]
    assert running.stop() == 0


def test_what_another_program_writes_to_a_duckdb_file_is_noticed(person: Person, shop: Database) -> None:
    person.write(
        f"[source]\ndsn = {json.dumps(shop.dsn())}\nslot = '{shop.name}'\ninclude = ['shop.*']\n"
        "[sinks.lake]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
    )
    file = person.folder / "copy.duckdb"

    def told(code: int) -> list[str]:
        report = person.run("doctor", "--only", "targets", "--json", code=code).json
        return [finding["name"] for finding in report["findings"]]

    for _ in range(2):
        assert "foreign_write" not in person.run("run", "--until", "now").err
        assert told(0) == []
        with duckdb.connect(str(file), read_only=True) as reader:
            reader.execute("select count(*) from shop.fruit")
    with duckdb.connect(str(file)) as writer:
        writer.execute("delete from shop.fruit where id = 3")
    assert told(6) == ["foreign_write"]
    assert "foreign_write" in person.run("run", "--until", "now").err
    assert told(6) == ["foreign_write"], "until it is looked after"
    person.run("verify", "lake", "--repair")
    (person.folder / "copy.duckdb.closed").unlink()
    assert told(0) == []


def test_a_target_that_is_the_source_keeps_its_rows(person: Person, shop: Database) -> None:
    person.write(
        f"[source]\ndsn = {json.dumps(shop.dsn())}\nslot = '{shop.name}'\ninclude = ['shop.*']\n"
        f"[sinks.pg]\ntype = 'postgres'\ndsn = {json.dumps(shop.dsn())}\n"
    )
    assert "would be copied into itself" in person.run("run", "--until", "now", code=5).err
    assert shop.execute("select count(*) from shop.fruit") == [(100,)]
    path = person.folder / "walcast.toml"
    path.write_text(path.read_text() + "schemas = { shop = 'shop_copy' }\n")
    person.run("resync", "--all")
    person.run("run", "--until", "now")
    assert shop.execute("select count(*) from shop_copy.fruit") == [(100,)]
