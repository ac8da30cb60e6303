"""Vertices and edges in Neo4j, exactly once."""

from walcast.sinks.neo4j.config import Neo4jConfig
from walcast.sinks.neo4j.store import Neo4jStore

__all__ = ["Neo4jConfig", "Neo4jStore"]
