"""The two stores that need no server: LadybugDB, a graph in a file, and tantivy, a search in a folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from social.stores import DEEPEST, MOST, Circle, Found, StoreDown, Suggestion, circle, contents, found
from walcast.app.settings import SinkSettings
from walcast.integrations.copies import Copies
from walcast.model import WalcastError
from walcast.sinks.search import Hit, SearchIndex

T = TypeVar("T")

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
_PEOPLE = "match (u:User) where not u._ghost return u._key, u.username, u.email"
_FOLLOWS = "match (a:User)-[f:Following]->(b:User) return a._key, b._key, f.since"


class EmbeddedGraph:
    """LadybugDB. Its file belongs to the pipeline's process, which answers for it."""

    name = "LadybugDB"

    def __init__(self, sink: SinkSettings, copies: Copies) -> None:
        self._copies = copies
        self._sink = sink.name

    def close(self) -> None:
        """Nothing is open."""

    def friends_of_friends(self, user: int, depth: int = DEEPEST) -> Circle:
        rows = self._ask(_REACHED % (max(1, min(depth, DEEPEST)), MOST), user=str(user))
        names = sorted({name for _, _, path in rows for name in path})
        edges = self._ask(_BETWEEN, names=names) if rows else []
        return circle([(row[0], row[1], row[2]) for row in rows], [(row[0], row[1]) for row in edges])

    def suggestions(self, user: int, limit: int = 5) -> list[Suggestion]:
        rows = self._ask(_SUGGESTED % int(limit), user=str(user))
        return [Suggestion(name, mutual) for name, mutual in rows]

    def contents(self) -> dict[str, Any]:
        return contents(self._ask(_PEOPLE), self._ask(_FOLLOWS))

    def _ask(self, cypher: str, **parameters: object) -> list[list[Any]]:
        try:
            return self._copies.query(self._sink, cypher, parameters)
        except WalcastError as error:
            raise StoreDown(error.message) from error


class EmbeddedSearch:
    """tantivy. Its folder is read directly, also while no pipeline runs."""

    name = "tantivy"

    def __init__(self, sink: SinkSettings, _: Copies) -> None:
        self._folder = sink.config.path

    def close(self) -> None:
        """Nothing is open."""

    def search(self, words: str, limit: int = 10, offset: int = 0) -> list[Found]:
        hits = self._ask(lambda index: index.search(words, limit=offset + limit))
        return [_found(hit) for hit in hits[offset:]]

    def more_like_this(self, post: int, limit: int = 10) -> list[Found]:
        hits = self._ask(lambda index: index.more_like(str(post), ["title", "body"], limit))
        return [_found(hit) for hit in hits]

    def contents(self) -> dict[str, Any]:
        documents = self._ask(lambda index: list(index.documents()))
        return {
            f"post {id_}": (body["title"], body["body"], body["author"]["username"])
            for id_, body in documents
        }

    def _ask(self, question: Callable[[SearchIndex], T]) -> T:
        try:
            return question(SearchIndex(self._folder, "post"))
        except WalcastError as error:
            raise StoreDown(error.message) from error


def _found(hit: Hit) -> Found:
    return found(hit.id, hit.score, hit.body, hit.highlights)
