"""The graph in ArangoDB, asked in AQL over HTTP. Vertices are in the collection User, edges in Following."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from social.stores import DEEPEST, MOST, Circle, StoreDown, Suggestion, circle, contents
from social.stores.http import Http, Refused, basic
from walcast.app.settings import SinkSettings
from walcast.integrations.copies import Copies
from walcast.sinks.arangodb import ArangoDBConfig

# Breadth first, each vertex once: the first way to somebody is a shortest one. An edge may lead to nobody (null). A cluster has
# to be told which vertices it may meet (`with`).
REACHED: Final = """WITH User
FOR v, e, p IN 1..@depth OUTBOUND @start GRAPH @graph
  OPTIONS {order: "bfs", uniqueVertices: "global"}
  FILTER v != null AND v._id != @start
  SORT LENGTH(p.edges), v.username LIMIT @most
  RETURN [v.username, LENGTH(p.edges), p.vertices[*].username, v._id]"""
BETWEEN: Final = """WITH User
FOR id IN @ids
  FOR v IN 1..1 OUTBOUND id GRAPH @graph
  FILTER v != null AND v._id IN @ids
  LET name = DOCUMENT(id).username
  SORT name, v.username LIMIT 2000
  RETURN [name, v.username]"""
SUGGESTED: Final = """WITH User
LET near = (FOR v IN 1..1 OUTBOUND @start GRAPH @graph FILTER v != null RETURN DISTINCT v._id)
FOR m IN near
  FOR v IN 1..1 OUTBOUND m GRAPH @graph
  FILTER v != null AND v._id != @start AND v._id NOT IN near
  COLLECT name = v.username WITH COUNT INTO mutual
  SORT mutual DESC, name LIMIT @limit
  RETURN [name, mutual]"""
PEOPLE: Final = "FOR d IN User RETURN [d._key, d.username, d.email]"
FOLLOWS: Final = (
    "FOR d IN Following RETURN [PARSE_IDENTIFIER(d._from).key, PARSE_IDENTIFIER(d._to).key, d.since]"
)


class ArangoDBGraph:
    name = "ArangoDB"

    def __init__(self, sink: SinkSettings, _: Copies) -> None:
        config: ArangoDBConfig = sink.config
        self._http = Http(self.name, [config.url], basic(config.user, config.password.reveal()))
        self._cursor = f"/_db/{quote(config.database, safe='')}/_api/cursor"
        self._graph = config.graph

    def close(self) -> None:
        """Nothing is open."""

    def friends_of_friends(self, user: int, depth: int = DEEPEST) -> Circle:
        start, depth = f"User/{user}", max(1, min(depth, DEEPEST))
        rows = self._ask(REACHED, start=start, graph=self._graph, depth=depth, most=MOST)
        ids = [start, *(row[3] for row in rows)]
        edges = self._ask(BETWEEN, ids=ids, graph=self._graph) if rows else []
        return circle([(row[0], row[1], row[2]) for row in rows], [(row[0], row[1]) for row in edges])

    def suggestions(self, user: int, limit: int = 5) -> list[Suggestion]:
        rows = self._ask(SUGGESTED, start=f"User/{user}", graph=self._graph, limit=limit)
        return [Suggestion(name, mutual) for name, mutual in rows]

    def contents(self) -> dict[str, Any]:
        return contents(self._ask(PEOPLE), self._ask(FOLLOWS))

    def _ask(self, aql: str, **bound: object) -> list[list[Any]]:
        try:
            answer = self._http.ask("POST", self._cursor, {"query": aql, "bindVars": bound})
            rows: list[list[Any]] = answer["result"]
            while answer.get("hasMore"):
                answer = self._http.ask("POST", f"{self._cursor}/{answer['id']}")
                rows += answer["result"]
        except Refused as refused:
            raise StoreDown(f"ArangoDB refuses it: {_why(refused)}") from refused
        return rows


def _why(refused: Refused) -> str:
    number = refused.answer.get("errorNum") if isinstance(refused.answer, dict) else None
    if number in (1203, 1924):
        return "the graph has not been filled yet"
    return f"error {number or refused.status}"
