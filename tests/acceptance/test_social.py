"""examples/social as those who use it see it: over HTTP, in a browser, and on the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Browser, Page, expect, sync_playwright
from werkzeug.serving import make_server

from social import create_app
from social.drawing import draw
from social.stage import Stage, stage
from social.stores import Circle, Friend
from social.tour import tour
from walcast.testing.postgres import Database

pytestmark = [pytest.mark.xdist_group("social")]
ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "var" / "screenshots"
"""What the pages looked like: for people to look at."""
PATIENCE = 60_000
"""Milliseconds: a machine that is busy may take long."""


@pytest.fixture(scope="module")
def running() -> Iterator[Stage]:
    with stage(0) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, which `make test` installs where it is missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        assert not os.environ.get("CI"), "there is no chromium; make browser installs it"
        pytest.skip("there is no chromium; make browser installs it")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, running: Stage) -> Iterator[Page]:
    """A window of somebody who is not known yet. A script that fails, or asks another host for something, fails the test."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, base_url=running.url)
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda asked: asked.url.startswith(running.url) or wrong.append(asked.url))
    yield opened
    context.close()
    assert wrong == []


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def log_in(page: Page, name: str) -> None:
    page.goto("/login")
    shot(page, "login")
    page.get_by_label("Username").fill(name)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("link", name="Log out")).to_be_visible()


def fresh(page: Page, path: str) -> None:
    """Loads the page until it says that it has what was written."""
    page.goto(path)
    while page.locator('[data-fresh="yes"]').count() == 0:
        page.reload()


