"""`walcast map`, and documents through `walcast run`, as a person uses them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import ladybug
import pytest
import tantivy
from tests.acceptance.person import Person

from walcast import Token
from walcast.sinks.search import SearchIndex
from walcast.testing.arangodb import ContractArangoDB
from walcast.testing.neo4j import Neo4jServer
from walcast.testing.postgres import Database

MAPPING = """
[mapping.documents.fruits]
table = "shop.fruit"
fields = { name = "name", file = "id", label = { template = "{id}: {name}" } }

[mapping.documents.fruits.nested.crates]
table = "shop.crates"
on = { fruit = "id" }
fields = { crate = "id" }

[mapping.vertices.Fruit]
table = "shop.fruit"

[sinks.copy]
type = "documents"
"""


def configure(person: Person, shop: Database, mapping: str = MAPPING) -> None:
    shop.execute("create publication walcast for table shop.fruit, shop.crates")
    source = f'[source]\ndsn = "{shop.dsn(via="tcp")}"\nslot = "{shop.name}"\ninclude = ["shop.*"]\n'
    person.write(f'{source}{mapping}dsn = "{shop.dsn(via="tcp")}"\n')


def test_what_a_row_becomes_is_shown_and_checked(person: Person, shop: Database) -> None:
    shop.execute("insert into shop.crates values (1, 7)")
    configure(person, shop)
    shown = person.run("map", "show", "fruits", "7")
    assert "document fruits: a row of shop.fruit, id (id)" in shown.out
    assert "crates: array of shop.crates where shop.crates.fruit = id" in shown.out
    listed = person.run("map", "show", "--json").json
    assert [item["target"] for item in listed] == ["fruits", "Fruit"]
    assert listed[0]["example"]["body"] == {"name": "fruit 1", "file": 1, "label": "1: fruit 1", "crates": []}
    slow = person.run("map", "check", code=6)
    assert "fruits looks up shop.crates by (fruit), for which there is no index" in slow.out
    assert "create index concurrently on shop.crates (fruit)" in slow.out
    shop.execute("create index on shop.crates (fruit)")
    assert person.run("map", "check").out == "the mapping is sound\n"
    shop.execute("alter publication walcast drop table shop.crates")
    unpublished = person.run("map", "check", code=3)
    assert "alter publication walcast add table shop.crates" in unpublished.out
    assert "no row with the key" in person.run("map", "show", "fruits", "100000", code=3).error


def test_a_mapping_that_names_what_is_not_there_is_refused_with_the_line(
    person: Person, shop: Database
) -> None:
    configure(person, shop, MAPPING.replace("{ crate =", '{ fruit = "friut", crate ='))
    wrong = person.run("map", "check", code=2)
    assert (
        wrong.error
        == "walcast.toml:13: mapping.documents.fruits.nested.crates.fields.fruit: shop.crates has no column 'friut'"
    )
    assert wrong.hint == "did you mean 'fruit'?"
    for right, bad, says, hint in (
        (
            'table = "shop.fruit"',
            'table = "shop.friut"',
            "walcast.toml:5: .* there is no table shop.friut",
            "shop.fruit",
        ),
        ("fields = { name", "feilds = { name", "walcast.toml:6: .* no setting 'feilds'", "fields"),
        ("{id}: {name}", "{id.x}", "walcast.toml:6: .*a template names columns", ""),
    ):
        text = MAPPING.replace(right, bad, 1)
        person.write(f'[source]\ndsn = "{shop.dsn(via="tcp")}"\n{text}dsn = "x"\n')
        answer = person.run("map", "check", code=2)
        assert re.search(says, answer.error), answer.err
        assert hint in answer.hint


def test_documents_graph_and_search_follow_the_source(person: Person, shop: Database) -> None:
    others = (
        '[sinks.find]\ntype = "search"\npath = "search"\n[sinks.net]\ntype = "graph"\npath = "net.lbug"\n'
    )
    configure(person, shop, MAPPING.replace("[sinks.copy]", f"{others}[sinks.copy]"))
    person.run("map", "check", code=6)
    run = person.start("run")
    shop.execute("insert into shop.crates values (1, 7), (2, 7)")
    shop.execute("update shop.fruit set name = 'kiwi' where id = 7")
    run.says("stream_started|streaming|table_copied.*crates")
    token = person.run("token").out.strip()
    person.run("wait", token)
    ((body,),) = shop.execute("select body from derived.fruits where id = '7'")
    assert body == {"name": "kiwi", "file": 7, "label": "7: kiwi", "crates": [{"crate": 1}, {"crate": 2}]}
    assert shop.execute('select count(*) from derived."Fruit"') == [(100,)]
    index = SearchIndex(person.folder / "search", "fruits")
    (hit,) = index.search("kiwi")
    tokens = [row[0] for row in shop.execute("select token from derived._walcast_checkpoint")]
    assert hit.body == body
    assert hit.highlights["name"] == "<b>kiwi</b>"
    status = person.run("status", "--json").json
    assert {sink["name"]: sink["state"] for sink in status["sinks"]} == dict.fromkeys(
        ("find", "net", "copy"), "streaming"
    )
    mapping = person.run("config", "show", "--json").json["mapping"]
    assert mapping["documents"]["fruits"]["nested"]["crates"]["on"] == {"fruit": "id"}
    assert "crate" in person.run("config", "show").out
    text = (person.folder / "walcast.toml").read_text()
    person.write(text.replace('label = { template = "{id}: {name}" }', 'title = "name"'))
    said = person.run("reload").out
    assert "mapping.documents.fruits.fields" in said
    assert "takes effect at the next start" in said
    person.write(text)
    for reached in (index.token, *map(Token.parse, tokens)):
        assert reached is not None
        assert reached >= Token.parse(token)
    for name in ("find", "net", "copy"):
        assert f"{name}: equal to its source" in person.run("verify", name).out
    shop.execute("delete from derived.fruits where id = '8'")
    shop.execute("update derived.fruits set body = '{}' where id = '9'")
    shop.execute("insert into derived.fruits values ('900', 1, '{}')")
    found = person.run("verify", "copy", "--json", code=1).json
    (fruits,) = (item for item in found["tables"] if item["table"] == "fruits")
    listed = {row["key"]["id"]: row["kind"] for row in fruits["listed"]}
    assert listed == {"8": "missing", "9": "different", "900": "extra"}
    assert "every difference was repaired" in person.run("verify", "copy", "--repair").out
    assert "compare all of it" in person.run("verify", "copy", "-t", "shop.*", code=2).hint
    assert run.stop() == 0
    assert "copy: equal to its source" in person.run("verify", "copy").out
    at_rest = person.run("status", "--json").json
    assert {sink["name"] for sink in at_rest["sinks"]} == {"find", "net", "copy"}
    doctor = person.run("doctor", "--json", code=3)
    names = {finding["name"] for finding in doctor.json["findings"]}
    assert "mapping_no_index" in names
    assert not {name for name in names if name.startswith("sink")}
    database = ladybug.Database(str(person.folder / "net.lbug"), read_only=True)
    connection = ladybug.Connection(database)
    result = connection.execute("match (f:Fruit {_key: '7'}) return f.name")
    assert not isinstance(result, list)
    assert result.get_next() == ["kiwi"]
    result.close()
    connection.close()
    database.close()


def test_a_sink_of_documents_without_a_mapping_is_refused(person: Person, shop: Database) -> None:
    configure(person, shop, '[sinks.copy]\ntype = "documents"\n')
    answer = person.run("run", code=2)
    assert "there is no mapping" in answer.error


@pytest.mark.xdist_group("neo4j")
def test_killed_at_any_point_every_store_goes_on_and_what_is_harmed_is_repaired(
    person: Person, shop: Database, neo4j_server: Neo4jServer, arangodb: ContractArangoDB
) -> None:
    neo4j_server.wipe()
    person.secrets.append(neo4j_server.password)
    others = (
        '[sinks.find]\ntype = "search"\npath = "search"\n[sinks.net]\ntype = "graph"\npath = "net.lbug"\n'
        f'[sinks.neo]\ntype = "neo4j"\nuri = "{neo4j_server.uri}"\npassword = "{neo4j_server.password}"\n'
        f'[sinks.arango]\ntype = "arangodb"\nurl = "{arangodb.url}"\npassword = "{arangodb.password}"\n'
    )
    configure(person, shop, MAPPING.replace("[sinks.copy]", f"{others}[sinks.copy]"))
    points = ("snapshot.part=kill@2", "table.done.before=kill@2", "write.after=kill", "flush.after=kill@2")
    for number, point in enumerate(points):
        person.run("run", "--until", "now", env={"WALCAST_FAILPOINTS": point}, code=-signal.SIGKILL)
        shop.execute("update shop.fruit set name = name || '!' where id %% 7 = %s", [number])
        shop.execute("insert into shop.crates values (%s, 7)", [1000 + number])
        shop.execute("delete from shop.fruit where id = %s", [20 + number])
    person.run("run", "--until", "now")
    names = ("arango", "copy", "find", "neo", "net")
    said = person.run("verify").out
    assert [name for name in names if f"{name}: equal to its source" in said] == list(names)

    del arangodb.collections["fruits"][1]["30"]
    shop.execute("delete from derived.fruits where id = '30'")
    neo4j_server.run("match (n:Fruit {_key: '30'}) delete n")
    database = ladybug.Database(str(person.folder / "net.lbug"))
    ladybug.Connection(database).execute("match (n:Fruit {_key: '30'}) set n.name = 'harmed'")
    database.close()
    (folder,) = (path for path in (person.folder / "search").iterdir() if path.is_dir())
    index = tantivy.Index.open(str(folder))
    writer = index.writer(16 << 20)
    writer.delete_documents_by_term("_key", "30")
    writer.commit()
    writer.wait_merging_threads()
    said = person.run("verify", "--repair").out
    assert len(re.findall(r"every difference was repaired; .* 1 differences", said)) == len(names), said
    said = person.run("verify").out
    assert [name for name in names if f"{name}: equal to its source" in said] == list(names)


@pytest.fixture
def arangodb() -> Iterator[ContractArangoDB]:
    with ContractArangoDB() as double:
        yield double
