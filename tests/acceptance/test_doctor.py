"""`walcast doctor` as a person uses it: what it says, its exit codes, and what --fix does."""

from __future__ import annotations

import json
import signal
import time

import pytest
from tests.acceptance.person import Person

from walcast.testing.postgres import Database


@pytest.fixture
def configured(person: Person, shop: Database, secret_dsn: str) -> Person:
    person.write(
        f"[source]\ndsn = {json.dumps(secret_dsn)}\nslot = '{shop.name}'\ninclude = ['shop.*']\n"
        "[sinks.lake]\ntype = 'duckdb'\npath = 'copy.duckdb'\n"
    ).chmod(0o600)
    return person


def test_what_it_says_and_how_it_ends(configured: Person, shop: Database) -> None:
    person = configured
    said = person.run("doctor", "--only", "identity", "--only", "files").out
    assert "✓ identity, files" in said
    assert "all is well" in said
    answer = person.run("doctor", "--only", "retention", code=6)
    assert "! retention: max_slot_wal_keep_size is unlimited" in answer.out
    assert "→ alter system set max_slot_wal_keep_size" in answer.out
    shop.execute("create table shop.bare (x int)")
    report = person.run("doctor", "--json", code=3).json
    assert report["worst"] == "error"
    named = {finding["name"]: finding for finding in report["findings"]}
    assert named["no_replica_identity"]["check"] == "identity"
    assert "shop.bare" in named["no_replica_identity"]["message"]
    assert {"connection", "tls", "targets"} <= set(report["passed"])
    assert not (person.folder / ".walcast").exists(), "asking makes nothing"
    assert "did you mean 'wal'?" in person.run("doctor", "--only", "wall", code=2).hint
    assert "did you mean 'lake'?" in person.run("doctor", "lak", code=2).hint
    assert "foreign_keys" in person.run("doctor", "--list").out


def test_a_source_that_is_down_is_said_once_and_the_rest_is_looked_at(configured: Person) -> None:
    path = configured.folder / "walcast.toml"
    path.write_text(path.read_text().replace("dbname=t_", "dbname=gone_"))
    report = configured.run("doctor", "--json", code=3).json
    assert [finding["check"] for finding in report["findings"] if finding["level"] == "error"] == [
        "connection"
    ]
    assert "wal" in report["skipped"]
    assert "targets" in report["passed"]


def test_what_is_safe_is_done_after_asking(configured: Person, shop: Database) -> None:
    person, path = configured, configured.folder / "walcast.toml"
    path.chmod(0o644)
    answer = person.run("doctor", "--only", "files", "--fix", stdin="n\n", code=3)
    assert "chmod 600 walcast.toml?" in answer.err
    assert path.stat().st_mode & 0o077
    assert "say --fix --yes" in person.run("doctor", "--fix", "--json", code=2).err
    assert person.run("doctor", "--only", "files", "--fix", "--yes", "--json").json["fixed"] == [
        "chmod 600 walcast.toml"
    ]
    assert not path.stat().st_mode & 0o077
    assert "nothing that --fix can do" in person.run("doctor", "--only", "files", "--fix").out


def test_beside_a_running_pipeline_it_asks_that_one(configured: Person, shop: Database) -> None:
    pipeline = configured.start("run")
    pipeline.says("stream_opened")
    report = configured.run("doctor", "--json", code=6).json
    assert not {"not_running", "slot_in_use"} & {finding["name"] for finding in report["findings"]}
    assert {"pipeline", "sinks", "checkpoints", "slot"} <= set(report["passed"])
    pipeline.stop()


def test_a_tail_that_was_killed_leaves_nothing_for_long(configured: Person, shop: Database) -> None:
    def publications() -> list[str]:
        return [name for (name,) in shop.execute("select pubname from pg_publication order by 1")]

    killed = configured.start("tail")
    while not shop.execute("select 1 from pg_replication_slots where database = %s and active", [shop.name]):
        time.sleep(0.05)
    (left,) = publications()
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    while shop.execute(
        "select 1 from pg_stat_activity where application_name like '%%:tail%%' and datname = %s", [shop.name]
    ):
        time.sleep(0.05)
    assert publications() == [left]
    following = configured.start("tail")
    while left in publications() or not publications():
        time.sleep(0.05)
    assert left not in publications()
    following.stop(signal.SIGINT)
    assert publications() == []


def test_rows_that_were_set_aside_are_told(configured: Person, shop: Database) -> None:
    path = configured.folder / "walcast.toml"
    path.write_text(path.read_text() + "on_data_error = 'set_aside'\n")
    shop.execute("create table shop.prices (id int primary key, amount numeric(8, 2))")
    configured.run("run", "--until", "now")
    assert "dead_letters" in configured.run("doctor", "--json", code=6).json["passed"]
    shop.execute("insert into shop.prices values (1, 'NaN'), (2, 3)")
    configured.run("run", "--until", "now")
    for running in (False, True):
        if running:
            pipeline = configured.start("run")
            pipeline.says("stream_opened")
        findings = configured.run("doctor", "--json", code=6).json["findings"]
        (finding,) = [finding for finding in findings if finding["name"] == "dead_letters"]
        assert (finding["where"], finding["level"]) == ("lake", "warning")
        assert "1 row was set aside, of shop.prices" in finding["message"]
        assert finding["since"] is not None
    pipeline.stop()
