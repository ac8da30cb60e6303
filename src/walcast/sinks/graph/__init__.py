"""Vertices and edges in a LadybugDB file, exactly once."""

from walcast.sinks.graph.config import GraphConfig
from walcast.sinks.graph.store import GraphStore

__all__ = ["GraphConfig", "GraphStore"]
