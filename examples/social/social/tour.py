"""Goes through the whole application over HTTP, as somebody who looks at every page; stops a copy, kills the pipeline and
the stores that are servers, and at last compares the copies with PostgreSQL. Every step says what it expects; the first that is wrong ends it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection
from typing import Any

import psycopg
from sqlalchemy.orm import Session

from social.comparing import Equality, compare_graph, compare_search
from social.stage import Stage
from social.visitor import Answer, Visitor
from walcast.integrations.copies import Copies

PATIENCE = 60.0
_SQL = (
    "begin; insert into users (username, email) values ('phantom', 'p@example.org'); insert into posts (author_id, title, "
    "body) select id, 'A phantom', 'Who saw a wombat?' from users where username = 'phantom'; rollback",
    "insert into users (username, email) select 'guest' || n, 'guest' || n || '@example.org' from generate_series(1, 120) n",
    "insert into follows (follower_id, followee_id) select a.id, b.id from users a join users b on b.username = 'guest' || "
    "(1 + substr(a.username, 6)::int % 120) where a.username like 'guest%'",
    "insert into posts (author_id, title, body) select id, 'Greetings from ' || username, 'A wombat was seen near the old "
    "quarry.' from users where username like 'guest%'",
)


class Wrong(Exception):
    """Something is not as it should be."""


def tour(
    stage: Stage, say: Callable[[str], None] = lambda _: None, without: Collection[str] = ()
) -> dict[str, Any]:
    """`say` is told of each step; those `without` are left out. A summary that JSON can hold: `ok`, `seconds`, `pages`, `steps`, `error`, and of each copy
    what the demo says of its sinks."""
    began = time.monotonic()
    guide = Guide(stage)
    error = None
    try:
        for step in guide.steps:
            if step.__name__ in without:
                continue
            say(step.__name__.replace("_", " "))
            step()
            guide.done.append(step.__name__)
    except Wrong as wrong:
        error = f"{step.__name__}: {wrong}"
        print(f"social: {error}", file=sys.stderr)
    found = guide.compared if error is None else {}
    return {
        "ok": error is None and all(item.equal for item in found.values()) and bool(found),
        "seconds": round(time.monotonic() - began, 1),
        "url": stage.url,
        "pages": len(guide.pages),
        "steps": len(guide.done),
        "error": error,
        "stores": [_store(name, item, guide.latency.get(name)) for name, item in found.items()],
    }


def _store(name: str, found: Equality, latency: list[float | None] | None) -> dict[str, Any]:
    p50, p99 = (None if value is None else round(value * 1000, 1) for value in latency or (None, None))
    line: dict[str, Any] = {
        "name": name,
        "rows": found.rows,
        "equal": found.equal,
        "lag_ms_p50": p50,
        "lag_ms_p99": p99,
    }
    return line if found.difference is None else {**line, "difference": found.difference}


class Guide:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.guest, self.alice = Visitor(stage.url), Visitor(stage.url)
        self.copies = Copies(stage.folder / "state")
        self.done: list[str] = []
        self.compared: dict[str, Equality] = {}
        self.latency: dict[str, list[float | None]] = {}
        """Of each copy, p50 and p99 from commit to durable: before it was stopped, and not of catching up."""
        self.steps: list[Callable[[], None]] = [
            self.a_guest_reads_and_may_not_write,
            self.alice_logs_in_and_sees_whom_she_reaches,
            self.what_she_does_is_on_the_next_page,
            self.a_post_is_found_changed_and_gone,
            self.a_profile_changes_in_every_copy,
            self.raw_sql_arrives,
            self.a_stopped_copy_says_so_and_catches_up,
            self.a_killed_pipeline_loses_nothing,
            *([self.killed_servers_come_back] if stage.servers else []),
            self.somebody_comes_and_goes,
            self.the_copies_equal_the_source,
        ]

    @property
    def pages(self) -> set[str]:
        return self.guest.visited | self.alice.visited

    def a_guest_reads_and_may_not_write(self) -> None:
        for path in (
            "/",
            "/login",
            "/sign-up",
            "/users",
            "/user/alice",
            "/user/alice/friends-of-friends",
            "/post/1",
        ):
            _is(self.guest.get(path), 200)
        for path in ("/post/1/more-like-this", "/search", "/replication", "/replication.json", "/lags.json"):
            _is(self.guest.get(path), 200)
        for path in (
            "/user/nobody",
            "/post/999999",
            "/post/99999999999",
            "/user/nobody/friends-of-friends",
            "/nothing",
        ):
            _is(self.guest.get(path), 404)
        for path in (
            "/user/bob/follow",
            "/user/bob/unfollow",
            "/write-post",
            "/post/1/delete",
            "/replication/graph/stop",
        ):
            _says(self.guest.post(path), "Log in first")
        _is(self.guest.post("/write-post", {"title": "t", "body": "b"}, csrf=False), 400)
        _is(self.guest.post("/login", {"username": "nobody"}), 404)

    def alice_logs_in_and_sees_whom_she_reaches(self) -> None:
        _says(self.alice.post("/login", {"username": "alice"}), "Log out", "You may know", "carlos")
        page = self.alice.get("/user/alice/friends-of-friends")
        _says(page, "<svg", "alice → bob → charlie → dave")
        if _distances(page) != {"bob": 1, "carlos": 2, "carol": 2, "charlie": 2, "dave": 3}:
            raise Wrong(f"the distances are {_distances(page)}")
        _says(self.alice.get("/post/5/more-like-this"), 'class="score"', "<b>")
        _is(self.alice.get("/user/alice/edit"), 200)
        _is(self.alice.get("/user/bob/edit"), 403)
        _is(self.alice.get("/post/2/edit"), 403)
        _is(self.alice.post("/user/alice/follow"), 400)

    def what_she_does_is_on_the_next_page(self) -> None:
        _says(self.alice.post("/user/dave/follow"), "You follow dave")
        page = self._fresh("/user/alice/friends-of-friends")
        if _distances(page).get("dave") != 1:
            raise Wrong(f"dave is not one step away: {_distances(page)}")
        self.alice.post("/user/dave/unfollow")
        page = self._fresh("/user/alice/friends-of-friends", depth=2)
        if "dave" in _distances(page):
            raise Wrong("dave is still reached within two steps")

    def a_post_is_found_changed_and_gone(self) -> None:
        _is(self.alice.get("/write-post"), 200)
        for form in (
            {"title": "", "body": "b"},
            {"title": "t" * 201, "body": "b"},
            {"title": "t\0", "body": "b"},
        ):
            _is(self.alice.post("/write-post", form), 400)
        body = "A platypus lays eggs & swims. <script>alert(1)</script>"
        page = self.alice.post("/write-post", {"title": "The platypus", "body": body})
        _says(page, "&lt;script&gt;")
        path = page.url.removeprefix(self.stage.url)
        found = self._fresh("/search", q="platypus")
        _says(found, "<b>platypus</b>", "/more-like-this")
        if "<script>alert" in found.text:
            raise Wrong("the search does not escape what somebody wrote")
        _is(self.alice.get(f"{path}/edit"), 200)
        self.alice.post(f"{path}/edit", {"title": "The echidna", "body": "An echidna lays eggs, too."})
        _says(self._fresh("/search", q="echidna"), "<b>echidna</b>")
        if "<b>platypus" in self._fresh("/search", q="platypus").text:
            raise Wrong("the old text is still found")
        _is(self._fresh(f"{path}/more-like-this"), 200)
        self.alice.post(f"{path}/delete")
        if "<b>echidna" in self._fresh("/search", q="echidna").text:
            raise Wrong("a deleted post is still found")
        _is(self.alice.get(path), 404)

    def a_profile_changes_in_every_copy(self) -> None:
        form = {"email": "alice@example.org", "about": "Down the hole."}
        _is(self.alice.post("/user/alice/edit", {**form, "username": "bob"}), 400)
        _is(self.alice.post("/user/alice/edit", {**form, "username": "no/slash"}), 400)
        _says(self.alice.post("/user/alice/edit", {**form, "username": "alicia"}), "Saved", "Down the hole")
        _says(self._fresh("/user/alicia/friends-of-friends"), "alicia → bob → charlie → dave")
        _says(self._fresh("/search", q="demonstration"), "/user/alicia")
        self.alice.post("/user/alicia/edit", {**form, "username": "alice"})
        _says(self._fresh("/search", q="demonstration"), "/user/alice")

    def raw_sql_arrives(self) -> None:
        """By a connection that this application knows nothing of."""
        self._sql(*_SQL)
        self._until(
            lambda: "/user/guest" in self.alice.get("/search", q="wombat").text, "raw SQL's posts are found"
        )
        self._until(
            lambda: len(_distances(self.alice.get("/user/guest1/friends-of-friends"))) >= 110,
            "raw SQL's follows are in the graph: a chain of 119",
        )
        if 'class="card hit"' in self.alice.get("/search", q="phantom").text:
            raise Wrong("what was rolled back is found")
        _says(self.alice.get("/users", page=2), "page 2", "← Previous", "Next →")
        _says(self.alice.get("/search", q="wombat", page=3), "page 3")
        self.alice.post("/replication/bulk")
        _says(self._fresh("/search", q="ORM"), "of a bulk")
        _says(self.alice.get("/user/alice", page=2), "page 2")
        self.alice.post("/replication/bulk", {"away": 1})
        changes = self.guest.get("/replication.json").text
        for what in ("alice: 200 posts inserted by one statement", '"received"', '"durable"'):
            if what not in changes:
                raise Wrong(f"the way of changes does not show {what}")

    def a_stopped_copy_says_so_and_catches_up(self) -> None:
        status = self.copies.status() or {"sinks": []}
        self.latency = {sink["name"]: sink["latency"] for sink in status["sinks"]}
        _is(self.alice.post("/replication/nothing/stop"), 404)
        self.alice.post("/replication/graph/stop")
        _says(self.alice.get("/replication"), "paused")
        self.alice.post("/user/carol/follow")
        self._stale("/user/alice/friends-of-friends")
        _says(self.alice.post("/write-post", {"title": "Alone", "body": "A quokka came by."}), "Posted")
        _says(self._fresh("/search", q="quokka"), "<b>quokka</b>")
        self.alice.post("/replication/graph/start")
        self._until(
            lambda: _distances(self.alice.get("/user/alice/friends-of-friends")).get("carol") == 1,
            "the graph is back",
        )
        self._fresh("/user/alice/friends-of-friends")

    def a_killed_pipeline_loses_nothing(self) -> None:
        self.stage.pipeline.kill()
        self.alice.post("/user/carlos/follow")
        _says(self.alice.post("/write-post", {"title": "In the dark", "body": "A numbat came by."}), "Posted")
        page = self.alice.get("/search", q="numbat")
        _is(page, 200)
        if page.fresh is not False:
            raise Wrong("the search claims to have what no pipeline brought")
        self._stale("/user/alice/friends-of-friends")
        _is(self.alice.get("/replication"), 200)
        self.stage.pipeline.start()
        self._until(lambda: bool(self.alice.get("/search", q="numbat").fresh), "the search is back")
        _says(self._fresh("/search", q="numbat"), "<b>numbat</b>")
        self._until(
            lambda: _distances(self.alice.get("/user/alice/friends-of-friends")).get("carlos") == 1,
            "the graph is back",
        )

    def killed_servers_come_back(self) -> None:
        """One store after the other; what does not need it goes on without it."""
        _says(self.alice.post("/replication/graph/server/kill"), "was killed", "Start Neo4j")
        self.alice.post("/user/charlie/follow")
        _says(self.alice.get("/user/alice/friends-of-friends"), "Neo4j", "does not answer")
        _says(self.alice.get("/"), "The graph cannot be asked now")
        self.alice.post("/write-post", {"title": "No graph", "body": "A wallaby came by."})
        _says(self._fresh("/search", q="wallaby"), "<b>wallaby</b>")
        _says(self.alice.post("/replication/graph/server/start"), "is starting")
        _says(self.alice.post("/replication/search/server/kill"), "was killed", "Start OpenSearch")
        self.alice.post("/write-post", {"title": "No search", "body": "A potoroo came by."})
        _is(self.alice.get("/search", q="potoroo"), 503)
        _is(self.alice.get("/post/5/more-like-this"), 503)
        _says(self.alice.post("/replication/search/server/start"), "is starting")
        self._until(
            lambda: _distances(self.alice.get("/user/alice/friends-of-friends")).get("charlie") == 1,
            "Neo4j is back and has what was written meanwhile",
        )
        self.alice.post("/user/charlie/unfollow")
        _is(self._fresh("/user/alice/friends-of-friends"), 200)
        self._until(
            lambda: "<b>potoroo</b>" in self.alice.get("/search", q="potoroo").text,
            "OpenSearch is back and has what was written meanwhile",
        )

    def somebody_comes_and_goes(self) -> None:
        other = Visitor(self.stage.url)
        _says(other.post("/sign-up", {"username": "erin", "email": "erin@example.org", "about": ""}), "erin")
        other.post("/user/alice/follow")
        other.post("/write-post", {"title": "Short stay", "body": "A bilby came by."})
        _says(self._fresh("/user/erin/friends-of-friends", other), "erin → alice → bob")
        _is(self.alice.post("/user/erin/delete"), 403)
        _says(other.post("/user/erin/delete"), "erin is gone", "Log in")
        if "<b>bilby" in self._fresh("/search", other, q="bilby").text:
            raise Wrong("a post of somebody who is gone is still found")
        _is(other.get("/user/erin"), 404)
        _says(self.alice.get("/logout"), "Log in")

    def the_copies_equal_the_source(self) -> None:
        status = self.copies.status()
        if status is None:
            raise Wrong("no pipeline runs")
        for sink in ("graph", "search"):
            self.copies.ask(
                "wait", {"lsn": status["source"]["position"], "sink": sink, "timeout": PATIENCE}, PATIENCE + 5
            )
        extensions = self.stage.app.extensions
        stores = extensions["social.stores"]
        with extensions["social.router"].read() as lease, Session(lease.connection) as db:
            self.compared = {
                "graph": compare_graph(db, stores.graph),
                "search": compare_search(db, stores.search),
            }
        for name, found in self.compared.items():
            if not found.equal:
                raise Wrong(f"{name}: {found.difference}")

    def _stale(self, path: str) -> None:
        """A page of a graph that no pipeline writes: an embedded one cannot be asked, a server answers and says that it is
        behind."""
        page = self.alice.get(path)
        _is(page, 200 if self.stage.servers else 503)
        if self.stage.servers and page.fresh is not False:
            raise Wrong(f"{path} claims to have what nobody brought")

    def _fresh(self, path: str, who: Visitor | None = None, **query: object) -> Answer:
        """The page, which must come to say that it has what alice wrote: the application waits for a moment only, a machine
        that is busy may take longer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            page = (who or self.alice).get(path, **query)
            _is(page, 200)
            if page.fresh:
                return page
            if time.monotonic() > deadline:
                raise Wrong(f"{path} does not become fresh")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Wrong(f"it did not come to be that {what}")
            time.sleep(0.05)

    def _sql(self, *statements: str) -> None:
        with psycopg.connect(self.stage.uri, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def _is(answer: Answer, code: int) -> None:
    if answer.code != code:
        raise Wrong(f"{answer.url} answers {answer.code}, not {code}")


def _says(answer: Answer, *texts: str) -> None:
    for text in texts:
        if text not in answer.text:
            raise Wrong(f"{answer.url} ({answer.code}) does not say {text!r}")


def _distances(answer: Answer) -> dict[str, int]:
    """Who is reached, and over how many steps, as the page's table says."""
    rows = re.findall(
        r'href="/user/([^"/]+)"[^<]*<.*?<span class="distance[^>]*>(\d+)</span>',
        answer.text.partition("<tbody>")[2],
        re.S,
    )
    return {name: int(distance) for name, distance in rows}
