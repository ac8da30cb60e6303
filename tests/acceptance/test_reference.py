"""The reference pages are the code's own word: up to date, and with everything in them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from tests.acceptance.person import Person

import walcast
from walcast.app import registry
from walcast.app.binding import settings_of
from walcast.app.reference import PAGES
from walcast.app.reference.jsonl import KEYS
from walcast.app.settings import SECTIONS
from walcast.cli.main import COMMANDS
from walcast.engine import METRICS
from walcast.model import WalcastError
from walcast.testing.postgres import Database

FOLDER = Path(__file__).parents[2] / "docs/reference"


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_up_to_date(name: str) -> None:
    assert PAGES[name]() == (FOLDER / name).read_text(), "run: make docs"


def test_no_page_is_left_over() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_every_setting_is_documented_and_says_what_it_does() -> None:
    page = (FOLDER / "settings.md").read_text()
    kinds = [*SECTIONS.values(), *(entry.config_type() for entry in registry.SINKS.values())]
    for kind in kinds:
        for name, field in settings_of(kind).items():
            assert f"| `{name}` |" in page
            assert field.metadata.get("help"), (kind, name)
            assert field.metadata.get("unit") in (None, "bytes", "seconds")
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]  # of the dataclass machinery


def test_every_command_metric_and_error_is_documented() -> None:
    commands = (FOLDER / "commands.md").read_text()
    assert all(f"\n## walcast {name}\n" in commands for name in COMMANDS)
    metrics = (FOLDER / "metrics.md").read_text()
    assert all(f"| `{name}` |" in metrics for name in METRICS)
    errors = (FOLDER / "errors.md").read_text()
    names = [name for name in walcast.__all__ if _is_error(name)]
    assert len(names) > 10
    assert all(f"`{name}` |" in errors for name in names)


def _is_error(name: str) -> bool:
    found = getattr(walcast, name)
    return isinstance(found, type) and issubclass(found, WalcastError)


def test_links_between_pages_lead_somewhere() -> None:
    root = FOLDER.parents[1]
    for page in [root / "README.md", root / "CONTRIBUTING.md", *FOLDER.parent.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_lines_of_json_have_the_documented_keys(person: Person, shop: Database) -> None:
    shop.execute("alter table shop.crates replica identity full; create publication walcast for all tables")
    tail = person.start("tail", "--dsn", shop.dsn(), "--limit", "6")
    while not shop.execute(
        "select 1 from pg_replication_slots where database = current_database() and confirmed_flush_lsn is not null"
    ):
        assert tail.process.poll() is None
    shop.execute("insert into shop.crates values (1, 2)")
    shop.execute("update shop.crates set fruit = 3")
    shop.execute("delete from shop.crates where id = 1")
    shop.execute("delete from shop.fruit where id = 1")
    shop.execute("select pg_logical_emit_message(true, 'note', 'x')")
    shop.execute("truncate shop.fruit restart identity")
    assert tail.wait() == 0
    lines = [json.loads(line) for line in tail.out.read_text().splitlines()]
    assert [line["op"] for line in lines] == ["insert", "update", "delete", "delete", "message", "truncate"]
    order = list(KEYS)
    for line in lines:
        assert [order.index(key) for key in line] == sorted(order.index(key) for key in line)
    assert {key for line in lines for key in line} == set(KEYS) - {"origin", "unchanged"}
