"""JSON Lines files, each change once."""

from walcast.sinks.jsonl.config import JsonLinesSinkConfig
from walcast.sinks.jsonl.sink import JsonLinesSink

__all__ = ["JsonLinesSink", "JsonLinesSinkConfig"]