def test_log_in_follow_and_see_friends_of_friends(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Six people")).to_be_visible()
    shot(page, "guest")
    log_in(page, "carol")
    expect(page.locator(".lags .lag")).to_have_count(2)
    page.goto("/user/alice")
    page.get_by_role("button", name="Follow", exact=True).click()
    expect(page.get_by_role("button", name="Unfollow")).to_be_visible()
    expect(page.locator(".held code")).to_have_text(re.compile(r"^[0-9a-f]+-1-[0-9A-F]+/[0-9A-F]+$"))
    fresh(page, "/user/carol/friends-of-friends")
    shot(page, "friends-of-friends")
    row = page.get_by_role("row").filter(has_text="carol → alice → bob → charlie → dave")
    expect(row.locator(".distance")).to_have_text("4")
    boxes = page.locator("svg .box text")
    expect(boxes).to_have_text(["carol", "alice", "bob", "carlos", "charlie", "dave"])
    expect(page.locator("svg .arrow.shortest")).to_have_count(5)
    expect(page.locator("svg .arrow:not(.shortest)")).to_have_count(1)  # bob follows carol: the way back


def test_write_find_more_like_it_and_the_search_box(page: Page) -> None:
    log_in(page, "carlos")
    page.get_by_label("Title").fill("Whales and bread")
    page.get_by_label("Text").fill(
        "Can a whale smell sourdough? The song of the humpback says nothing of dough."
    )
    page.get_by_role("button", name="Post").click()
    expect(page.get_by_role("heading", name="Whales and bread")).to_be_visible()
    shot(page, "post")
    fresh(page, f"{page.url}/more-like-this")
    shot(page, "more-like-this")
    expect(page.locator(".hit").first).to_be_visible()
    scores = [float(text) for text in page.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    expect(page.locator(".hit b").first).to_be_visible()
    page.get_by_role("searchbox").fill("humpback song")
    page.get_by_role("searchbox").press("Enter")
    expect(page.locator(".hit").filter(has_text="Whales and bread")).to_be_visible()
    shot(page, "search")


def test_a_store_is_stopped_says_so_and_catches_up(page: Page) -> None:
    log_in(page, "dave")
    page.goto("/replication")
    search = page.locator('[data-store="search"]')
    expect(search.locator("[data-state]")).to_have_text("streaming")
    search.get_by_role("button", name="Stop").click()
    expect(search.locator("[data-state]")).to_have_text("paused")
    page.goto("/write-post")
    page.get_by_label("Title").fill("Written while it slept")
    page.get_by_label("Text").fill("Nothing of this post about axolotls is in the search yet.")
    page.get_by_role("button", name="Post").click()
    page.goto("/search?q=axolotls")
    expect(page.get_by_role("alert")).to_contain_text("behind your last write")
    expect(page.locator(".hit")).to_have_count(0)
    shot(page, "stopped-store")
    page.goto("/replication")
    line = page.locator(".way tbody tr").filter(has_text="dave wrote 'Written while it slept'")
    expect(line.locator("td").nth(3)).to_have_text(re.compile(r"^\+"))
    expect(line.locator("td").nth(4)).to_have_text("waits")
    shot(page, "replication-behind")
    search.get_by_role("button", name="Start").click()
    expect(search.locator("[data-state]")).to_have_text("streaming")
    expect(line.locator("td").nth(4)).to_have_text(re.compile(r"^\+"))
    shot(page, "replication-caught-up")
    fresh(page, "/search?q=axolotls")
    expect(page.locator(".hit")).to_have_count(1)
    page.goto("/nothing")
    expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
    shot(page, "not-found")


def test_what_needs_a_copy_that_is_away_or_a_database_says_so(page: Page, browser: Browser) -> None:
    log_in(page, "bob")
    page.goto("/replication")
    graph = page.locator('[data-store="graph"]')
    graph.get_by_role("button", name="Stop").click()
    expect(graph.locator("[data-state]")).to_have_text("paused")
    page.goto("/user/bob/friends-of-friends")
    expect(page.get_by_role("heading", name="does not answer")).to_be_visible()
    expect(page.get_by_text("Graph (LadybugDB) is paused")).to_be_visible()
    expect(page.locator(".lag").filter(has_text="Graph")).to_contain_text("paused")
    shot(page, "copy-away")
    page.goto("/")
    expect(page.get_by_text("The graph cannot be asked now.")).to_be_visible()
    shot(page, "home-without-graph")
    page.get_by_role("link", name="Replication").click()
    graph.get_by_role("button", name="Start").click()
    expect(graph.locator("[data-state]")).to_have_text("streaming")
    for name, uri in (("postgresql-away", "postgresql://social@127.0.0.1:1/social"), ("no-uri", "")):
        app = create_app(SQLALCHEMY_DATABASE_URI=uri)
        with serving(app) as url:
            alone = browser.new_page(viewport={"width": 1200, "height": 900})
            alone.goto(url, timeout=PATIENCE)
            expect(alone.locator(".huge")).to_have_text("503")
            shot(alone, name)
            alone.close()
        for extension in ("social.router", "social.stores"):
            if extension in app.extensions:
                app.extensions[extension].close()


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_page_fits_a_desk_and_a_telephone(browser: Browser, running: Stage) -> None:
    """Light and wide, dark and narrow: nothing is wider than the window, and what it looks like is kept."""
    for kind, width, colours in (("desk", 1200, "light"), ("telephone", 390, "dark")):
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            base_url=running.url,
            color_scheme="dark" if colours == "dark" else "light",
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto("/sign-up")
        shot(page, f"{kind}-sign-up")
        log_in(page, "alice")
        for name, path in (
            ("home", "/"),
            ("people", "/users"),
            ("user", "/user/bob"),
            ("profile", "/user/alice/edit"),
            ("friends-of-friends", "/user/alice/friends-of-friends"),
            ("write", "/write-post"),
            ("post", "/post/5"),
            ("more-like-this", "/post/5/more-like-this"),
            ("search", "/search?q=whales"),
            ("replication", "/replication"),
            ("forbidden", "/user/bob/edit"),
        ):
            page.goto(path)
            expect(page.locator(".lags .lag")).to_have_count(2)
            shot(page, f"{kind}-{name}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        context.close()


def test_a_terminal_stops_and_starts_a_copy(running: Stage) -> None:
    """With what the page Replication says: a shell that reads the environment's file."""

    def shell(command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", f". {running.terminal}; {command}"],
            cwd="/",
            env={"PATH": os.defpath, "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state() -> str:
        status = json.loads(shell("walcast status --json"))
        return next(str(sink["state"]) for sink in status["sinks"] if sink["name"] == "search")

    assert str(running.terminal) in running.app.test_client().get("/replication").text
    shell("walcast pause search")
    assert state() == "paused"
    shell("walcast resume search")
    while state() != "streaming":
        """The test's own time limit bounds it."""


def test_every_page_every_form_a_killed_pipeline_and_equal_copies(running: Stage) -> None:
    """After the browser's tests: what they wrote is compared as well."""
    summary = tour(running)
    assert summary["ok"], json.dumps(summary)
    assert {store["name"] for store in summary["stores"]} == {"graph", "search"}


def test_flask_has_the_commands(tmp_path: Path, database: Database) -> None:
    """With SQLAlchemy's way to write a URI, which names a driver."""
    place = f"host={database.server.folder}&port={database.server.port}&user=postgres"
    uri = f"postgresql+psycopg:///{database.name}?{place}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "examples/social"),
        "SQLALCHEMY_DATABASE_URI": uri,
    }

    def flask(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "social", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    app = create_app(SQLALCHEMY_DATABASE_URI=uri)
    runner = app.test_cli_runner()
    assert "alice, bob, carol, carlos, charlie and dave" in runner.invoke(args=["initdb"]).output
    assert "it was there already" in runner.invoke(args=["initdb"]).output
    app.extensions["social.router"].close()
    assert database.execute("select count(*), (select count(*) from posts) from users") == [(6, 8)]
    status = json.loads(flask("walcast", "run", "--until", "now", "--no-progress", "--json"))
    assert {sink["name"]: sink["rows"] > 0 for sink in status["sinks"]} == {"graph": True, "search": True}
    at_rest = json.loads(flask("walcast", "status", "--json"))
    assert {sink["name"]: sink["state"] for sink in at_rest["sinks"]} == {
        "graph": "stopped",
        "search": "stopped",
    }
    shown = flask("walcast", "map", "show")
    assert "vertex User: a row of public.users" in shown
    assert "from User (follower_id) to User (followee_id)" in shown
    assert "author: object of public.users where public.users.id = author_id" in shown
    found = json.loads(flask("walcast", "doctor", "--json", code=6))
    assert "mapping_no_index" not in {finding["name"] for finding in found["findings"]}


def test_a_picture_holds_a_crowd_and_odd_names() -> None:
    friends = [Friend(f"n{n}", 1 + n % 3, ("me", *[f"n{n}"] * (1 + n % 3))) for n in range(150)]
    edges = [("me", "n0"), ("n0", "me"), ("n0", "n3"), ("n140", "n0"), ("n59", "n56")]
    picture = draw("me", Circle(friends, edges))
    assert len(picture.boxes) == 61
    assert [arrow.title for arrow in picture.arrows].count("n140 follows n0") == 0
    assert len(picture.arrows) == 4
    for arrow in picture.arrows:
        numbers = [int(number) for number in re.findall(r"-?\d+", arrow.path)]
        assert all(0 <= x <= picture.width for x in numbers[::2])
        assert all(0 <= y <= picture.height for y in numbers[1::2])
    for box in picture.boxes:
        assert 0 <= box.x < picture.width
        assert 0 <= box.y < picture.height
