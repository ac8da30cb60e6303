"""Every command of the docs is run, in the order of the page, in a fresh folder against a fresh server.

A line of a ```console block that begins with `$ ` is a command; every other line must be found in what it says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import LiteralString, cast

import click
import pytest
from tests.acceptance.person import Person

import walcast
from walcast.cli.main import COMMANDS, cli
from walcast.testing import PostgresServer
from walcast.testing.postgres import Database

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/tutorial.md", *sorted((ROOT / "docs/how-to").glob("*.md"))]
EVERY = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(page: Path, language: str) -> list[str]:
    """The contents of its blocks in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each command with the text that it must say."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(fenced(page, "console")).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line.strip())
    return found


class Shell:
    """Runs one command after another; what one leaves in the background goes on, and is killed at the end."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._groups: list[int] = []

    def run(self, command: str) -> tuple[int, str]:
        said = self._folder / f"said{len(self._groups)}.txt"  # not a pipe: the background keeps it open
        with open(said, "wb") as output:
            shell = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._groups.append(shell.pid)
        return shell.wait(90), said.read_text()

    def leave(self) -> None:
        for group in self._groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def shell(person: Person, postgres_factory: Callable[..., PostgresServer]) -> Iterator[Shell]:
    server = postgres_factory(18)
    server.execute("create database shop")
    environment = person.environment | {
        "PGHOST": str(server.folder),
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
        "PGDATABASE": "shop",
    }
    environment["PATH"] += f"{os.pathsep}{server.binaries.bindir}"
    opened = Shell(person.folder, environment)
    yield opened
    opened.leave()


def marked(page: Path) -> object:
    """Pages that make a cluster on its usual ports come one after the other."""
    group = "usual-ports" if "walcast cluster" in page.read_text() else page.stem
    return pytest.param(page, marks=pytest.mark.xdist_group(group), id=page.stem)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [marked(page) for page in PAGES if commands(page)])
def test_the_page_does_what_it_says(page: Path, shell: Shell) -> None:
    for command, expected in commands(page):
        code, said = shell.run(command)
        assert code == 0, f"$ {command}\n{said}"
        for text in expected:
            assert text in said, f"$ {command}\n{said}"


def test_the_tutorial_is_among_them() -> None:
    assert len(commands(ROOT / "docs/tutorial.md")) > 15


def test_commands_that_are_only_shown_are_ones_that_there_are() -> None:
    """Those of ```sh blocks name other people's servers: they are parsed, not run."""
    shown = [line for page in EVERY for block in fenced(page, "sh") for line in block.splitlines()]
    lines = [shlex.split(line, comments=True) for line in shown if line.startswith("walcast ")]
    assert lines
    for _, *arguments in lines:
        context = cli.make_context("walcast", arguments)
        name, command, rest = cli.resolve_command(context, arguments)
        assert command is not None, name
        if isinstance(command, click.Group):
            _, command, rest = command.resolve_command(click.Context(command), rest)
            assert command is not None, name
        command.make_context(name, rest, parent=context)


def test_commands_that_are_mentioned_are_ones_that_there_are() -> None:
    for page in EVERY:
        for name in re.findall(r"`walcast ([a-z]+)", page.read_text()):
            assert name in COMMANDS, f"{page.name}: walcast {name}"


def test_python_that_is_only_shown_uses_names_that_there_are() -> None:
    for page in EVERY:
        for block in fenced(page, "python"):
            compile(block, str(page), "exec")
            for name in re.findall(r"\bwalcast\.(\w+)", block):
                known = name in walcast.__all__ or find_spec(f"walcast.{name}") is not None
                assert known, f"{page.name}: walcast.{name}"


def test_the_rights_of_the_guide_are_enough(person: Person, shop: Database) -> None:
    (script,) = fenced(ROOT / "docs/how-to/least-privilege.md", "sql")
    role = f"walcast_{shop.name}"
    script = re.sub(r"\b(role|to) walcast\b", rf"\1 {role}", script).replace("'...'", "'hush-hush'")
    person.secrets.append("hush-hush")
    shop.execute(
        "create table shop.customers (id int primary key); create table shop.orders (id int primary key)"
    )
    shop.execute(cast("LiteralString", script))
    try:
        dsn = shop.dsn(via="tcp", user=role, password="hush-hush")
        person.write(
            f"[source]\ndsn = {json.dumps(dsn)}\nslot = '{shop.name}'\ninclude = ['shop.customers', 'shop.orders']\n"
            "[sinks.changes]\ntype = 'jsonl'\ndirectory = 'changes'\n"
        )
        assert "ready to run" in person.run("config", "check").out
        person.run("run", "--until", "now")
    finally:
        shop.execute(cast("LiteralString", f"drop owned by {role}; drop role {role}"))
