"""Documents, vertices and edges as JSONB in PostgreSQL, exactly once."""

from walcast.sinks.documents.config import DocumentsConfig
from walcast.sinks.documents.store import DocumentsStore

__all__ = ["DocumentsConfig", "DocumentsStore"]
