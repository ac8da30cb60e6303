"""The Python of the guide to reading one's writes, run as it stands there on a primary with two replicas."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.acceptance.test_docs import ROOT, fenced
from tests.integration.routing_tools import Trio, trio

import walcast
from walcast.testing import PostgresServer

BLOCKS = fenced(ROOT / "docs/how-to/read-your-writes.md", "python")


@pytest.fixture
def servers(postgres_factory: Callable[..., PostgresServer]) -> Iterator[Trio]:
    with trio(postgres_factory) as found:
        found.primary.execute(
            "create schema shop; create table shop.orders (id int primary key, total numeric);"
            "insert into shop.orders values (1, 10), (2, 5)"
        )
        found.catch_up()
        yield found


def test_the_guides_python_does_what_it_says(servers: Trio, tmp_path: Path) -> None:
    said = []
    environment = os.environ | {
        "PRIMARY_DSN": servers.primary.dsn(),
        "REPLICA1_DSN": servers.one.dsn(),
        "REPLICA2_DSN": servers.two.dsn(),
    }
    for number, block in enumerate(BLOCKS):
        script = tmp_path / f"block{number}.py"
        script.write_text(block)
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        said.append(done.stdout.split("\n")[:-1])
        servers.catch_up()  # what the next one reads without a token is there
    first, outcome, conflict, sessions, asynchronous, flask, django, orm = said
    assert first[0].endswith("(Decimal('20'),)")
    assert outcome == ["replicated"]
    assert conflict == ["[(2,)]", "(Decimal('19'),)"]
    assert sessions == ["[(Decimal('21'),)]"] * 2
    assert asynchronous == ["[(Decimal('22'),)]"]
    assert flask == ["27"]
    assert django == []
    assert orm == ["23"]


def test_the_guide_names_what_there_is() -> None:
    page = (ROOT / "docs/how-to/read-your-writes.md").read_text()
    for name in ("NodeUnavailable", "AsyncRouter", "take_token", "wait"):
        assert f"walcast.{name}" in page
        assert name in walcast.__all__
