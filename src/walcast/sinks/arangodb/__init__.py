"""Documents, vertices and edges in ArangoDB, exactly once."""

from walcast.sinks.arangodb.config import ArangoDBConfig
from walcast.sinks.arangodb.store import ArangoDBStore

__all__ = ["ArangoDBConfig", "ArangoDBStore"]
