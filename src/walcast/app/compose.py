"""The composition root: settings become a source, sinks and a pipeline."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

from walcast.app import registry
from walcast.app.mapping import declared
from walcast.app.settings import Settings
from walcast.engine import Pipeline
from walcast.engine.ahead import ReadAhead
from walcast.engine.mapped import mapped_sink
from walcast.mapping import DataMapping
from walcast.model import ConfigError, Finding, OperatorError, Sink, SinkContext, SinkFactory, Source
from walcast.model.derived import DerivedStore
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name, connect
from walcast.postgres.preflight import preflight as preflight_source
from walcast.postgres.preflight.server import version_finding
from walcast.postgres.rereader import PostgresReader
from walcast.postgres.source import PostgresSource


def source_config(settings: Settings) -> SourceConfig:
    """The source's settings, with what the pipeline's settings say of it."""
    return dataclasses.replace(
        settings.source,
        name=settings.pipeline.name,
        budget_bytes=settings.pipeline.memory,
        part_bytes=min(settings.source.part_bytes, settings.pipeline.memory // 4),
        batch_bytes=min(settings.source.batch_bytes, settings.pipeline.memory // 8),
        spool_dir=settings.source.spool_dir or str(settings.pipeline.state_dir / "spool"),
    )


async def connect_source(config: SourceConfig, role: str) -> Connection:
    """A connection beside the pipeline's own. Raises what `connect` raises, and OperatorError for a server too old."""
    connection = await connect(config.dsn, application=application_name(config.name, role))
    for finding in version_finding(connection.info.server_version):
        await connection.close()
        raise OperatorError(finding.message, hint=finding.hint)
    return connection


def make_source(settings: Settings) -> PostgresSource:
    return PostgresSource(source_config(settings))


def sink_factories(settings: Settings) -> dict[str, SinkFactory]:
    """How the pipeline opens each sink, again after each failure."""

    mapping = declared(settings.mapping, settings.path)
    source = source_config(settings)
    return {
        sink.name: sink_factory(registry.sink(sink.type), sink.config, mapping, source)
        for sink in settings.sinks
    }


def sink_factory(
    entry: registry.SinkEntry, config: Any, mapping: DataMapping, source: SourceConfig
) -> SinkFactory:
    """How one sink is opened: as it is, or as what the mapping fills. Raises ConfigError when it has nothing to hold."""
    if not entry.derived:
        return lambda context: cast("AbstractAsyncContextManager[Sink]", entry.build(config, context))
    if not mapping:
        raise ConfigError(
            f"a sink of type {entry.target.partition(':')[0].rpartition('.')[2]} holds what a mapping makes, and there is no mapping",
            hint="add [mapping.documents.NAME] with table = ...; see docs/how-to/map.md",
        )

    def made(context: SinkContext) -> AbstractAsyncContextManager[Sink]:
        application = application_name(source.name, f"{context.sink}:read")
        reader = PostgresReader(source.dsn, application, context.source)
        store = cast("DerivedStore", entry.build(config, context))
        file = Path(context.state_dir) / "sinks" / f"{context.sink}.shown.json"
        ahead = ReadAhead(file, context.source)
        return mapped_sink(store, mapping, reader, config.targets, config.policies, ahead)

    return made


_NO_SINKS = ("there is no sink", "add a [sinks.NAME] table; kinds: walcast sinks")


def make_pipeline(settings: Settings, source: Source, *, standby: bool = False) -> Pipeline:
    """The pipeline, not started. Raises ConfigError when there is no sink."""
    if not settings.sinks:
        raise ConfigError(_NO_SINKS[0], hint=_NO_SINKS[1])
    engine = dataclasses.replace(settings.engine, budget_bytes=settings.pipeline.memory, hot_spare=standby)
    return Pipeline(
        source, sink_factories(settings), settings.pipeline.state_dir, engine, name=settings.pipeline.name
    )


async def preflight(settings: Settings) -> list[Finding]:
    """What would stand in the way of `run`: of the source, and of the sinks' clients."""
    findings = await preflight_source(source_config(settings))
    if not settings.sinks:
        findings.append(Finding("error", "no_sinks", *_NO_SINKS))
    return findings
