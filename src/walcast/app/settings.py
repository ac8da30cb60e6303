"""The configuration: walcast.toml with WALCAST_* variables over it, parsed once into frozen values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from walcast.app import registry
from walcast.app.binding import Place, bind, human, settings_of, unknown_key
from walcast.app.toml import TomlFile
from walcast.engine.settings import PipelineSettings
from walcast.mapping import DataMapping
from walcast.model import ConfigError
from walcast.model.secret import Secret
from walcast.postgres.config import SourceConfig

DEFAULT_FILE = Path("walcast.toml")


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What the pipeline is called, where it keeps its state, and how much memory it may use."""

    name: str = field(
        default="walcast", metadata={"help": "seen in application_name and in the copies' checkpoints"}
    )
    state_dir: Path = field(
        default=Path(".walcast"),
        metadata={
            "help": "checkpoints of sinks that keep none, the spool, the control socket; one process owns it"
        },
    )
    memory: int = field(
        default=64 << 20,
        metadata={
            "unit": "bytes",
            "help": "for batches in all queues together; the reader waits at this limit",
        },
    )

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 40:
            raise ValueError("name must have 1 to 40 characters")
        if self.memory < 8 << 20:
            raise ValueError("memory must be at least 8MB")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata={"help": "the least severe event that is logged; cell values only at debug"}
    )
    format: Literal["text", "json"] = field(
        default="text", metadata={"help": "key=value or JSON, one event a line"}
    )


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Metrics and health over HTTP: /metrics, /livez, /readyz."""

    listen: str | None = field(
        default=None, metadata={"help": "where to listen, such as 127.0.0.1:9187; nothing listens by default"}
    )


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """A sink by name: its type and its own settings."""

    name: str
    type: str
    config: Any


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. `path` is the file it came from, None when there was none."""

    pipeline: PipelineConfig
    engine: PipelineSettings
    source: SourceConfig
    sinks: tuple[SinkSettings, ...]
    http: HttpSettings
    log: LogSettings
    path: Path | None = None
    mapping: DataMapping = field(default_factory=DataMapping)
    locate: Callable[[tuple[str, ...]], str] = field(default=".".join, compare=False)
    """Where a setting was written: file and line, or an environment variable."""


SECTIONS: dict[str, type[Any]] = {
    "pipeline": PipelineConfig,
    "engine": PipelineSettings,
    "source": SourceConfig,
    "http": HttpSettings,
    "log": LogSettings,
}


_OTHERS = ("sinks", "mapping")


def load(
    path: Path | None = None, environment: Mapping[str, str] | None = None, dsn: str | None = None
) -> Settings:
    """Reads the file (default ./walcast.toml; none at all when the environment says enough) and the environment.

    `dsn` overrides source.dsn. Raises ConfigError naming file, line and key.
    """
    environment = os.environ if environment is None else environment
    if path is None and not DEFAULT_FILE.exists():
        file = TomlFile(None)
        file.overlay(environment)
        if "source" not in file.data and dsn is None:
            raise ConfigError(
                f"{DEFAULT_FILE}: there is no such file in {Path.cwd()}",
                hint="make one with: walcast init, or set WALCAST_SOURCE__DSN",
            )
    else:
        file = TomlFile.read(path or DEFAULT_FILE)
        file.overlay(environment)
    if dsn is not None:
        file.data.setdefault("source", {})["dsn"] = dsn
    return _settings(file)


def _settings(file: TomlFile) -> Settings:
    place = Place((), file.locate)
    for key in file.data:
        if key not in SECTIONS and key not in _OTHERS:
            raise unknown_key(place.child(key), key, [*SECTIONS, *_OTHERS])
    bound = {name: bind(kind, _table(file, name), place.child(name)) for name, kind in SECTIONS.items()}
    sinks = tuple(
        _sink(name, table, place.child("sinks").child(name)) for name, table in _table(file, "sinks").items()
    )
    mapping = bind(DataMapping, _table(file, "mapping"), place.child("mapping"))
    return Settings(sinks=sinks, path=file.path, mapping=mapping, locate=file.locate, **bound)


def _table(file: TomlFile, name: str) -> dict[str, Any]:
    value = file.data.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{file.locate((name,))}: expected a table", hint=f"write [{name}]")
    return value


def _sink(name: str, table: Any, place: Place) -> SinkSettings:
    if not isinstance(table, dict):
        raise ConfigError(f"{place}: expected a table", hint=f"write [sinks.{name}]")
    if "type" not in table:
        kinds = ", ".join(sorted(registry.sinks()))
        raise ConfigError(f"{place}: which type of sink?", hint=f'add type = "..."; types: {kinds}')
    try:
        entry = registry.sink(str(table["type"]))
        kind = entry.config_type()
    except ConfigError as error:
        raise ConfigError(f"{place.child('type')}: {error.message}", hint=error.hint) from error
    rest = {key: value for key, value in table.items() if key != "type"}
    return SinkSettings(name, str(table["type"]), bind(kind, rest, place))


def shown(settings: Settings, *, units: bool = False) -> dict[str, Any]:
    """Every setting in force as plain data, secrets as `****`; sizes and times in bytes and seconds, or with `units` as a
    person writes them."""
    sections = {name: _plain(getattr(settings, name), units) for name in SECTIONS}
    sinks = {sink.name: {"type": sink.type, **_plain(sink.config, units)} for sink in settings.sinks}
    mapping = {"mapping": _said(settings.mapping)} if settings.mapping or settings.mapping.declared else {}
    return {**sections, "sinks": sinks, **mapping}


def _said(value: Any) -> Any:
    """A mapping as plain data: what it says, without what it leaves open."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _said(given)
            for f in dataclasses.fields(value)
            if (given := getattr(value, f.name)) not in (None, (), {})
        }
    if isinstance(value, Mapping):
        return {name: _said(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_said(item) for item in value]
    return f"{value.__module__}:{value.__qualname__}" if callable(value) else value


def _plain(config: Any, units: bool) -> dict[str, Any]:
    result = {}
    for f in settings_of(type(config)).values():
        value = getattr(config, f.name)
        if isinstance(value, Secret) or f.metadata.get("secret"):
            value = str(Secret("")) if value else value
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = _plain(value, units)
        result[f.name] = human(value, f.metadata.get("unit")) if units else value
    return result
