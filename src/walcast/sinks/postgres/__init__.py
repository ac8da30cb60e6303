"""A copy in another PostgreSQL: exactly once, exact for every type."""

from walcast.sinks.postgres.config import PostgresSinkConfig
from walcast.sinks.postgres.sink import PostgresSink

__all__ = ["PostgresSink", "PostgresSinkConfig"]
