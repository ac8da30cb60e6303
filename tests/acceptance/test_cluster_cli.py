"""`walcast cluster` as a person uses it, rightly and wrongly."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests import cluster_tools as tools
from tests.acceptance.person import Person

from walcast.cluster.local import LocalCluster
from walcast.testing import PostgresServer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody with a cluster of one replica, for all tests of this file."""
    base = tmp_path_factory.mktemp("operator")
    somebody = Person.at(base / "w", tmp_path_factory.getbasetemp().parent / "compiled")
    try:  # also what a birth that failed has left
        somebody.run("cluster", "up", "--replicas", "1", "--port", str(tools.port_for(2)), timeout=120)
        somebody.secrets += json.loads((folder_of(somebody) / "secrets.json").read_text()).values()
        yield somebody
    finally:
        somebody.leave()


@pytest.fixture
def operator(home: Person) -> Person:
    """With the cluster up and well."""
    home.run("cluster", "up")
    return home


def folder_of(person: Person) -> Path:
    return Path(person.environment["WALCAST_CLUSTER_DIR"])


def test_status_tells_the_truth_and_its_exit_code_too(operator: Person) -> None:
    shown = operator.run("cluster", "status", "--json").json
    assert shown["primary"] == "node1"
    assert shown["guarantee"]["commits"] == "flow"
    assert [node["role"] for node in shown["nodes"]] == ["primary", "replica"]
    assert shown["nodes"][1]["lag"]["seconds"] == 0
    operator.run("cluster", "kill", "node2")
    answer = operator.run("cluster", "status", code=3)
    assert "Commits WAIT: 1 of 1 must flush a commit, 0 can. Node2 is down." in answer.out
    assert operator.run("cluster", "stop", "node1", "--dry-run").out == "  1. stop node1\n"
    operator.run("cluster", "start", "node2")
    operator.run("cluster", "kill", "primary")
    answer = operator.run("cluster", "status", code=3)
    assert "walcast cluster start node1 brings it back; walcast cluster promote node2" in answer.out
    operator.run("cluster", "up")
    operator.run("cluster", "status")


def test_env_and_psql_lead_to_the_right_nodes_and_show_no_password(operator: Person) -> None:
    shown = operator.run("cluster", "env", "--json").json
    assert list(shown) == ["PRIMARY_DSN", "REPLICA1_DSN"]
    with psycopg.connect(shown["PRIMARY_DSN"]) as connection:
        row = connection.execute("select current_user, current_database(), pg_is_in_recovery()").fetchone()
    assert row == ("app", "app", False)
    assert operator.run("cluster", "psql", "replica1", "-Atc", "show cluster_name").out == "node2\n"
    secrets, operator.secrets = operator.secrets, []  # asked for, they are shown
    assert any(secret in operator.run("cluster", "env", "--passwords").out for secret in secrets)
    operator.secrets = secrets
    operator.run("cluster", "logs", "-n", "2000")
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = process.read_bytes().decode(errors="replace")
        except OSError:
            continue
        assert not any(secret in title for secret in secrets)


def test_an_interrupted_command_is_taken_up(operator: Person) -> None:
    for arguments in (["add"], ["rejoin", "node2", "--clone"]):
        started = operator.start("cluster", *arguments)
        started.says("base backup")
        started.process.send_signal(signal.SIGINT if arguments == ["add"] else signal.SIGKILL)
        started.process.wait(30)
        operator.run("cluster", "up")
        operator.run("cluster", "status")
    operator.run("cluster", "remove", "node3", "--yes")


def test_what_cannot_be_is_refused_with_a_way_out(operator: Person) -> None:
    for arguments, code, message in (
        (["up", "--pg", "16"], 2, "of PostgreSQL 18"),
        (["up", "--replicas", "3"], 2, "has 1 replicas"),
        (["up", "--archive"], 2, "made without --archive"),
        (["profile", "paranoid"], 2, "no profile 'paranoid'"),
        (["profile", "any:2"], 2, "waits for 2 replicas, there are 1"),
        (["stop", "node7"], 2, "no node 'node7'"),
        (["delay", "node2", "soon"], 2, "is not a time"),
        (["pause", "primary"], 3, "a replica only"),
        (["remove", "primary", "--yes"], 3, "cannot be removed"),
        (["promote", "replica1"], 3, "is alive"),
        (["promote", "primary"], 3, "is the primary"),
        (["rejoin", "primary", "--clone"], 3, "nothing to rejoin"),
        (["remove", "replica1", "--yes"], 2, "waits for 1 replicas, there are 0"),
    ):
        answer = operator.run("cluster", *arguments, code=code)
        assert message in answer.error, arguments
        assert answer.hint, arguments
    operator.run("cluster", "status")


