"""The lab as a person uses it: its screen through Textual's pilot and a real terminal, its plain menu through a pipe."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.person import PROGRAM, Person
from tests.cluster_tools import desired, folder, running
from textual.pilot import Pilot
from textual.widgets import Input, RichLog, Static

from walcast.app import cluster as work
from walcast.lab import table
from walcast.lab.app import LabApp
from walcast.lab.lessons import LESSONS, taught
from walcast.lab.plain import Menu
from walcast.lab.world import World
from walcast.model import ConfigError

pytestmark = [pytest.mark.xdist_group("lab")]
_PATIENCE = 60.0
_CONTROLLED = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal the controlling one, so that Ctrl-C is a SIGINT."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A cluster's folder, with the cluster up."""

    async def start(root: Path) -> None:
        async with running(root, desired()):
            pass

    with folder() as root:
        asyncio.run(start(root))
        yield root


@asynccontextmanager
async def world(root: Path) -> AsyncIterator[tuple[World, list[tuple[str, str]]]]:
    """The world over the cluster, well again afterwards, and what it tells."""
    told: list[tuple[str, str]] = []
    async with (
        work.opened(root) as cluster,
        World.opened(cluster, lambda line, kind: told.append((line, kind))) as opened,
    ):
        yield opened, told
        await opened.settle()


async def until(
    holds: Callable[[], bool | Awaitable[bool]], seen: Callable[[], str] = lambda: "it did not come to pass"
) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        answer = holds()
        if isinstance(answer, bool):
            if answer:
                return
        elif await answer:
            return
        assert time.monotonic() < deadline, seen()
        await asyncio.sleep(0.05)


# Lessons


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("async", "COMMIT took"),
        ("remote-write", "50 of 50 rows written"),
        ("first", "Inserted on the disk of the next into PRIMARY"),
        ("semi-sync", "the row IS committed at the primary"),
        ("sync", "waits for the last one into PRIMARY. COMMIT took"),
        ("remote-apply", "1 row STALE"),
        ("lost", "1 row LOST"),
        ("split-brain", "fenced, and sends nothing there"),
        ("read-your-writes", "with the token"),
    ],
)
async def test_each_lesson_shows_what_it_says_and_leaves_the_cluster_well(
    place: Path, name: str, seen: str
) -> None:
    async with world(place) as (opened, told):
        said = [line async for line in taught(LESSONS[name], opened)]
        assert said[-1] == "The cluster is as it was."
        assert any(seen in line for line, _ in told), told
        stale = [
            line for line, kind in told if kind == "stale" and "with the token" in line and "STALE" in line
        ]
        assert not stale
        assert (await opened.view()).well


def test_every_lesson_is_tried() -> None:
    (mark,) = (
        mark
        for mark in test_each_lesson_shows_what_it_says_and_leaves_the_cluster_well.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    )
    assert {name for name, _ in mark.args[1]} == set(LESSONS)


# The screen


def log_of(app: LabApp) -> str:
    return "\n".join(line.text for line in app.query_one("#events", RichLog).lines)


def flat(text: str) -> str:
    """Without the breaks of wrapped lines."""
    return " ".join(text.split())


async def says(app: LabApp, text: str) -> None:
    await until(lambda: text in flat(log_of(app)), lambda: log_of(app))


async def type_message(pilot: Pilot[None], text: str) -> None:
    await pilot.press("w")
    await until(lambda: isinstance(pilot.app.focused, Input))
    await pilot.press(*("space" if letter == " " else letter for letter in text), "enter")


async def test_the_screen_writes_reads_and_shows_a_stale_read(place: Path, tmp_path: Path) -> None:
    async with work.opened(place) as cluster:
        app = LabApp(cluster)
        async with app.run_test(size=(124, 36)) as pilot:
            await says(app, "? shows the keys")
            primary, *replicas = [cluster.desired.primary, *(node.name for node in cluster.desired.replicas)]
            number = [node.name for node in cluster.desired.members].index(replicas[0]) + 1
            await type_message(pilot, "hello lab")
            await says(app, "Inserted hello lab into PRIMARY. COMMIT took")
            await pilot.press(str(number), "z")
            await says(app, f"pause {replicas[0]}: done")
            await type_message(pilot, "newer")
            await says(app, "Inserted newer into PRIMARY.")
            await pilot.press("r")
            await says(app, f"Read from {replicas[0]}:")
            await says(app, "1 row STALE")
            await pilot.press("t")
            await says(app, "with the token")
            shown = re.search(
                r"Read from (\w+) with the token[^:]*: \d+ rows, the newest 'newer'", flat(log_of(app))
            )
            assert shown is not None
            assert shown[1] in (primary, replicas[1])
            await until(lambda: "PAUSED" in str(app.query_one("#topology", Static).render()))
            await until(lambda: "stale reads so far: 1" in str(app.query_one("#promise", Static).render()))
            assert "COMMIT: middle" in str(app.query_one("#chart", Static).render())
            await pilot.press("m")
            await says(app, "100 of 100 rows written")
            await says(
                app, f"100 of 100 reads at {replicas[0]} right after the write, without its token, were STALE"
            )
            app.save_screenshot("lab.svg", path=str(tmp_path))
            picture = (tmp_path / "lab.svg").read_text().replace("&#160;", " ")
            for text in ("PRIMARY", "replica", "semi-sync", "STALE"):
                assert text in picture
            await pilot.press("a")
            await says(app, "All well again: done")
        assert app.return_code in (0, None)


