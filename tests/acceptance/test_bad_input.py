"""What people get wrong: each is told what is wrong and what to do, and finds everything as it was before."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.acceptance.person import Person

from walcast.testing import PostgresServer
from walcast.testing.postgres import Database

SINK = '[sinks.changes]\ntype = "jsonl"\ndirectory = "changes"\n'
CLEAN = (
    "select array(select slot_name::text from pg_replication_slots where database = current_database() order by 1),"
    " array(select pubname::text from pg_publication order by 1),"
    " array(select relname::text from pg_class where relnamespace = 'public'::regnamespace order by 1)"
)


def configure(person: Person, shop: Database, more: str = "", sinks: str = SINK, **source: object) -> None:
    """A good configuration but for what a test says; the slot is named after the database."""
    settings: dict[str, object] = {
        "dsn": shop.dsn(via="tcp"),
        "slot": shop.name,
        "include": ["shop.*"],
    } | source
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    person.write("\n".join(["[source]", *lines, more, sinks]))


def files(person: Person) -> dict[str, bytes]:
    return {
        str(path.relative_to(person.folder)): path.read_bytes()
        for path in sorted(person.folder.rglob("*"))
        if path.is_file()
    }


def refused(
    person: Person,
    says: str,
    hint: str,
    *arguments: str,
    code: int = 3,
    database: Database | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """The command (by default `run`) ends with message, remedy and exit code; files and database are as before."""
    before = files(person), database.execute(CLEAN) if database is not None else None
    answer = person.run(*(arguments or ("run", "--until", "now")), code=code, env=env)
    assert re.search(says, answer.error), answer.err
    assert re.search(hint, answer.hint), answer.err
    assert answer.out == ""
    assert (files(person), database.execute(CLEAN) if database is not None else None) == before


@pytest.mark.parametrize(
    ("change", "says", "hint"),
    [
        ({"password": "opensesame"}, "password authentication failed", "check user and password"),
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist', "check dbname"),
        ({"host": "no-such-host.invalid"}, "resolve host", "check the host name"),
    ],
    ids=["password", "database", "host"],
)
def test_a_wrong_dsn(person: Person, shop: Database, change: dict[str, str], says: str, hint: str) -> None:
    person.secrets.append("opensesame")
    dsn = make_conninfo(shop.dsn(via="tcp"), **change)
    configure(person, shop, dsn=dsn)
    refused(person, says, hint, database=shop)
    if "password" in change:
        refused(person, says, hint, "init", dsn, "--force", database=shop)
        refused(person, says, hint, "tail", "--dsn", dsn, database=shop)


def test_a_dsn_that_cannot_be_read(person: Person, shop: Database) -> None:
    person.secrets.append("hunter2")
    for dsn in ("host=a hunter2", "postgresql://u:hunter2@[bad/x"):
        refused(person, "the DSN cannot be read", "a DSN is a URI", "init", dsn)
    configure(person, shop, dsn=12)
    refused(person, r"walcast.toml:2: source.dsn: expected text in quotes", "", code=2)


def test_a_server_that_is_not_there(person: Person, shop: Database) -> None:
    configure(person, shop, dsn="postgresql://postgres@127.0.0.1:1/x")
    for command in (("config", "check"), ("token",), ("status",), ("slot", "list"), ("tail",)):
        refused(person, "Connection refused", "is the server running", *command, code=4)
    run = person.start("run")  # a service outlives its database: it waits
    run.says("source_retry")
    run.says("is the server running")
    assert run.stop() == 0


def test_a_wrong_tls_root(person: Person, postgres_factory: Callable[..., PostgresServer]) -> None:
    server = postgres_factory(17, tls=True)
    files = server.certificates
    assert files is not None
    secure: dict[str, Any] = {"via": "tcp", "host": "localhost", "sslmode": "verify-full"}
    refused(
        person,
        "certificate verify failed",
        "not signed by the authority in sslrootcert",
        "init",
        server.dsn(**secure, sslrootcert=files.other_root),
    )
    none = server.dsn(**secure, sslrootcert="/none.pem")
    refused(person, "root certificate file", "sslrootcert must name the file", "init", none)
    server.execute("create table public.a (id int primary key)")
    person.run("init", server.dsn(**secure, sslrootcert=files.root))


def test_a_role_without_rights(person: Person, shop: Database) -> None:
    role = f"clerk_{shop.name}"
    shop.execute(sql.SQL("create role {} login password 'letmein2'").format(sql.Identifier(role)))
    person.secrets.append("letmein2")
    try:
        configure(person, shop, dsn=shop.dsn(via="tcp", user=role, password="letmein2"))
        refused(person, "permission denied to start WAL sender", "alter role ... replication", database=shop)
        answer = person.run("config", "check", code=3)
        assert f'grant usage on schema "shop" to "{role}"' in answer.err
        assert "have somebody who may run: create publication" in answer.err
        assert "alter role ... replication" in answer.err
        shop.execute(sql.SQL("alter role {} replication").format(sql.Identifier(role)))
        refused(person, f"{role} may not read shop.crates, shop.fruit", "grant select", database=shop)
    finally:
        shop.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


def test_a_server_that_does_not_decode(
    person: Person, postgres_factory: Callable[..., PostgresServer]
) -> None:
    server = postgres_factory(
        18, settings={"wal_level": "replica", "max_replication_slots": 1, "max_wal_senders": 1}
    )
    server.execute("create table public.a (id int primary key)")
    database = Database(server, "postgres")
    configure(person, database, include=["a"])
    refused(person, "wal_level is replica", "alter system set wal_level = 'logical'", database=database)
    server.restart({"wal_level": "logical"})
    configure(person, database, include=["a"])  # the port may be another one
    server.execute("select pg_create_physical_replication_slot('old')")
    refused(
        person, "all 1 replication slots are in use; nobody reads old", "walcast slot list", database=database
    )
    server.execute("select pg_drop_replication_slot('old')")
    reader = person.start("tail", "--dsn", server.dsn())
    while server.execute("select 1 from pg_replication_slots where active") == []:
        assert reader.process.poll() is None
    refused(
        person,
        "slots are in use|1 of 1 walsenders are in use|max_wal_senders",
        "raise max",
        database=database,
    )
    assert reader.stop() == 143


def test_a_server_too_old(person: Person, shared_postgres: Callable[[int], PostgresServer]) -> None:
    server = shared_postgres(12)
    person.secrets.append(server.password)
    refused(person, "PostgreSQL 12.* 13", "upgrade", "init", server.dsn(via="tcp"))
    configure(person, Database(server, "postgres"))
    refused(person, "this server is PostgreSQL 12; Walcast reads 13 and later", "upgrade the server")
    for command in (("token",), ("status",), ("tail",)):
        refused(person, "PostgreSQL 12", "upgrade", *command)


def test_a_table_that_is_not_there_or_twice(person: Person, shop: Database) -> None:
    configure(person, shop, include=["shop.friut"])
    refused(person, "no table matches 'shop.friut'", "did you mean shop.fruit", database=shop)
    configure(person, shop, include=["shop.fruit", "shop.crates", "shop.fruit"])
    refused(person, "'shop.fruit' is there twice", "remove one", code=3, database=shop)
    refused(
        person,
        "no table matches 'shop.nuts'",
        "did you mean",
        "init",
        "-c",
        "new.toml",
        "--tables",
        "shop.nuts",
        env={
            "PGHOST": str(shop.server.folder),
            "PGPORT": str(shop.server.port),
            "PGUSER": "postgres",
            "PGDATABASE": shop.name,
        },
    )
    configure(person, shop, include=["shop..fruit"])
    refused(person, "not a table pattern: 'shop..fruit'", "write schema.table", code=2, database=shop)
    configure(person, shop)
    refused(person, "no table matches 'nuts'", "means public", "tail", "nuts", database=shop)
    refused(person, "no table matches 'nuts'", "patterns are", "resync", "nuts", code=2, database=shop)


def test_a_column_that_is_not_there(person: Person, shop: Database) -> None:
    configure(person, shop, '[source.columns]\n"shop.fruit" = ["id", "colour"]')
    refused(person, "there is no column 'colour'", "it has id, name", database=shop)
    configure(person, shop, '[source.columns]\n"shop.fruit" = ["name"]')
    refused(person, "leaves out id of the replica identity", "add the column", database=shop)
    configure(person, shop, '[source.filters]\n"shop.fruit" = "colour = 1"')
    refused(person, 'column "colour" does not exist', ".", database=shop)
    configure(person, shop, '[source.columns]\n"shop.nuts" = ["id"]')
    refused(person, "shop.nuts, which is not among the tables", "include and exclude", database=shop)


def test_a_slot_of_another_plugin_or_database(
    person: Person, shop: Database, postgres_factory: Callable[..., PostgresServer]
) -> None:
    configure(person, shop)
    slot = shop.name
    shop.server.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    try:
        refused(
            person, f"slot {slot} belongs to database postgres", "choose another slot name", database=shop
        )
    finally:
        shop.server.execute("select pg_drop_replication_slot(%s)", [slot])
    configure(person, shop, slot="No-Name")
    refused(person, "not a slot name: 'No-Name'", "lower-case", database=shop)
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    configure(person, shop)
    foreign = person.run("run", "--until", "now", code=3)
    assert f"slot {slot} exists, but no checkpoint belongs to it" in foreign.error
    assert "adopt_slot" in foreign.hint
    server = postgres_factory(15)
    server.execute("create table public.a (id int primary key)")
    server.execute("select pg_create_logical_replication_slot('walcast', 'test_decoding')")
    other = Database(server, "postgres")
    configure(person, other, slot="walcast", include=["a"])
    refused(person, "belongs to the output plugin test_decoding", "choose another slot", database=other)


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (
            '[source]\ndsn = ""\npublicaton = "p"\n',
            r"walcast.toml:3: .*'publicaton'",
            "did you mean 'publication'",
        ),
        ("[sorce]\n", r"walcast.toml:1: .*'sorce'", "did you mean 'source'"),
        ("[source]\ndsn = postgresql://x\n", r"not valid TOML: .*line 2", "text needs quotes"),
        ('[pipeline]\nmemory = "64 bananas"\n', r"walcast.toml:2: pipeline.memory: expected a size", ""),
        ('[pipeline]\n\nmemory = "1MB"\n', r"walcast.toml:1: pipeline: memory must be at least 8MB", ""),
        (
            '[source]\nbinary = "atuo"\n',
            r"walcast.toml:2: source.binary: expected one of",
            "did you mean 'auto'",
        ),
        ('[sinks.a]\ntype = "postgrse"\n', r"walcast.toml:2: .*'postgrse'", "did you mean 'postgres'"),
        (
            '[sinks.a]\ntype = "duckdb"\n',
            r"walcast.toml:1: sinks.a.path: this setting is missing",
            "the DuckDB file",
        ),
        ('[sinks.a]\npath = "x"\n', r"walcast.toml:1: sinks.a: which type", 'add type = "..."'),
        ("[sinks]\na = 1\n", r"walcast.toml:2: sinks.a: expected a table", r"write \[sinks.a\]"),
        ('[source]\ndsn = { env = "NOT_SET" }\n', "NOT_SET is not set", "export NOT_SET"),
        ('[source]\ndsn = { file = "none.txt" }\n', r"walcast.toml:2: source.dsn: cannot read none.txt", ""),
    ],
)
def test_a_typo_names_the_line_and_the_nearest_key(person: Person, text: str, says: str, hint: str) -> None:
    person.write(text)
    refused(person, says, hint, "config", "show", code=2)


def test_a_variable_that_means_nothing(person: Person) -> None:
    for name, says, near in (
        ("WALCAST_SOURCE__DNS", "WALCAST_SOURCE__DNS: there is no setting 'dns'", "did you mean 'dsn'"),
        ("WALCAST_SOURCE_DSN", "WALCAST_SOURCE_DSN", "WALCAST_SOURCE__DSN"),
    ):
        refused(person, says, near, "config", "show", code=2, env={name: "x"})


def test_a_port_that_is_taken(person: Person, shop: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        configure(person, shop, f'[http]\nlisten = "127.0.0.1:{port}"')
        refused(person, "the port is taken", "choose another port", database=shop)
    configure(person, shop, '[http]\nlisten = "nine thousand"')
    refused(person, "http.listen: expected host:port", "127.0.0.1:9187", code=2, database=shop)


def test_a_disk_that_is_full(person: Person, shop: Database, tmp_path: Path) -> None:
    refused(
        person, "No space left", "the disk", "init", shop.dsn(), "--force", "-c", "/dev/full", database=shop
    )
    shop.execute("insert into shop.fruit (name) select repeat('pear', 25) from generate_series(1, 5000) n")
    configure(person, shop)
    full = person.run("run", "--until", "now", code=3, file_limit_kb=200)
    assert "disk is full" in full.error
    assert "space" in full.hint
    person.run("run", "--until", "now")  # with room again, it ends where it should
    parts = [path.read_text() for path in (person.folder / "changes").glob("*.jsonl*")]
    lines = "".join(parts).splitlines()
    assert len({json.loads(line)["new"]["id"] for line in lines}) == 5100


def test_a_target_table_that_differs(
    person: Person, shop: Database, make_database: Callable[..., Database]
) -> None:
    copy = make_database(shop.server)
    copy.execute("create schema shop; create table shop.fruit (id bigint primary key, name int)")
    target = f'[sinks.copy]\ntype = "postgres"\ndsn = {json.dumps(copy.dsn(via="tcp"))}\n'
    configure(person, shop, sinks=target)
    answer = person.run("run", "--until", "now", code=5)
    assert "shop.fruit is stopped in sink copy" in answer.error
    assert "name" in answer.error
    assert "walcast resync shop.fruit" in answer.hint
    assert copy.execute("select count(*) from shop.crates") == [(0,)]
    copy.execute("alter table shop.fruit alter name type text")
    person.run("resync", "shop.fruit")
    person.run("run", "--until", "now")
    assert copy.execute("select count(*) from shop.fruit") == [(100,)]


def test_a_target_that_is_wrong(person: Person, shop: Database) -> None:
    wrong = f'[sinks.copy]\ntype = "postgres"\ndsn = {json.dumps(shop.dsn(dbname="nowhere"))}\n'
    configure(person, shop, sinks=wrong)
    answer = person.run("run", "--until", "now", code=3)
    assert "nowhere" in answer.error
    assert "dbname" in answer.hint
    configure(person, shop, sinks="")
    refused(person, "there is no sink", r"add a \[sinks.NAME\] table", code=2)


def test_a_command_line_that_is_wrong(person: Person, shop: Database) -> None:
    configure(person, shop)
    refused(person, "not a token: 'x'", "walcast token", "run", "--until", "x", code=2, database=shop)
    refused(
        person, "there is no sink 'chnages'", "did you mean 'changes'", "wait", "1-1-0/1", "chnages", code=2
    )
    refused(
        person, "the token is of another server", "walcast token", "run", "--until", "1-1-0/1", database=shop
    )
    refused(person, "there is no such file", "walcast init", "-c", "none.toml", "run", code=2, database=shop)
    refused(person, "no pipeline runs", "walcast run", "reload", database=shop)
    refused(person, "changes is not an embedded copy", "ask the store itself", "query", "changes", "select 1")


def test_odd_names_in_patterns_filters_and_commands(
    person: Person, postgres_factory: Callable[..., PostgresServer]
) -> None:
    server = postgres_factory(18)
    database = 'My "db" 🍏 %'
    server.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
    server.execute(
        'create schema "Odd.Schema"; create table "Odd.Schema"."Order ""Item""" (id int primary key, "Select" int, gone int);'
        'insert into "Odd.Schema"."Order ""Item""" select n, n, n from generate_series(1, 10) n;'
        'create table "Odd.Schema".other (id int primary key)',
        database=database,
    )
    pattern = '"Odd.Schema"."Order ""Item"""'
    person.write(
        f"[pipeline]\nname = 'my \"pipe\" 🍏'\n"
        f"[source]\ndsn = {json.dumps(server.dsn(database), ensure_ascii=False)}\ninclude = ['{pattern}']\n"
        "publication = 'its \"all\" 🍏'\n"
        f"[source.filters]\n'{pattern}' = '\"id\" > 5'\n[source.columns]\n'{pattern}' = ['id', 'Select']\n"
        "[sinks.\"the 🍏 lake\"]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
    )
    assert "ready to run" in person.run("config", "check").out
    person.run("run", "--until", "now")
    select = 'select count(*) as n, min("Select") as least from "Odd.Schema"."Order ""Item"""'
    assert person.run("query", "the 🍏 lake", select).out.split() == ["n", "least", "5", "6"]
    person.run("resync", pattern)
    person.run("run", "--until", "now")
    assert person.run("query", "the 🍏 lake", select).out.split() == ["n", "least", "5", "6"]
    assert "membership" in person.run("doctor", "the 🍏 lake", "--json", code=6).json["passed"]
    assert [sink["name"] for sink in person.run("status", "--json").json["sinks"]] == ["the 🍏 lake"]
