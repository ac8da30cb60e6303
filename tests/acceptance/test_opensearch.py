"""Documents in OpenSearch through `walcast run`, as a person uses it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.acceptance.person import Person
from tests.acceptance.test_map import MAPPING, configure

from walcast.testing.postgres import Database
from walcast.testing.search import Family, SearchServer

pytestmark = [pytest.mark.xdist_group("search")]


@pytest.mark.parametrize("family", ["opensearch", "elasticsearch"])
def test_documents_follow_the_source_and_what_is_refused_waits(
    person: Person, shop: Database, shared_search: Callable[[Family], SearchServer], family: Family
) -> None:
    server = shared_search(family)
    server.wipe()
    shop.execute("create index on shop.crates (fruit)")
    sink = f'[sinks.find]\ntype = "{family}"\nhosts = "{server.url}"\nprefix = "shop-"\non_refused = "set_aside"\n'
    configure(person, shop, MAPPING.replace("[sinks.copy]", f"{sink}[sinks.copy]"))
    run = person.start("run")
    shop.execute("insert into shop.crates values (1, 7), (2, 7)")
    shop.execute("update shop.fruit set name = 'kiwi' where id = 7")
    person.run("wait", person.run("token").out.strip())
    found = server.ask("POST", "/shop-fruits/_search", {"query": {"match": {"name": "kiwi"}}})
    (hit,) = found["hits"]["hits"]
    assert hit["_source"] == {
        "name": "kiwi",
        "file": 7,
        "label": "7: kiwi",
        "crates": [{"crate": 1}, {"crate": 2}],
    }
    assert server.ask("GET", "/shop-fruits/_count")["count"] == 100
    assert "find: equal to its source" in person.run("verify", "find").out

    (index,) = server.ask("GET", "/shop-fruits/_alias")
    server.ask("DELETE", f"/{index}/_doc/18")
    server.ask("PUT", f"/{index}/_doc/19", {"name": "nobody wrote this"})
    server.ask("PUT", f"/{index}/_doc/900?refresh=true", {"name": "nor this"})
    found = person.run("verify", "find", "--json", code=1).json
    (fruits,) = (item for item in found["tables"] if item["table"] == "fruits")
    listed = {row["key"]["id"]: row["kind"] for row in fruits["listed"]}
    assert listed == {"18": "missing", "19": "different", "900": "extra"}
    assert "every difference was repaired" in person.run("verify", "find", "--repair").out
    assert "find: equal to its source" in person.run("verify", "find").out
    assert server.ask("GET", "/shop-fruits/_doc/19")["_source"]["name"] == "fruit 19"

    shop.execute("update shop.fruit set name = repeat('x', 9000000) where id = 8")
    shop.execute("update shop.fruit set name = 'fig' where id = 9")
    person.run("wait", person.run("token").out.strip())
    (letter,) = person.run("dead", "list", "--sink", "find", "--json").json
    assert (letter["table"], letter["keys"], letter["code"]) == ("shop.fruit", ['["8"]'], "TooBig")
    shop.execute("update shop.fruit set name = 'plum' where id = 8")
    person.run("wait", person.run("token").out.strip())
    assert person.run("dead", "retry", "find", "--all").out == "1: applied\n2: applied\n"
    server.ask("POST", "/shop-fruits/_refresh")
    names = {server.ask("GET", f"/shop-fruits/_doc/{n}")["_source"]["name"] for n in (8, 9)}
    assert names == {"plum", "fig"}
    findings = person.run("doctor", "--json", code=3).json["findings"]  # the file can be read by others
    assert [item["message"] for item in findings if item["where"] == "find"] == []
    assert run.stop() == 0
