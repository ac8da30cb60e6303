"""`walcast verify` as a person uses it."""

from __future__ import annotations

import json
import signal

from duckdb import connect
from tests.acceptance.person import Person

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


def test_a_copy_is_compared_at_rest_and_while_it_runs(person: Person, shop: Database) -> None:
    person.write(CONFIG.format(dsn=json.dumps(shop.dsn()), slot=shop.name))
    assert "never run" in person.run("verify", code=3).error
    person.run("run", "--until", "now")
    assert "lake: equal to its source" in person.run("verify").out

    with connect(str(person.folder / "copy.duckdb")) as connection:
        connection.execute("delete from shop.fruit where id = 7")
        connection.execute("update shop.fruit set name = 'stale' where id = 8")
    files = ("--report", "found.html", "--report", "found.json")
    found = person.run("verify", "lake", *files, "--json", code=1).json
    (fruit,) = (item for item in found["tables"] if item["table"] == "shop.fruit")
    listed = {row["key"]["id"]: (row["kind"], row["columns"]) for row in fruit["listed"]}
    assert listed == {"7": ("missing", {}), "8": ("different", {"name": [None, None]})}
    assert "The copy differs from its source" in (person.folder / "found.html").read_text()
    assert json.loads((person.folder / "found.json").read_text())["state"] == "different"

    pipeline = person.start("run")
    pipeline.says("stream_opened")
    told = person.run("verify", "lake", "--values", code=1)
    assert "shop.fruit id=8: different: name 'fruit 8' at the source, 'stale' in the copy" in told.out
    assert "--repair" in told.hint
    assert "every difference was repaired" in person.run("verify", "lake", "--repair").out
    person.run("verify", "lake")
    endless = person.start("verify", "lake", "--continuous", "--every", "0.1", "--rate", "5000")
    endless.says(r"round ([2-9]|\d\d+): equal")  # it shows the last one: a quick round can go by unseen
    assert "compared already" in person.run("verify", "lake", code=3).error
    assert endless.stop(signal.SIGINT) == 130
    person.run("verify", "lake")
    assert pipeline.stop() == 0


def test_mistakes_are_answered(person: Person, shop: Database) -> None:
    person.write(CONFIG.format(dsn=json.dumps(shop.dsn()), slot=shop.name))
    person.run("run", "--until", "now")
    assert "no sink 'lak'" in person.run("verify", "lak", code=2).error
    assert ".html or .json" in person.run("verify", "lake", "--report", "x.pdf", code=2).error
    assert "no table matches" in person.run("verify", "lake", "-t", "shop.nothing*", code=2).error
    assert "cannot show its rows" in person.run("verify", "changes", code=5).out
    assert "--resume" in person.run("verify", "lake", "--resume", code=3).hint