async def test_a_small_terminal_shows_the_servers_and_the_events(place: Path) -> None:
    async with work.opened(place) as cluster:
        app = LabApp(cluster)
        async with app.run_test(size=(80, 24)) as pilot:
            await says(app, "? shows the keys")
            await type_message(pilot, "small")
            await says(app, "Inserted small into PRIMARY.")
            await until(lambda: str(app.query_one("#topology", Static).render()).count("replica") == 2)
            shown = app.query_one("#topology").region.height, app.query_one("#events").region.height
            assert min(shown) >= 6
            assert app.query_one("#events").region.width == 80


async def test_ctrl_c_calls_off_a_waiting_commit_and_tells_the_truth(place: Path) -> None:
    async with work.opened(place) as cluster:
        app = LabApp(cluster)
        async with app.run_test(size=(124, 36)) as pilot:
            await says(app, "? shows the keys")
            await pilot.press("ctrl+c")
            await says(app, "Nothing waits")
            for number, node in enumerate(cluster.desired.members, 1):
                if node.name != cluster.desired.primary:
                    await pilot.press(str(number), "x")
                    await says(app, f"cut {node.name}: done")
            await type_message(pilot, "nobody")
            await until(lambda: "COMMIT has waited" in str(app.query_one("#promise", Static).render()))
            await pilot.press("k")
            await says(app, "Still at work")
            await pilot.press("ctrl+c")
            await says(app, "the row IS committed at the primary")
            await pilot.press("a")
            await says(app, "All well again: done")


async def test_the_screen_survives_errors_and_shows_its_pages(place: Path) -> None:
    async with work.opened(place) as cluster:
        app = LabApp(cluster)
        async with app.run_test(size=(124, 36)) as pilot:
            await says(app, "? shows the keys")
            await pilot.press("w")
            await until(lambda: isinstance(pilot.app.focused, Input))
            app.query_one(Input).value = "x" * 256
            await pilot.press("enter")
            await says(app, "the message has 256 characters")
            await pilot.press("w", "enter")
            await says(app, "there is nothing to write")
            async with await psycopg.AsyncConnection.connect(
                cluster.dsn(cluster.desired.primary)
            ) as connection:
                await connection.execute("alter table dummy_table rename to elsewhere")
            await pilot.press("r")
            await says(app, 'relation "dummy_table" does not exist')
            async with await psycopg.AsyncConnection.connect(
                cluster.dsn(cluster.desired.primary)
            ) as connection:
                await connection.execute("alter table elsewhere rename to dummy_table")
            chosen = [node.name for node in cluster.desired.members].index(cluster.desired.primary) + 1
            await pilot.press(str(chosen), "o")
            await says(app, "is the primary. hint:")
            await pilot.press("question_mark")
            await until(lambda: len(app.screen_stack) == 2)
            await pilot.press("escape", "p")
            await until(lambda: len(app.screen_stack) == 2)
            await pilot.press("enter")
            await says(app, "Profile async: done")
            await pilot.press("l", "enter")
            await says(app, "async: a commit waits for the primary's disk")
            await until(lambda: app.query_one("#lesson").has_class("shown"))
        # left in the middle of the lesson: the cluster is well again all the same
        assert (await work.view(cluster)).well


# A real terminal


