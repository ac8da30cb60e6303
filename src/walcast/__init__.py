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
    from walcast.app.library import Pipeline, arrow, changes, iter_arrow, iter_changes, wait
    from walcast.cluster.commit import Outcome, commit, commit_sync, resolve
    from walcast.cluster.routing.aio import AsyncRouter
    from walcast.cluster.routing.base import Lease, RouterSettings
    from walcast.cluster.routing.router import Router
    from walcast.cluster.routing.session import Session
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
        NodeUnavailable,
        OperatorError,
        Position,
        Relation,
        RetryableError,
        SinkContext,
        SinkUnavailable,
        SlotInUse,
        SlotLost,
        SourceUnavailable,
        SplitBrain,
        SpoolFull,
        TableId,
        TableStopped,
        TimelineHistory,
        Token,
        TokenInvalid,
        TypeChoices,
        ValueRangeError,
        WalcastError,
        WriteLost,
    )
    from walcast.model.secret import Secret
    from walcast.postgres.config import SourceConfig
    from walcast.postgres.source import PostgresSource
    from walcast.postgres.standing import take_token, take_token_async
    from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
    from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig
    from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig
    from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig

__version__ = "0.1.0"

__all__ = [
    "UNCHANGED",
    "AsyncRouter",
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
    "Lease",
    "Lsn",
    "Message",
    "NodeUnavailable",
    "OperatorError",
    "Outcome",
    "Pipeline",
    "PipelineSettings",
    "PipelineStatus",
    "Position",
    "PostgresSink",
    "PostgresSinkConfig",
    "PostgresSource",
    "Relation",
    "RetryableError",
    "Router",
    "RouterSettings",
    "Secret",
    "Session",
    "SinkContext",
    "SinkState",
    "SinkStatus",
    "SinkUnavailable",
    "SlotInUse",
    "SlotLost",
    "SourceConfig",
    "SourceUnavailable",
    "SplitBrain",
    "SpoolFull",
    "TableId",
    "TableStopped",
    "TimelineHistory",
    "Token",
    "TokenInvalid",
    "TypeChoices",
    "ValueRangeError",
    "WalcastError",
    "WriteLost",
    "__version__",
    "arrow",
    "changes",
    "commit",
    "commit_sync",
    "iter_arrow",
    "iter_changes",
    "resolve",
    "take_token",
    "take_token_async",
    "wait",
]

_ELSEWHERE: Final = {
    **dict.fromkeys(
        ("Pipeline", "arrow", "changes", "iter_arrow", "iter_changes", "wait"), "walcast.app.library"
    ),
    **dict.fromkeys(("Outcome", "commit", "commit_sync", "resolve"), "walcast.cluster.commit"),
    "AsyncRouter": "walcast.cluster.routing.aio",
    **dict.fromkeys(("Lease", "RouterSettings"), "walcast.cluster.routing.base"),
    "Router": "walcast.cluster.routing.router",
    "Session": "walcast.cluster.routing.session",
    "PipelineSettings": "walcast.engine.settings",
    **dict.fromkeys(("PipelineStatus", "SinkState", "SinkStatus"), "walcast.engine.status"),
    "Secret": "walcast.model.secret",
    "SourceConfig": "walcast.postgres.config",
    "PostgresSource": "walcast.postgres.source",
    **dict.fromkeys(("take_token", "take_token_async"), "walcast.postgres.standing"),
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
