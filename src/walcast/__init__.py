"""Keeps every copy of your PostgreSQL data in step, and proves that they are.

    async for change in walcast.changes("postgresql://me@db/shop", ["shop.orders"]): ...

    pipeline = walcast.Pipeline("postgresql://me@db/shop", {"lake": walcast.DuckDBSinkConfig(Path("copy.duckdb"))})
    await pipeline.run()

See docs/how-to/library.md. Names are imported when they are first used: `import walcast` is quick, and needs no sink's
client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from walcast.app.library import Pipeline, arrow, changes, iter_arrow, iter_changes
    from walcast.app.token import Token
    from walcast.engine.settings import PipelineSettings
    from walcast.engine.status import PipelineStatus, SinkState, SinkStatus
    from walcast.model import (
        UNCHANGED,
        Batch,
        Change,
        Checkpoint,
        ConfigError,
        DecodeError,
        FatalError,
        Fenced,
        Lsn,
        Message,
        OperatorError,
        Position,
        Relation,
        RetryableError,
        SinkContext,
        SinkUnavailable,
        SlotInUse,
        SlotLost,
        SourceUnavailable,
        SpoolFull,
        TableId,
        TableStopped,
        TypeChoices,
        ValueRangeError,
        WalcastError,
    )
    from walcast.model.secret import Secret
    from walcast.postgres.config import SourceConfig
    from walcast.postgres.source import PostgresSource
    from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
    from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig
    from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig
    from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig

__version__ = "0.1.0"

__all__ = [
    "UNCHANGED",
    "Batch",
    "Change",
    "Checkpoint",
    "ConfigError",
    "DecodeError",
    "DuckDBSink",
    "DuckDBSinkConfig",
    "FatalError",
    "Fenced",
    "HandlerSink",
    "HandlerSinkConfig",
    "Handlers",
    "JsonLinesSink",
    "JsonLinesSinkConfig",
    "Lsn",
    "Message",
    "OperatorError",
    "Pipeline",
    "PipelineSettings",
    "PipelineStatus",
    "Position",
    "PostgresSink",
    "PostgresSinkConfig",
    "PostgresSource",
    "Relation",
    "RetryableError",
    "Secret",
    "SinkContext",
    "SinkState",
    "SinkStatus",
    "SinkUnavailable",
    "SlotInUse",
    "SlotLost",
    "SourceConfig",
    "SourceUnavailable",
    "SpoolFull",
    "TableId",
    "TableStopped",
    "Token",
    "TypeChoices",
    "ValueRangeError",
    "WalcastError",
    "__version__",
    "arrow",
    "changes",
    "iter_arrow",
    "iter_changes",
]

_ELSEWHERE: Final = {
    **dict.fromkeys(("Pipeline", "arrow", "changes", "iter_arrow", "iter_changes"), "walcast.app.library"),
    "Token": "walcast.app.token",
    "PipelineSettings": "walcast.engine.settings",
    **dict.fromkeys(("PipelineStatus", "SinkState", "SinkStatus"), "walcast.engine.status"),
    "Secret": "walcast.model.secret",
    "SourceConfig": "walcast.postgres.config",
    "PostgresSource": "walcast.postgres.source",
    **dict.fromkeys(("DuckDBSink", "DuckDBSinkConfig"), "walcast.sinks.duckdb"),
    **dict.fromkeys(("HandlerSink", "HandlerSinkConfig", "Handlers"), "walcast.sinks.handlers"),
    **dict.fromkeys(("JsonLinesSink", "JsonLinesSinkConfig"), "walcast.sinks.jsonl"),
    **dict.fromkeys(("PostgresSink", "PostgresSinkConfig"), "walcast.sinks.postgres"),
}
"""What is not in walcast.model."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'walcast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_ELSEWHERE.get(name, "walcast.model")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
