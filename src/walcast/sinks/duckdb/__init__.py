"""Tables in a DuckDB file, exactly once."""

from walcast.sinks.duckdb.config import DuckDBSinkConfig
from walcast.sinks.duckdb.sink import DuckDBSink

__all__ = ["DuckDBSink", "DuckDBSinkConfig"]
