"""What examples/social refuses, and what it says when something is missing. No pipeline runs here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from social import create_app
from social.seeding import FOLLOWS, PEOPLE, fill
from walcast.testing import PostgresServer
from walcast.testing.postgres import Database

SEED = {
    "/": "GET",
    "/user/<username>": "GET",
    "/user/<username>/friends-of-friends": "GET",
    "/post/<int(max=2147483647):post_id>/more-like-this": "GET",
    "/login": "GET POST",
    "/logout": "GET",
    "/user/<username>/follow": "POST",
    "/user/<username>/unfollow": "POST",
    "/write-post": "GET POST",
}
"""The application that this one grew from had these."""
OPEN = {"/login", "/sign-up"}
"""Where somebody who is not logged in may send a form to."""


@pytest.fixture
def app(database: Database) -> Iterator[Flask]:
    with made(database.dsn()) as app:
        with app.extensions["social.router"].write() as lease:
            assert fill(lease.connection)
        yield app


class made:
    """The application, whose connections end with the context."""

    def __init__(self, uri: str) -> None:
        self._app = create_app(SQLALCHEMY_DATABASE_URI=uri)

    def __enter__(self) -> Flask:
        return self._app

    def __exit__(self, *_: object) -> None:
        for name in ("social.router", "social.stores"):
            if name in self._app.extensions:
                self._app.extensions[name].close()


def csrf(client: FlaskClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/login").text)
    assert found is not None
    return found[1]


def log_in(client: FlaskClient, name: str = "alice") -> str:
    token = csrf(client)
    assert client.post("/login", data={"username": name, "csrf": token}).status_code == 302
    return token


def posts_of(app: Flask) -> list[str]:
    """The path of every form, with something in its place that is there."""
    there = {"username": "bob", "post_id": 1, "sink": "graph", "action": "stop"}
    with app.test_request_context():
        adapter = app.url_map.bind("localhost")
        return [
            adapter.build(rule.endpoint, {name: there[name] for name in rule.arguments}, method="POST")
            if "server" not in rule.rule
            else "/replication/graph/server/kill"
            for rule in app.url_map.iter_rules()
            if "POST" in (rule.methods or ())
        ]


def test_the_seeds_paths_and_people(app: Flask) -> None:
    rules: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        rules.setdefault(rule.rule, set()).update((rule.methods or set()) - {"HEAD", "OPTIONS"})
    assert {path: " ".join(sorted(rules.get(path, ()))) for path in SEED} == SEED
    assert PEOPLE == ("alice", "bob", "carol", "carlos", "charlie", "dave")
    assert set(FOLLOWS) == {
        ("alice", "bob"),
        ("bob", "carol"),
        ("bob", "carlos"),
        ("bob", "charlie"),
        ("charlie", "dave"),
    }


def test_every_form_is_refused_without_its_token_and_without_a_login(app: Flask) -> None:
    guest, alice = app.test_client(), app.test_client()
    token, hers = csrf(guest), log_in(alice)
    paths = posts_of(app)
    assert len(paths) >= 12
    for path in paths:
        for form in ({}, {"csrf": ""}, {"csrf": "x" + hers}):
            assert alice.post(path, data=form).status_code == 400, path
        answer = guest.post(path, data={"csrf": token})
        if path not in OPEN:
            assert (answer.status_code, answer.headers["Location"]) == (302, "/login"), path
    for path in ("/write-post", "/post/1/edit", "/user/alice/edit"):
        answer = guest.get(path)
        assert answer.headers["Location"] == f"/login?next={path}"
    there = guest.post("/login", data={"username": "bob", "csrf": token, "next": "/write-post"})
    assert there.headers["Location"] == "/write-post"
    for elsewhere in ("//example.org", "https://example.org", "/\\example.org"):
        there = guest.post("/login", data={"username": "bob", "csrf": token, "next": elsewhere})
        assert there.headers["Location"] == "/"
    assert "carol" in app.test_client().get("/user/carol").text


def test_what_is_not_there_is_a_page_of_ours(app: Flask) -> None:
    visitor = app.test_client()
    for path in (
        "/nothing",
        "/user/nobody",
        "/user/nobody/friends-of-friends",
        "/user/no%00body",
        "/user/' or 1=1",
        "/post/999999",
        "/post/99999999999",
        "/post/-1",
        "/post/one",
        "/post/999999/more-like-this",
        "/replication/nothing",
    ):
        answer = visitor.get(path)
        assert answer.status_code == 404, path
        assert "Not Found" in answer.text
        assert 'class="top"' in answer.text


def test_following_twice_is_following_once(app: Flask, database: Database) -> None:
    alice = app.test_client()
    token = log_in(alice)
    for _ in range(2):
        there = alice.post("/user/dave/follow", data={"csrf": token})
        assert there.headers["Location"] == "/user/dave"
    count = "select count(*) from follows where follower_id = 1 and followee_id = 6"
    assert database.execute(count) == [(1,)]
    assert alice.post("/user/alice/follow", data={"csrf": token}).status_code == 400
    for _ in range(2):
        assert alice.post("/user/dave/unfollow", data={"csrf": token}).status_code == 302
    assert database.execute(count) == [(0,)]


def test_pages_of_lists(app: Flask) -> None:
    alice = app.test_client()
    token = log_in(alice)
    alice.post("/replication/bulk", data={"csrf": token})
    for path in ("/", "/user/alice"):
        first, second = alice.get(path), alice.get(f"{path}?page=2")
        titles = [re.findall(r"Note \d+ of a bulk", page.text) for page in (first, second)]
        assert len(titles[0]) == len(titles[1]) == 10
        assert not set(titles[0]) & set(titles[1])
        assert "Older" in first.text
        assert "Newer" not in first.text
        assert "Newer" in second.text
    last = alice.get("/user/alice?page=21").text
    assert "Why I write here" in last
    assert "Older" not in last
    for number in ("0", "-3", "x", "99999999999999999999", ""):
        assert alice.get(f"/?page={number}").status_code == 200
        assert alice.get(f"/users?page={number}").status_code == 200


def test_a_form_that_cannot_be_kept_says_why_and_keeps_what_was_typed(app: Flask) -> None:
    alice = app.test_client()
    token = log_in(alice)
    for form, why in (
        ({"title": " ", "body": "typed"}, "The title is empty"),
        ({"title": "typed", "body": ""}, "The body is empty"),
        ({"title": "t" * 201, "body": "typed"}, "too long: 201"),
        ({"title": "typed", "body": "a\0b"}, "NUL"),
    ):
        answer = alice.post("/write-post", data={**form, "csrf": token})
        assert answer.status_code == 400
        assert why in answer.text
        assert "typed" in answer.text
    answer = alice.post("/user/alice/edit", data={"username": "bob", "email": "a@example.org", "csrf": token})
    assert "taken" in answer.text
    assert alice.post("/user/bob/follow", data={"csrf": token, "title": "x" * (1 << 20)}).status_code == 413


def test_without_postgresql_a_page_says_so_and_comes_back(
    postgres_factory: Callable[..., PostgresServer],
) -> None:
    server = postgres_factory(18)
    server.execute("create database social")
    uri = server.dsn("social")
    with made(uri) as app:
        visitor = app.test_client()
        empty = visitor.get("/")
        assert empty.status_code == 503
        assert "flask --app social initdb" in empty.text
        assert "initdb" in app.test_cli_runner().invoke(args=["initdb", "--help"]).output
        with app.extensions["social.router"].write() as lease:
            fill(lease.connection)
        token = log_in(visitor)
        server.kill()
        for path in ("/", "/user/alice", "/login", "/post/1"):
            says_so(visitor.get(path), again=True)
        says_so(visitor.post("/write-post", data={"title": "t", "body": "b", "csrf": token}), again=False)
        assert visitor.get("/lags.json").status_code == 200
        without = visitor.get("/replication")
        assert without.status_code == 200
        assert "PostgreSQL does not answer" in without.text
        with made(uri) as late:  # it starts all the same
            says_so(late.test_client().get("/"), again=True)
            said = late.test_cli_runner().invoke(args=["initdb"])
            assert said.exit_code == 1
            assert "no server can be reached" in said.output
            server.start()
            await_page(late.test_client())
        assert "Log out" in await_page(visitor)


def test_without_a_database_named_a_page_asks_for_one() -> None:
    with made("") as app:
        answer = app.test_client().get("/")
        assert answer.status_code == 503
        assert "export SQLALCHEMY_DATABASE_URI=" in answer.text


def says_so(answer: Any, *, again: bool) -> None:
    assert answer.status_code == 503
    assert "PostgreSQL does not answer" in answer.text
    assert 'class="top"' in answer.text
    assert answer.headers["Retry-After"] == "5"
    assert ("Refresh" in answer.headers) is again
    assert ("not certain" in answer.text) is not again


def await_page(client: FlaskClient) -> str:
    """Returns once the home page is there; the test's own time limit bounds it."""
    while (answer := client.get("/")).status_code != 200:
        assert answer.status_code == 503
    return answer.text
