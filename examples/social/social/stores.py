"""What the pages ask of the graph and of the search; and the two embedded stores, which need no server.

Another pair of stores is another file with these two classes: see servers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from markupsafe import escape

from walcast.integrations.copies import Copies
from walcast.model import WalcastError
from walcast.sinks.search import Hit, SearchIndex

DEEPEST = 1000
MOST = 200
EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Friend:
    """Somebody who is reached over `path`: the usernames from the one who was asked for to this one."""

    username: str
    distance: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Circle:
    """All who are reached, nearest first, and every edge between them."""

    friends: list[Friend]
    edges: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Somebody to follow, and how many of those that one follows do."""

    username: str
    mutual: int


@dataclass(frozen=True, slots=True)
class Found:
    """A post. `title` and `excerpt` are HTML in which the words that matched are marked."""

    id: int
    username: str
    title: str
    excerpt: str
    score: float


class StoreDown(Exception):
    """It cannot be asked now."""


class Graph(Protocol):
    def friends_of_friends(self, user: int, depth: int = DEEPEST) -> Circle: ...
    def suggestions(self, user: int, limit: int = 5) -> list[Suggestion]: ...


class Search(Protocol):
    def search(self, words: str, limit: int = 10, offset: int = 0) -> list[Found]: ...
    def more_like_this(self, post: int, limit: int = 10) -> list[Found]: ...


_REACHED = """
match p = (a:User {_key: $user})-[e:Following* shortest 1..%d]->(b:User)
where b._key <> $user and not b._ghost
return b.username, length(e), properties(nodes(p), 'username')
order by length(e), b.username limit %d
"""
_BETWEEN = """
match (a:User)-[:Following]->(b:User) where a.username in $names and b.username in $names
return a.username, b.username order by a.username, b.username limit 2000
"""
_SUGGESTED = """
match (a:User {_key: $user})-[:Following]->(m:User)-[:Following]->(b:User)
where b._key <> $user and not b._ghost and not exists { match (a)-[:Following]->(b) }
return b.username, count(distinct m._key) as mutual order by mutual desc, b.username limit %d
"""


class EmbeddedGraph:
    """LadybugDB. Its file belongs to the pipeline's process, which answers for it."""

    def __init__(self, copies: Copies, sink: str = "graph") -> None:
        self._copies = copies
        self._sink = sink

    def friends_of_friends(self, user: int, depth: int = DEEPEST) -> Circle:
        rows = self._ask(_REACHED % (max(1, min(depth, DEEPEST)), MOST), user=str(user))
        friends = [Friend(name, distance, tuple(path)) for name, distance, path in rows]
        if not friends:
            return Circle([])
        names = sorted({name for friend in friends for name in friend.path})
        edges = self._ask(_BETWEEN, names=names)
        return Circle(friends, [(source, target) for source, target in edges])

    def suggestions(self, user: int, limit: int = 5) -> list[Suggestion]:
        return [
            Suggestion(name, mutual) for name, mutual in self._ask(_SUGGESTED % int(limit), user=str(user))
        ]

    def _ask(self, cypher: str, **parameters: object) -> list[list[Any]]:
        try:
            return self._copies.query(self._sink, cypher, parameters)
        except WalcastError as error:
            raise StoreDown(error.message) from error


class EmbeddedSearch:
    """tantivy. Its folder is read directly, also while no pipeline runs."""

    def __init__(self, folder: Path, collection: str = "post") -> None:
        self._folder = folder
        self._collection = collection

    def search(self, words: str, limit: int = 10, offset: int = 0) -> list[Found]:
        hits = self._ask(lambda index: index.search(words, limit=offset + limit))
        return [_found(hit) for hit in hits[offset:]]

    def more_like_this(self, post: int, limit: int = 10) -> list[Found]:
        return [
            _found(hit)
            for hit in self._ask(lambda index: index.more_like(str(post), ["title", "body"], limit))
        ]

    def _ask(self, question: Callable[[SearchIndex], list[Hit]]) -> list[Hit]:
        try:
            return question(SearchIndex(self._folder, self._collection))
        except WalcastError as error:
            raise StoreDown(error.message) from error


def _found(hit: Hit) -> Found:
    title, body = str(hit.body["title"]), str(hit.body["body"])
    return Found(
        int(hit.id),
        hit.body["author"]["username"],
        hit.highlights.get("title") or str(escape(title)),
        hit.highlights.get("body") or str(escape(body[:EXCERPT])),
        hit.score,
    )
