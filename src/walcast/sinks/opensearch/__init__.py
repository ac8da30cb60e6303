"""Documents in OpenSearch and Elasticsearch, by external versions."""

from walcast.sinks.opensearch.config import SearchServerConfig
from walcast.sinks.opensearch.store import ElasticsearchStore, OpenSearchStore

__all__ = ["ElasticsearchStore", "OpenSearchStore", "SearchServerConfig"]
