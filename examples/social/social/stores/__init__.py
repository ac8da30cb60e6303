"""What the pages ask of the graph and of the search. A file here for each kind of store that can answer.

Which one it is, walcast.toml says: the types of the sinks `graph` and `search`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from markupsafe import escape

from walcast.app.settings import Settings, SinkSettings
from walcast.integrations.copies import Copies
from walcast.model import ConfigError

DEEPEST: Final = 1000
MOST: Final = 200
EXCERPT: Final = 200
_MAKERS: Final = {
    "graph": "embedded:EmbeddedGraph",
    "neo4j": "neo4j:Neo4jGraph",
    "arangodb": "arangodb:ArangoDBGraph",
    "search": "embedded:EmbeddedSearch",
    "opensearch": "clusters:ClusterSearch",
    "elasticsearch": "clusters:ClusterSearch",
}


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
    """It cannot be asked now; the message is for the person."""


class Store(Protocol):
    name: str
    """What it is, for people."""

    def contents(self) -> dict[str, Any]:
        """All that it holds, to be compared with PostgreSQL: see comparing.py."""
        ...

    def close(self) -> None: ...


class Graph(Store, Protocol):
    """Each raises StoreDown."""

    def friends_of_friends(self, user: int, depth: int = DEEPEST) -> Circle: ...
    def suggestions(self, user: int, limit: int = 5) -> list[Suggestion]: ...


class Search(Store, Protocol):
    """Each raises StoreDown."""

    def search(self, words: str, limit: int = 10, offset: int = 0) -> list[Found]: ...
    def more_like_this(self, post: int, limit: int = 10) -> list[Found]: ...


def open_graph(settings: Settings, copies: Copies) -> Graph:
    return cast("Graph", _opened(settings, "graph", copies))


def open_search(settings: Settings, copies: Copies) -> Search:
    return cast("Search", _opened(settings, "search", copies))


def _opened(settings: Settings, name: str, copies: Copies) -> Any:
    sink: SinkSettings | None = next((sink for sink in settings.sinks if sink.name == name), None)
    if sink is None or sink.type not in _MAKERS:
        known = ", ".join(_MAKERS)
        raise ConfigError(f"{settings.path} has no sink {name!r} that can be asked", hint=f"types: {known}")
    module, _, maker = _MAKERS[sink.type].partition(":")
    return getattr(importlib.import_module(f"social.stores.{module}"), maker)(sink, copies)


def circle(rows: list[tuple[str, int, list[str]]], edges: list[tuple[str, str]]) -> Circle:
    return Circle([Friend(name, distance, tuple(path)) for name, distance, path in rows], edges)


def contents(people: list[list[Any]], follows: list[list[Any]]) -> dict[str, Any]:
    """What a graph holds: people as (key, name, email), who follows whom as (key, key, since)."""
    return {
        **{f"user {key}": (name, email) for key, name, email in people},
        **{f"follow {ours} to {theirs}": since for ours, theirs, since in follows},
    }


def found(id_: str, score: float, body: Mapping[str, Any], marked: Mapping[str, str]) -> Found:
    """`marked`: HTML by field, of those in which something matched."""
    return Found(
        int(id_),
        body["author"]["username"],
        marked.get("title") or str(escape(body["title"])),
        marked.get("body") or str(escape(str(body["body"])[:EXCERPT])),
        score,
    )