class Terminal:
    """A command on a pseudo terminal; what it wrote, without control sequences."""

    def __init__(self, command: list[str], environment: dict[str, str], cwd: Path) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 124, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CONTROLLED, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "xterm-256color"},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)
        self._raw = b""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def says(self, pattern: str) -> str:
        deadline = time.monotonic() + _PATIENCE
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.text[-3000:]}"
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self._raw += os.read(self._master, 65536)
                except OSError:
                    break
        assert re.search(pattern, self.text), self.text[-3000:]
        return self.text

    @property
    def text(self) -> str:
        return re.sub(
            r"\x1b(\[[0-9;?<>=$]*[ -/]*[@-~]|\][^\x07]*\x07|[PX^_].*?\x1b\\|.)",
            "",
            self._raw.decode(errors="replace"),
        )

    def ends(self) -> int:
        deadline = time.monotonic() + _PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self._raw += os.read(self._master, 65536)
                except OSError:
                    time.sleep(0.05)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(person: Person, place: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        environment = person.environment | {"WALCAST_CLUSTER_DIR": str(place)}
        opened.append(Terminal([str(PROGRAM), *arguments], environment, person.folder))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_on_a_real_terminal(terminal: Callable[..., Terminal]) -> None:
    lab = terminal("lab")
    lab.says("shows the keys")
    lab.type("w")
    lab.says("Escape leaves")
    lab.type("typed here\r")
    lab.says("Inserted typed here into PRIMARY")
    lab.type("q")
    assert lab.ends() == 0
    assert "stays up" in lab.text


def test_ctrl_c_in_the_plain_menu(terminal: Callable[..., Terminal], place: Path) -> None:
    """SIGINT as the terminal sends it, while COMMIT waits for two replicas that are stopped."""
    lab = terminal("lab", "--plain")
    lab.says(r"\[4\] Quit")

    async def interrupted() -> None:
        async with world(place) as (opened, _):
            await opened.profile("semi-sync")
            for replica in opened.replicas:
                await opened.act("cut", replica)
            lab.type("1\rnobody listens\r")
            await asyncio.to_thread(lab.says, "nobody listens")
            await until(lambda: _waits(place), lambda: lab.text)
            lab.type("\x03")
            await asyncio.to_thread(lab.says, "the row IS committed at the primary")

    asyncio.run(interrupted())
    lab.type("2\r")
    lab.says(r"REPLICA 1 has[\s\S]*\[4\] Quit\s*> $")  # at the prompt Ctrl-C ends it
    lab.type("\x03")
    assert lab.ends() == 0


async def _waits(place: Path) -> bool:
    async with work.opened(place) as cluster:
        primary = (await cluster.observe()).primary
        return primary is not None and primary.facts is not None and bool(primary.facts.waiting)


# The plain menu


def menu(
    place: Path, typed: str, *, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "lab", "--plain"],
        env={**os.environ, "WALCAST_CLUSTER_DIR": str(place), **(environment or {})},
        input=typed,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_the_menu_has_the_five_entries_and_their_messages(place: Path) -> None:
    async def semi_sync() -> None:
        async with world(place) as (opened, _):
            await opened.profile("semi-sync")

    asyncio.run(semi_sync())
    done = menu(place, "0\n1\nhello\n2\n3\n7\nx\n4\n")
    assert done.returncode == 0, done.stderr
    for text in (
        "Mini DB Admin",
        "[0] Check REPLICATION STATUS",
        "[1] Write to PRIMARY",
        "[2] Read from REPLICA 1",
        "[3] Read from REPLICA 2",
        "[4] Quit",
        "application_name | state | sync_state",
        "| streaming | quorum",
        "Choose a number from 0 to 4.",
    ):
        assert text in done.stdout
    assert re.search(
        r"Inserted hello into PRIMARY\. COMMIT took \d+ ms\nPRIMARY has \d+ rows?; the newest:\n\S+ \| hello",
        done.stdout,
    )
    assert menu(place, "").returncode == 0, "the end of the input is the end"


def test_the_menu_takes_the_environments_servers_and_survives_their_errors(place: Path) -> None:
    async def dsns() -> dict[str, str]:
        async with work.opened(place) as cluster:
            return work.environment(cluster, passwords=True)

    found = asyncio.run(dsns()) | {"REPLICA2_DSN": "host=127.0.0.1 port=1 password=hush"}
    done = menu(place, f"3\n1\n{'x' * 256}\n1\n\n2\n4\n", environment=found)
    assert done.returncode == 0, done.stderr
    assert "error: REPLICA 2 cannot be reached" in done.stdout
    assert "hush" not in done.stdout + done.stderr
    assert "the message has 256 characters" in done.stdout
    assert "there is nothing to write" in done.stdout
    assert "REPLICA 1 has" in done.stdout


def test_an_sql_error_does_not_end_the_menu(place: Path) -> None:
    async def dsns() -> dict[str, str]:
        async with work.opened(place) as cluster:
            return work.environment(cluster, passwords=True)

    servers = asyncio.run(dsns())
    said: list[str] = []
    typed = iter(["2", "1", "after", "4"])

    def ask(_: str) -> str:
        answer = next(typed)
        if answer == "2":
            with psycopg.connect(servers["PRIMARY_DSN"]) as connection:
                connection.execute("drop table if exists dummy_table")
            with psycopg.connect(servers["REPLICA1_DSN"], autocommit=True) as connection:
                while connection.execute("select to_regclass('dummy_table')").fetchone() != (None,):
                    time.sleep(0.05)
        return answer

    Menu(servers, ask, said.append).run()
    assert any("error:" in line and "dummy_table" in line for line in said)
    assert any(line.startswith("Inserted after into PRIMARY") for line in said)


def test_messages_are_checked_and_ids_are_in_order() -> None:
    assert table.checked("x" * 255)
    for wrong in ("", "  ", "x" * 256, "a\0b"):
        with pytest.raises(ConfigError):
            table.checked(wrong)
    ids = []
    for _ in range(3):
        ids.append(table.new_id())
        time.sleep(0.002)
    assert sorted(ids) == ids
    assert {key.version for key in ids} == {7}


def test_the_command_says_what_is_missing(person: Person, place: Path) -> None:
    here = {"WALCAST_CLUSTER_DIR": str(place)}
    assert "there is no lesson 'nope'" in person.run("lab", "--lesson", "nope", code=2, env=here).error
    assert "--plain works in pipes" in person.run("lab", code=3, env=here).err
    assert "read-your-writes" in person.run("lab", "--lesson", "list").out
