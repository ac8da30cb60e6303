"""Documents in tantivy indexes: full text, more like this, highlights."""

from walcast.sinks.search.config import SearchConfig
from walcast.sinks.search.reading import Hit, SearchIndex
from walcast.sinks.search.store import SearchStore

__all__ = ["Hit", "SearchConfig", "SearchIndex", "SearchStore"]
