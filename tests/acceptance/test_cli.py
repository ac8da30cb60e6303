"""The command line as a person uses it: the installed program, real servers, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.acceptance.person import Background, Person

import walcast
from walcast.app import registry
from walcast.cli import output
from walcast.cli.main import cli
from walcast.testing.postgres import Database

CONFIG = """
[source]
dsn = {dsn}
slot = "{slot}"
include = ["shop.*"]

[sinks.lake]
type = "duckdb"
path = "copy.duckdb"

[sinks.changes]
type = "jsonl"
directory = "changes"
"""


def configure(person: Person, shop: Database, dsn: str, more: str = "") -> None:
    """Both copies, through a slot named after the database: slots are the server's, and tests share it."""
    text = CONFIG.format(dsn=json.dumps(dsn), slot=shop.name)
    person.write(text + more)


def running(person: Person, *arguments: str) -> Background:
    """A pipeline in the background that has its copies and follows the stream."""
    pipeline = person.start("run", *arguments)
    pipeline.says(r"stream_begins.*(lake.*changes|changes.*lake).*\n.*stream_opened")
    return pipeline


def slots(shop: Database) -> list[tuple[str, str]]:
    return shop.execute(  # type: ignore[return-value]  # two texts
        "select slot_name, confirmed_flush_lsn::text from pg_replication_slots"
        " where database = %s and confirmed_flush_lsn is not null",  # null while it is being made
        [shop.name],
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_from_nothing_to_a_copy(person: Person, shop: Database, secret_dsn: str) -> None:
    made = person.run("init", secret_dsn, "--tables", "shop.*", "--sink", "duckdb")
    assert "wrote walcast.toml: 2 tables of" in made.out
    path = person.folder / "walcast.toml"
    assert path.stat().st_mode & 0o077 == 0, "it holds a password"
    assert "exists already" in person.run("init", secret_dsn, code=2).error
    assert person.run("init", secret_dsn, "--force", "--tables", "shop.*", "--sink", "duckdb", "--json").json[
        "tables"
    ] == ["shop.crates", "shop.fruit"]
    text = path.read_text().replace('# slot = "walcast"', f'slot = "{shop.name}"')
    path.write_text(text)

    assert "ready to run" in person.run("config", "check").out
    assert person.run("config", "check", "--json").json["findings"][0]["name"] == "unlimited_wal"
    shown = person.run("config", "show").out
    assert 'dsn = "****"' in shown
    assert 'memory = "64MB"' in shown
    assert person.run("--json", "config", "show").json["sinks"]["duckdb"]["path"] == "copy.duckdb"

    assert "no such slot yet" in person.run("status").out
    assert "no copy yet" in person.run("query", "duckdb", "select 1", code=3).error
    assert not (person.folder / ".walcast").exists(), "asking makes nothing"
    person.run("run", "--until", "now")
    assert person.run("query", "duckdb", "select count(*) as n from shop.fruit").out.split() == ["n", "100"]
    rows = person.run("query", "duckdb", "select id, name from shop.fruit order by id limit 1", "--json").json
    assert rows == [{"id": "1", "name": "fruit 1"}]

    status = person.run("status", "--json").json
    assert status["running"] is False
    assert status["sinks"][0]["checkpoint"]["through"] == slots(shop)[0][1]
    assert max(map(len, person.run("status").out.splitlines()[2:])) <= 80
    token = person.run("token").out.strip()
    shop.execute("insert into shop.fruit (name) values ('late')")
    assert (
        "no pipeline runs"
        in person.run("wait", "--timeout", "0", person.run("token").out.strip(), code=3).error
    )
    person.run("run", "--until", person.run("token").out.strip())
    assert person.run("wait", token).out == "duckdb: has it\n"
    assert person.run("query", "duckdb", "select name from shop.fruit where id = 101").out.split() == [
        "name",
        "late",
    ]


def test_a_running_pipeline_answers(person: Person, shop: Database, secret_dsn: str) -> None:
    port = free_port()
    configure(person, shop, secret_dsn, f'[http]\nlisten = "127.0.0.1:{port}"\n[log]\nformat = "json"\n')
    pipeline = running(person)
    shop.execute("insert into shop.fruit (name) values ('quince')")
    token = person.run("token", "--json").json
    assert person.run("wait", token["token"], "--json").json["reached"] == {"lake": True, "changes": True}
    assert person.run("wait", token["token"], "lake").out == "lake: has it\n"
    with shop.connect() as connection:  # a token of an application's own, and the wait as a library call
        own = walcast.take_token(connection)
    with contextlib.chdir(person.folder):
        assert asyncio.run(walcast.wait(own)) == {"lake": True, "changes": True}
    assert person.run("query", "lake", "select count(*) from shop.fruit").out.split()[1] == "101"

    status = person.run("status")
    assert "running" in status.out
    assert max(map(len, status.out.splitlines()[2:])) <= 80
    sinks = {sink["name"]: sink for sink in person.run("status", "--json").json["sinks"]}
    assert {sink["state"] for sink in sinks.values()} == {"streaming"}
    assert sinks["lake"]["rows"] == 101

    code, metrics = get(port, "/metrics")
    assert code == 200
    assert 'walcast_rows_total{sink="lake",table="shop.fruit",op="insert"} 1\n' in metrics
    assert 'walcast_latency_seconds_bucket{sink="lake",le="+Inf"} ' in metrics
    counts = [line for line in metrics.splitlines() if line.startswith("walcast_latency_seconds_count")]
    assert all(int(line.split()[-1]) > 0 for line in counts)
    assert get(port, "/livez") == (200, "ok\n")
    code, ready = get(port, "/readyz")
    assert (code, json.loads(ready)["state"]) == (200, "running")
    assert get(port, "/")[0] == 404

    shop.execute("create table shop.nuts (id int primary key); insert into shop.nuts values (1)")
    assert "extended publication" in person.run("reload").out
    shop.execute("insert into shop.nuts values (2)")
    assert (
        person.run("resync", "shop.fruit", "--sink", "lake").out
        == "lake: shop.fruit comes chunk by chunk, beside the stream\n"
    )
    pipeline.says('"event": "table_copied", "sink": "changes", "table": "shop.nuts"')
    person.run("wait", person.run("token").out.strip())
    query = "select (select count(*) from shop.nuts), (select count(*) from shop.fruit)"
    assert person.run("query", "lake", query).out.splitlines()[1].split() == ["2", "101"]

    configure(person, shop, secret_dsn, f'[http]\nlisten = "127.0.0.1:{port}"\n[log]\nlevel = "error"\n')
    pipeline.process.send_signal(signal.SIGHUP)
    pipeline.says("reloaded")

    assert pipeline.stop() == 0
    for line in pipeline.err.read_text().splitlines()[:10]:
        assert {"time", "level", "logger", "event"} <= set(json.loads(line))


def test_a_stopped_pipeline_has_nothing_to_redo(person: Person, shop: Database, secret_dsn: str) -> None:
    configure(person, shop, secret_dsn)
    pipeline = running(person)
    shop.execute("insert into shop.fruit (name) select 'more ' || n from generate_series(1, 5000) n")
    time.sleep(0.2)
    assert pipeline.stop(signal.SIGINT) == 0
    status = person.run("status", "--json").json
    through = {sink["name"]: sink["checkpoint"]["through"] for sink in status["sinks"]}
    assert set(through.values()) == {slots(shop)[0][1]}, "confirmed where both copies stand"
    assert person.run("run", "--until", "now", "--json").json["sinks"][0]["name"] == "lake"
    ordinals = [json.loads(line)["ordinal"] for line in _lines(person) if '"op":"insert"' in line]
    assert ordinals == list(range(1, 5001)), "each change once, in order"


def _lines(person: Person) -> list[str]:
    files = sorted((person.folder / "changes").glob("*.jsonl*"))
    return [line for file in files for line in file.read_text().splitlines()]


def test_a_hot_spare_takes_over(person: Person, shop: Database, secret_dsn: str) -> None:
    port = free_port()
    configure(person, shop, secret_dsn, f'[http]\nlisten = "127.0.0.1:{port}"\n')
    first = running(person)
    refused = person.run("run", "--no-standby", code=3)
    assert f"another process ({first.process.pid})" in refused.error
    spare = person.start("run")
    time.sleep(1.5)
    assert spare.process.poll() is None
    first.process.kill()
    first.process.wait()
    spare.says("stream_opened")
    shop.execute("insert into shop.fruit (name) values ('after')")
    person.run("wait", person.run("token").out.strip())
    assert person.run("query", "lake", "select count(*) from shop.fruit").out.split()[1] == "101"
    assert get(port, "/readyz")[0] == 200
    assert spare.stop() == 0


def test_another_state_directory_is_told_who_reads_the_slot(
    person: Person, shop: Database, secret_dsn: str
) -> None:
    configure(person, shop, secret_dsn)
    pipeline = running(person)
    elsewhere = {"WALCAST_PIPELINE__STATE_DIR": "other", "WALCAST_SINKS__LAKE__PATH": "other.duckdb"}
    refused = person.run("run", "--no-standby", code=3, env=elsewhere)
    assert f"slot {shop.name} is in use by pid" in refused.error
    assert "walcast:walcast" in refused.error
    assert pipeline.stop() == 0


def test_tail_disturbs_nothing(person: Person, shop: Database, secret_dsn: str) -> None:
    configure(person, shop, secret_dsn)
    everything = person.start("tail", "--dsn", secret_dsn)
    crates = person.start("tail", "shop.crates", "--limit", "2", "--dsn", secret_dsn)
    title = Path(f"/proc/{everything.process.pid}/cmdline")
    _until(lambda: len(slots(shop)) == 2)
    assert shop.server.password not in title.read_text()
    assert person.run("slot", "list", "--json").json
    shop.execute(
        "insert into shop.fruit (name) values ('quince'); insert into shop.crates values (1, 1), (2, 1)"
    )
    said = everything.says('"table":"crates"')
    assert json.loads(said.splitlines()[0])["new"] == {"id": 101, "name": "quince"}
    assert crates.wait() == 0
    assert [json.loads(line)["key"] for line in crates.out.read_text().splitlines()] == [{"id": 1}, {"id": 2}]
    assert everything.stop() == 143
    assert slots(shop) == []
    assert shop.execute("select pubname from pg_publication") == []
    assert person.run("tail", "--seconds", "0.5").out == ""
    assert not (person.folder / ".walcast").exists()


def _until(condition: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_pipe_that_closes_ends_tail_quietly(person: Person, shop: Database, secret_dsn: str) -> None:
    configure(person, shop, secret_dsn)
    reader = person.start("tail")
    _until(lambda: len(slots(shop)) == 1)
    assert reader.stop(signal.SIGINT) == 130
    _until(lambda: slots(shop) == [])
    piped = subprocess.Popen(
        ["bash", "-c", "walcast tail | head -1; echo ${PIPESTATUS[0]}"],
        cwd=person.folder,
        env=person.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _until(lambda: len(slots(shop)) == 1)
    deadline = time.monotonic() + 20
    while piped.poll() is None and time.monotonic() < deadline:
        shop.execute("insert into shop.fruit (name) values ('more')")
        time.sleep(0.2)
    out, err = piped.communicate(timeout=5)
    person.check(out + err)
    assert out.splitlines()[1] == "0"
    assert err == ""


def test_slots_and_publications_by_hand(person: Person, shop: Database, secret_dsn: str) -> None:
    configure(person, shop, secret_dsn)
    assert person.run("publication", "create").out.startswith("created publication walcast")
    assert "adopted" in person.run("publication", "create").out
    listed = person.run("publication", "list", "--json").json
    assert listed[0]["tables"] == ["shop.crates", "shop.fruit"]
    assert "walcast" in person.run("publication", "list").out
    assert person.run("slot", "create").out.startswith(f"created {shop.name} at ")
    assert "already exists" in person.run("slot", "create", code=3).error
    assert shop.name in person.run("slot", "list").out
    person.run("slot", "create", f"{shop.name}_b")

    person.run("run", "--until", "now")  # the slot made by hand is ours: it is followed, without a snapshot
    assert "nothing was done" in person.run("slot", "drop", code=2, stdin="n\n").err
    assert person.run("slot", "drop", "--yes", "--json").json == {"dropped": shop.name}
    assert person.run("slot", "drop", f"{shop.name}_b", stdin="y\n").out == f"dropped {shop.name}_b\n"
    assert "there is no slot" in person.run("slot", "drop", "--yes", code=3).error
    assert person.run("publication", "drop", "--yes").out == "dropped walcast\n"
    assert "there is no publication" in person.run("publication", "drop", "--yes", code=3).error
    assert slots(shop) == []

    lost = person.run("run", "--until", "now", code=3)
    assert "the slot is gone" in lost.error
    assert "walcast resync --all" in lost.hint
    assert "every table will be copied anew" in person.run("resync", "--all").out
    person.run("run", "--until", "now")
    assert person.run("query", "lake", "select count(*) from shop.fruit").out.split()[1] == "100"


def test_every_way_to_say_where_the_database_is(person: Person, shop: Database, secret_dsn: str) -> None:
    password, port = shop.server.password, str(shop.server.port)
    uri = f"postgresql://postgres:{password}@127.0.0.1:{port}/{shop.name}"
    home = Path(person.environment["HOME"])
    pgpass = home / ".pgpass"
    pgpass.write_text(f"127.0.0.1:{port}:*:postgres:{password}\n")
    pgpass.chmod(0o600)
    service = f"[shop]\nhost=127.0.0.1\nport={port}\ndbname={shop.name}\nuser=postgres\n"
    (home / ".pg_service.conf").write_text(service)
    token = person.run("token", env={"WALCAST_SOURCE__DSN": uri}).out[:16]  # no file at all
    person.write(f"{uri}\n", "dsn.txt")
    bare = f"host=127.0.0.1 port={port} dbname={shop.name} user=postgres"
    ways: dict[str, dict[str, str]] = {
        'dsn = { env = "SHOP" }': {"SHOP": secret_dsn},
        'dsn = { file = "dsn.txt" }': {},
        "": {"PGSERVICE": "shop"},
        'dsn = "service=shop"': {},
        f"dsn = {json.dumps(bare)}": {},
        'dsn = ""': {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "postgres", "PGDATABASE": shop.name},
        'dsn = "host=nowhere.invalid"': {"WALCAST_SOURCE__DSN": bare},
    }
    for written, environment in ways.items():
        person.write(f"[source]\n{written}\n")
        assert person.run("token", env=environment).out[:16] == token, written
    assert person.run("-c", "none.toml", "token", code=2).hint == "make one with: walcast init"
    pgpass.unlink()
    refused = person.run("token", "--json", code=3, env={"WALCAST_SOURCE__DSN": bare})
    assert ".pgpass" in json.loads(refused.err)["hint"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(person: Person, shell: str) -> None:
    script = person.run("completion", shell).out
    assert "_WALCAST_COMPLETE" in script
    if shell == "bash":
        words = {"COMP_WORDS": "walcast pub", "COMP_CWORD": "1", "_WALCAST_COMPLETE": "bash_complete"}
        assert "publication" in person.run(env=words).out
        person.write(
            "[source]\ndsn = ''\n[sinks.lake]\ntype = 'duckdb'\npath = 'x'\n[sinks.log]\ntype = 'jsonl'\npath = 'y'\n"
        )
        for line in ("verify ", "wait 0/1 ", "dead list --sink ", "doctor l", "-c walcast.toml query "):
            said = f"walcast {line}"
            words = {
                "COMP_WORDS": said,
                "COMP_CWORD": str(len(said.split(" ")) - 1),
                "_WALCAST_COMPLETE": "bash_complete",
            }
            assert person.run(env=words).out.split() == ["plain,lake", "plain,log"], line


def test_help_teaches(person: Person) -> None:
    top = " ".join(person.run("--help").out.split())
    for code, meaning in output.EXIT_CODES.items():
        assert f"{code} {meaning}" in top, "wrapped, but whole"
    for path, command in commands(cli):
        text = CliRunner().invoke(cli, [*path, "--help"]).output
        assert text.startswith(f"Usage: cli {' '.join(path)} ")
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)
                assert parameter.opts[-1] in text
    assert "Did you mean 'status'?" in person.run("stauts", code=2).err
    assert person.run("--version").out == f"walcast, version {walcast.__version__}\n"


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_sinks_are_listed_with_their_settings(person: Person) -> None:
    listed = person.run("sinks").out
    assert [line.split()[0] for line in listed.splitlines()] == ["type", *registry.SINKS]
    assert "memory_limit" in person.run("sinks", "duckdb").out
    assert {item["setting"] for item in person.run("sinks", "jsonl", "--json").json} >= {
        "directory",
        "compress",
    }
    assert "did you mean 'duckdb'?" in person.run("sinks", "duckbd", code=2).hint


def test_a_defect_is_one_line(person: Person, shop: Database, secret_dsn: str) -> None:
    """A sink of somebody else's that breaks while it is made."""
    site = person.folder / "site"
    info = site / "broken-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[walcast.sinks]\nbroken = broken:Sink\n")
    (site / "broken.py").write_text("class Sink:\n    def __init__(self, config: 'Nowhere', context): ...\n")
    environment = {"PYTHONPATH": str(site)}
    said = person.run("sinks", "broken", code=1, env=environment)
    assert said.err.startswith("error: internal: NameError at ")
    assert "--log-level debug" in said.hint
    with pytest.raises(AssertionError, match="Traceback"):
        person.run("--log-level", "debug", "sinks", "broken", code=1, env=environment)


def test_a_table_that_stops_is_in_status_and_exit_code(
    person: Person, shop: Database, secret_dsn: str
) -> None:
    configure(person, shop, secret_dsn)
    shop.execute(
        "alter table shop.crates add column price numeric(6, 2); insert into shop.crates values (1, 1, 'NaN')"
    )
    stopped = person.run("run", "--until", "now", code=5)
    assert "shop.crates is stopped in sink lake" in stopped.error
    status = person.run("status", code=5)
    assert "stopped: shop.crates in lake" in status.out
    assert person.run("query", "lake", "select count(*) from shop.fruit").out.split()[1] == "100"
    shop.execute("update shop.crates set price = 1")
    person.run("resync", "shop.crates", "--sink", "lake")
    person.run("run", "--until", "now")
    assert person.run("query", "lake", "select price from shop.crates").out.split()[1] == "1.00"
