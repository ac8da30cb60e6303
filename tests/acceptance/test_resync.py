"""Tables taken over beside the stream, as a person asks for it; and killed at every step of it."""

from __future__ import annotations

import json
import signal
import time

from tests.acceptance.person import Background, Person

from walcast.testing.postgres import Database

CONFIG = """
[source]
dsn = {dsn}
slot = "{slot}"
include = {include}

[sinks.lake]
type = "duckdb"
path = "copy.duckdb"
"""


def configure(person: Person, shop: Database, dsn: str, *include: str) -> None:
    text = CONFIG.format(dsn=json.dumps(dsn), slot=shop.name, include=json.dumps(list(include)))
    person.write(text)


def streaming(person: Person, **failpoints: str) -> Background:
    said = ",".join(f"{name.replace('_', '.')}={action}" for name, action in failpoints.items())
    pipeline = person.start("run", env={"WALCAST_FAILPOINTS": said} if said else None)
    pipeline.says("stream_opened")
    return pipeline


def count(person: Person, table: str) -> str:
    return str(person.run("query", "lake", f"select count(*) as n from shop.{table}", "--json").json[0]["n"])


def test_a_table_is_added_by_editing_the_file(person: Person, shop: Database, secret_dsn: str) -> None:
    shop.execute("insert into shop.crates select n, n from generate_series(1, 2500) n")
    configure(person, shop, secret_dsn, "shop.fruit")
    pipeline = running_lake(person)
    configure(person, shop, secret_dsn, "shop.*")
    pipeline.process.send_signal(signal.SIGHUP)
    pipeline.says("rebuilt.*shop.crates|rebuilt.*table=shop.crates")
    shop.execute("insert into shop.crates values (5000, 1)")
    person.run("wait", person.run("token").out.strip())
    assert count(person, "crates") == "2501"
    said = pipeline.says("rebuilt")
    assert said.count("stream_begins") == 1  # the other table never waited
    configure(person, shop, secret_dsn, "shop.crates")
    assert "source.include" not in person.run("reload").out
    assert pipeline.stop() == 0


def test_a_resync_while_it_runs(person: Person, shop: Database, secret_dsn: str) -> None:
    configure(person, shop, secret_dsn, "shop.*")
    pipeline = running_lake(person)
    answer = person.run("resync", "shop.fruit")
    assert answer.out == "lake: shop.fruit comes chunk by chunk, beside the stream\n"
    pipeline.says("rebuilt")
    some = person.run("resync", "shop.fruit", "--where", "id < 10", "--rate", "1000", "--json").json
    assert some["chunked"] == {"lake": ["shop.fruit"]}
    wrong = person.run("resync", "shop.fruit", "--where", "no such", code=3)
    assert "the condition cannot be used" in wrong.error
    assert pipeline.stop() == 0
    asleep = person.run("resync", "shop.fruit", "--where", "id < 10", code=3)
    assert "no pipeline runs" in asleep.error


def test_killed_at_every_step_it_goes_on(person: Person, shop: Database, secret_dsn: str) -> None:
    shop.execute("insert into shop.crates select n, n from generate_series(1, 3500) n")
    configure(person, shop, secret_dsn, "shop.*")
    person.run("run", "--until", "now")
    first = streaming(person, build_noted="kill@2")
    person.run("resync", "shop.crates")
    assert first.wait() == -signal.SIGKILL
    for death in ("build_noted", "flush_before", "write_after"):
        shop.execute(
            "update shop.crates set fruit = fruit + 1 where id % 3 = 0; delete from shop.crates where id % 97 = 5"
        )
        killed = person.start("run", env={"WALCAST_FAILPOINTS": f"{death.replace('_', '.')}=kill@2"})
        assert killed.wait(60) == -signal.SIGKILL, death
    last = streaming(person)
    deadline = time.monotonic() + 60
    while "building" in person.run("status", "--json").out:
        assert time.monotonic() < deadline
    person.run("wait", person.run("token").out.strip())
    rows = person.run("query", "lake", "select id, fruit from shop.crates order by id", "--json").json
    expected = shop.execute("select id::text, fruit::text from shop.crates order by crates.id")
    assert [(row["id"], row["fruit"]) for row in rows] == expected
    assert last.stop() == 0


def running_lake(person: Person) -> Background:
    pipeline = person.start("run")
    pipeline.says("stream_opened")
    deadline = time.monotonic() + 30
    while person.run("status", "--json").json["sinks"][0]["state"] != "streaming":
        assert time.monotonic() < deadline
    return pipeline