def test_a_forced_promotion_says_what_is_lost_and_loses_that(operator: Person) -> None:
    def rows(part: str) -> list[int]:
        dsn = operator.run("cluster", "env", "--json").json[part]
        with psycopg.connect(dsn) as connection:
            return [n for (n,) in connection.execute("select n from kept order by n")]

    for profile in ("sync", "remote-apply"):  # with one replica two profiles are the same settings
        operator.run("cluster", "profile", profile)
        assert f"profile  {profile}\n" in operator.run("cluster", "status").out
    primary = operator.run("cluster", "env", "--json").json["PRIMARY_DSN"]
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("create table kept (n int)")
        connection.execute("insert into kept values (0)")
        operator.run("cluster", "profile", "async")
        operator.run("cluster", "cut", "replica1")
        for number in (1, 2, 3):
            connection.execute("insert into kept values (%s)", [number])
    said = r"lost with node1: [3-9] commits of node1 that node2 does not have \([\d,]+ bytes of WAL after 0/"
    answer = operator.run("cluster", "promote", "replica1", "--force", "--dry-run")
    assert re.search(said, answer.err)
    assert "1. kill node1 (fenced: it must take no more writes)" in answer.out
    answer = operator.run("cluster", "promote", "replica1", "--force", stdin="n\n", code=2)
    assert "nothing was done" in answer.err
    assert rows("PRIMARY_DSN") == [0, 1, 2, 3]
    answer = operator.run("cluster", "promote", "replica1", "--force", "--yes")
    assert re.search(said, answer.err)
    assert rows("PRIMARY_DSN") == [0]
    answer = operator.run("cluster", "start", "node1", code=3)
    assert "what it wrote last may be its alone" in answer.error
    operator.run("cluster", "rejoin", "node1")
    operator.run("cluster", "switchover", "node1")
    operator.run("cluster", "profile", "semi-sync")
    operator.run("cluster", "status")
    assert rows("PRIMARY_DSN") == rows("REPLICA1_DSN") == [0]
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("drop table kept")


def test_a_new_copy_that_cannot_be_made_costs_nothing(operator: Person) -> None:
    plan = operator.run("cluster", "rejoin", "node2", "--clone", "--dry-run").out
    assert plan.splitlines()[0] == "  1. kill node2"
    assert "copy node1 to node2 (base backup)" in plan
    change = "alter role replicator password {}"
    operator.run("cluster", "psql", "primary", "-qc", change.format("'another'"))
    answer = operator.run("cluster", "rejoin", "node2", "--clone", code=3)
    assert 'password authentication failed for user "replicator"' in answer.error
    kept = json.loads((folder_of(operator) / "secrets.json").read_text())["replicator"]
    with psycopg.connect(
        operator.run("cluster", "env", "--json").json["PRIMARY_DSN"], user="postgres", autocommit=True
    ) as connection:
        connection.execute("set synchronous_commit = local")  # nobody is there to wait for
        connection.execute(sql.SQL("alter role replicator password {}").format(kept))
    answer = operator.run("cluster", "up")
    assert "base backup" not in answer.err  # the old data are still good
    operator.run("cluster", "kill", "primary")
    answer = operator.run("cluster", "rejoin", "node2", "--clone", code=3)
    assert "nothing to copy to node2" in answer.error


def test_a_port_that_is_taken_is_named_and_the_cluster_can_move(operator: Person) -> None:
    operator.run("cluster", "down")
    port = LocalCluster.open(folder_of(operator)).desired.node("node2").port
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody has it: all the better
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        answer = operator.run("cluster", "up", code=3)
        assert f"port {port} of node2 is taken" in answer.error
        operator.run("cluster", "up", "--new-ports")
    assert LocalCluster.open(folder_of(operator)).desired.node("node2").port != port
    operator.run("cluster", "status")


def test_folders_that_are_not_a_clusters_are_left_alone(person: Person, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    answer = person.run("cluster", "up", "--dir", str(tmp_path), code=3)
    assert "not a cluster's folder" in answer.error
    assert "no cluster in" in person.run("cluster", "status", "--dir", str(tmp_path), code=2).error
    assert "no cluster in" in person.run("cluster", "destroy", "--yes", "--dir", str(tmp_path), code=2).error
    assert [path.name for path in tmp_path.iterdir() if path.name != "w" and path.name != "lock"] == [
        "precious"
    ]
    folder = folder_of(person)
    if os.geteuid() == 0:
        os.chown(folder, 65534, -1)
        assert "belongs to somebody else" in person.run("cluster", "up", code=3).error
        assert not list(folder.iterdir())
        os.chown(folder, 0, -1)
    (folder / "cluster.json").write_text("{")
    assert "not JSON" in person.run("cluster", "status", code=2).error
    (folder / "cluster.json").unlink()
    answer = person.run("cluster", "up", "--pg", str(tmp_path), code=3)
    assert "no server programs" in answer.error
    answer = person.run("cluster", "up", "--pg", "9", code=3)
    assert "install postgresql-9" in answer.hint
    answer = person.run("cluster", "up", "--port", "70000", code=2)
    assert "out of range" in answer.error


def test_a_person_has_a_profile_proved(person: Person) -> None:
    answer = person.run(
        "cluster", "prove", "sync", "--only", "one-stopped", "--only", "well", "--json", timeout=120
    )
    assert answer.json["proved"]
    assert [result["flow"] for result in answer.json["results"]] == ["flows", "waits"]
    assert answer.json["results"][1]["waited"] > 0
    assert "one replica is stopped" in answer.err
    shown = json.dumps(answer.json)
    assert "any 2 of them" in shown
    assert person.run("cluster", "prove", "sync", "--only", "luck", code=2).hint.startswith(
        "well, one-stopped"
    )


def test_servers_that_are_there_are_attached_and_forgotten(person: Person, server: PostgresServer) -> None:
    shown = person.run("cluster", "attach", server.dsn(via="tcp"), "--json").json
    assert shown["nodes"][0]["role"] == "primary"
    assert shown["wanted"] is None
    assert "primary" in person.run("cluster", "status").out
    assert "PRIMARY_DSN" in person.run("cluster", "env").out
    assert person.run("cluster", "psql", "primary", "-Atc", "select 6 * 7").out == "42\n"
    assert "* async" in person.run("cluster", "profile").out
    assert "looking only" in person.run("cluster", "profile", "async", code=3).error
    assert "are attached" in person.run("cluster", "stop", "primary", code=3).error
    assert "are attached" in person.run("cluster", "up", code=3).error
    person.run("cluster", "detach")
    assert "no cluster in" in person.run("cluster", "status", code=2).error
