"""Dead letters from the command line, of a pipeline that runs and of one that does not."""

from __future__ import annotations

import json

import pytest
from tests.acceptance.person import Person
from tests.acceptance.test_cli import running

from walcast.testing.postgres import Database

CONFIG = """
[source]
dsn = {dsn}
slot = "{slot}"
include = ["shop.*"]

[sinks.lake]
type = "duckdb"
path = "copy.duckdb"
on_data_error = "set_aside"

[sinks.changes]
type = "jsonl"
directory = "changes"
"""
BAD = "insert into shop.prices values (1, 'NaN'), (2, 2)"
MENDED = "update shop.prices set amount = 5 where id = 1"


@pytest.fixture
def priced(person: Person, shop: Database, secret_dsn: str) -> Database:
    shop.execute("create table shop.prices (id int primary key, amount numeric(5, 2))")
    person.write(CONFIG.format(dsn=json.dumps(secret_dsn), slot=shop.name))
    return shop


def test_while_the_pipeline_runs(person: Person, priced: Database) -> None:
    pipeline = running(person)
    for statement in (BAD, MENDED):  # not in one batch: there only the last state of a row counts
        priced.execute(statement)  # type: ignore[arg-type]  # constants
        person.run("wait", person.run("token").out.strip())
    said = person.run("dead", "list").out
    assert "column amount: a numeric that decimal(5,2) cannot hold" in said
    assert "NaN" not in said
    first, second = person.run("dead", "list", "--sink", "lake", "--json").json
    assert (first["table"], first["keys"], first["kind"], first["attempts"]) == (
        "shop.prices",
        ['["1"]'],
        "data",
        1,
    )
    assert (second["change"], second["kind"]) == ("update", "behind")
    assert person.run("dead", "show", "lake", "1", "--json").json["row"]["new"] == {"id": 1, "amount": "NaN"}
    assert "2 rows set aside" in person.run("status").out
    again = person.run("dead", "retry", "lake", "2", "--json", code=3).json
    assert [item["outcome"] for item in again] == ["refused", "waits"]
    assert person.run("dead", "drop", "lake", "1", "--yes").out == "dropped 1\n"
    assert person.run("dead", "retry", "lake", "--all").out == "2: applied\n"
    assert person.run("dead", "list").out == "no dead letters\n"
    assert person.run("query", "lake", "select id, amount from shop.prices order by id", "--json").json == [
        {"id": "1", "amount": "5.00"},
        {"id": "2", "amount": "2.00"},
    ]
    assert pipeline.stop() == 0


def test_while_it_does_not(person: Person, priced: Database) -> None:
    assert person.run("dead", "list").out == "no dead letters\n"
    person.run("run", "--until", "now")
    for statement in (BAD, MENDED):
        priced.execute(statement)  # type: ignore[arg-type]  # constants
        person.run("run", "--until", "now")
    assert len(person.run("dead", "list", "--json").json) == 2
    assert [item["outcome"] for item in person.run("dead", "retry", "lake", "1", "--json", code=3).json] == [
        "refused",
        "waits",
    ]
    assert person.run("dead", "list", "--json").json[0]["attempts"] == 2
    assert person.run("dead", "drop", "lake", "--all", code=2, stdin="").hint == ""
    person.run("dead", "drop", "lake", "--all", "--yes")
    assert person.run("dead", "list").out == "no dead letters\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "lake", "7"), 2, "sink lake has no dead letter 7"),
        (("retry", "lake"), 2, "which of them?"),
        (("retry", "lake", "7"), 3, "sink lake has no dead letter 7"),
        (("retry", "lkae", "--all"), 2, "there is no sink 'lkae'"),
        (("drop", "changes", "1", "--yes"), 3, "sink changes sets no rows aside"),
    ],
)
def test_mistakes_are_named(
    person: Person, priced: Database, arguments: tuple[str, ...], code: int, said: str
) -> None:
    person.run("run", "--until", "now")
    answer = person.run("dead", *arguments, code=code)
    assert said in answer.error
    assert answer.hint
