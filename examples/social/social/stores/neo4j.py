"""The graph in Neo4j, asked by its own driver."""

from __future__ import annotations

from typing import Any, Final

from neo4j import READ_ACCESS, GraphDatabase
from neo4j.exceptions import DriverError, Neo4jError

from social.stores import DEEPEST, MOST, Circle, StoreDown, Suggestion, circle, contents
from walcast.app.settings import SinkSettings
from walcast.integrations.copies import Copies
from walcast.sinks.neo4j import Neo4jConfig

_PATIENCE: Final = 3.0
"""Seconds for a connection: a page waits for it."""
_REACHED = """
match p = any shortest (a:User {_key: $user})-[:Following]->{1,%d}(b:User)
where b._key <> $user and not b._ghost
return b.username, length(p), [n in nodes(p) | n.username]
order by length(p), b.username limit $most
"""
_BETWEEN = """
match (a:User)-[:Following]->(b:User) where a.username in $names and b.username in $names
return a.username, b.username order by a.username, b.username limit 2000
"""
_SUGGESTED = """
match (a:User {_key: $user})-[:Following]->(m:User)-[:Following]->(b:User)
where b._key <> $user and not b._ghost and not exists { (a)-[:Following]->(b) }
return b.username, count(distinct m) as mutual order by mutual desc, b.username limit $limit
"""
_PEOPLE = "match (u:User) where not u._ghost return u._key, u.username, u.email"
_FOLLOWS = "match (a:User)-[f:Following]->(b:User) return a._key, b._key, f.since"


class Neo4jGraph:
    """Its driver may be used by several threads."""

    name = "Neo4j"

    def __init__(self, sink: SinkSettings, _: Copies) -> None:
        config: Neo4jConfig = sink.config
        self._where = config.uri
        self._database = config.database or None
        self._driver = GraphDatabase.driver(
            config.uri,
            auth=(config.user, config.password.reveal()) if config.user else None,
            connection_timeout=_PATIENCE,
            connection_acquisition_timeout=_PATIENCE,
            max_transaction_retry_time=0,  # who waits for the page may load it again
            telemetry_disabled=True,
            notifications_min_severity="OFF",
        )

    def close(self) -> None:
        self._driver.close()

    def friends_of_friends(self, user: int, depth: int = DEEPEST) -> Circle:
        rows = self._ask(_REACHED % max(1, min(depth, DEEPEST)), user=str(user), most=MOST)
        names = sorted({name for _, _, path in rows for name in path})
        edges = self._ask(_BETWEEN, names=names) if rows else []
        return circle([(row[0], row[1], row[2]) for row in rows], [(row[0], row[1]) for row in edges])

    def suggestions(self, user: int, limit: int = 5) -> list[Suggestion]:
        rows = self._ask(_SUGGESTED, user=str(user), limit=limit)
        return [Suggestion(name, mutual) for name, mutual in rows]

    def contents(self) -> dict[str, Any]:
        return contents(self._ask(_PEOPLE), self._ask(_FOLLOWS))

    def _ask(self, cypher: str, **parameters: object) -> list[list[Any]]:
        try:
            with self._driver.session(database=self._database, default_access_mode=READ_ACCESS) as session:
                return [list(record.values()) for record in session.run(cypher, parameters)]
        except Neo4jError as error:
            raise StoreDown(f"Neo4j at {self._where} says {error.code}") from error
        except (DriverError, OSError) as error:
            raise StoreDown(f"Neo4j at {self._where} does not answer") from error
