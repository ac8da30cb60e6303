"""`walcast init` and `walcast config show`: settings as commented TOML."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from walcast.app import registry
from walcast.app.binding import human, settings_of
from walcast.app.settings import SECTIONS
from walcast.model import Finding, Lsn, OperatorError
from walcast.model.secret import Secret
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import application_name, connect
from walcast.postgres.preflight import preflight
from walcast.postgres.wanted import read_wanted

_NO_USE = ("server_too_old", "no_such_table", "table_refused", "selection")
"""Findings that no configuration can mend, or that say that the patterns are wrong."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LISTED = 40
"""How many tables the file names in a comment."""


@dataclass(frozen=True, slots=True)
class Found:
    """What `init` found out by itself."""

    dsn: str | None
    patterns: tuple[str, ...]
    database: str
    version: str
    tables: tuple[str, ...]
    findings: tuple[Finding, ...]
    has_password: bool = False
    """The DSN that was given, and that the file repeats, holds one."""


async def inspect(dsn: str | None, patterns: tuple[str, ...]) -> Found:
    """Looks at the database: what there is to copy, and what has to be set first. Raises OperatorError when a configuration
    for it would be of no use."""
    config = replace(SourceConfig(Secret(dsn or "")), include=patterns)
    findings = tuple(await preflight(config))
    for finding in findings:
        if finding.name in _NO_USE:
            raise OperatorError(finding.message, hint=finding.hint)
    connection = await connect(config.dsn, application=application_name("init"))
    async with connection:
        wanted = await read_wanted(connection, config)
        version = connection.info.server_version
        database = connection.info.dbname
    tables = tuple(str(table.id) for table in wanted.selection.tables)
    has_password = "password" in conninfo_to_dict(dsn or "")
    shown = f"{version // 10_000}.{version % 10_000}"
    return Found(dsn, patterns, database, shown, tables, findings, has_password)


def render(found: Found, kinds: Iterable[str]) -> str:
    """The file: what was found as settings, everything else as a comment with its default."""
    given: dict[str, dict[str, Any]] = {"source": {}}
    if found.dsn is not None:
        given["source"]["dsn"] = found.dsn
    if found.patterns:
        given["source"]["include"] = list(found.patterns)
    lines = [
        f"# Walcast, for {found.database} (PostgreSQL {found.version}). Lines that begin with # are defaults.",
        '# Any value can be { env = "NAME" } or { file = "/run/secrets/name" }; WALCAST_SOURCE__DSN sets source.dsn.',
        "",
        f"# {len(found.tables)} table{' is' if len(found.tables) == 1 else 's are'} to be copied now:",
        *(f"#   {table}" for table in found.tables[:_LISTED]),
        *([f"#   ... and {len(found.tables) - _LISTED} more"] if len(found.tables) > _LISTED else []),
    ]
    for name, kind in SECTIONS.items():
        lines += ["", f"[{name}]", *_section(kind, given.get(name, {}))]
    for kind_name in kinds:
        lines += ["", *_sink(kind_name)]
    return "\n".join(lines) + "\n"


_SUGGESTED: Mapping[str, Mapping[str, Any]] = {
    "postgres": {"dsn": "postgresql://localhost/copy"},
    "duckdb": {"path": "copy.duckdb"},
    "jsonl": {"directory": "changes"},
    "handlers": {"handlers": "handlers:handlers"},
}


def _sink(kind: str) -> list[str]:
    entry = registry.sink(kind)
    suggested = dict(_SUGGESTED.get(kind, {}))
    head = [f"# {entry.summary}: {entry.guarantee}", f"[sinks.{kind}]", f'type = "{kind}"']
    return [*head, *_section(entry.config_type(), suggested)]


def _section(kind: type[Any], given: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, field in settings_of(kind).items():
        text = field.metadata.get("help", "")
        if name in given:
            lines.append(f"{name} = {toml_value(given[name])}  # {text}")
        elif _required(field):
            lines.append(f"# {name} =   # {text} (must be set)")
        else:
            lines.append(f"# {name} = {default_text(field)}  # {text}")
    return lines


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def default_text(field: dataclasses.Field[Any]) -> str:
    """A setting's default as TOML; empty when it must be set."""
    if _required(field):
        return ""
    factory = field.default_factory
    value = factory() if factory is not dataclasses.MISSING else field.default
    return toml_value(human(value, field.metadata.get("unit")))


def toml_value(value: Any) -> str:
    if isinstance(value, Secret):
        return '""' if not value else '"****"'
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)) and not isinstance(value, Lsn):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False, default=str)


def to_toml(shown: Mapping[str, Any]) -> str:
    """All settings in force, as TOML."""
    lines = []
    for name, table in shown.items():
        if name == "sinks":
            for sink, settings in table.items():
                lines += [
                    f"[sinks.{sink if _BARE.fullmatch(sink) else json.dumps(sink)}]",
                    *(f"{k} = {toml_value(v)}" for k, v in settings.items() if v is not None),
                    "",
                ]
        else:
            lines += [f"[{name}]", *(f"{k} = {toml_value(v)}" for k, v in table.items() if v is not None), ""]
    return "\n".join(lines)
