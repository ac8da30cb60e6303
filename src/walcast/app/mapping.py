"""What `walcast map` shows and checks: the mapping against the source's tables."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, LiteralString

from walcast.app.settings import Settings
from walcast.mapping import (
    DataMapping,
    MappingError,
    Node,
    Plan,
    Target,
    assemble,
    compile_mapping,
    near_name,
    tables_of,
)
from walcast.model import ConfigError, Finding, OperatorError, Relation, TableId
from walcast.model.derived import Key, Kind
from walcast.postgres.connect import application_name, connect
from walcast.postgres.published import published_tables
from walcast.postgres.rereader import PostgresReader

# An index serves a lookup when its first columns are the ones asked for, in any order.
_INDEXED: Final[LiteralString] = """
select exists (
    select from pg_catalog.pg_index i
     where i.indrelid = pg_catalog.to_regclass(%s) and i.indisvalid and i.indpred is null
       and (select array_agg(a.attname::text order by a.attname)
              from unnest(i.indkey[0 : %s - 1]) k(n)
              join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n) = %s::text[])
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A target: what it is made of, line by line (depth, text), and what one row becomes; None when there is no row."""

    target: Target
    lines: tuple[tuple[int, str], ...]
    example: dict[str, Any] | None


def declared(mapping: DataMapping, beside: Path | None = None) -> DataMapping:
    """The mapping with what it takes from Python: a DataMapping, or a function that makes one. `beside` is the
    configuration's file: modules in its folder are found, too. Raises ConfigError."""
    if mapping.declared is None:
        return mapping
    module, _, name = mapping.declared.partition(":")
    folder = str(Path.cwd() if beside is None else beside.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"mapping.declared: {mapping.declared!r} cannot be imported: {error}",
            hint=f'write "package.module:name"; modules in {folder} are found, and what is on the Python path',
        ) from error
    if not isinstance(found, DataMapping) and callable(found):
        found = found()
    if not isinstance(found, DataMapping):
        raise ConfigError(
            f"mapping.declared: {mapping.declared!r} is no DataMapping",
            hint="name a walcast.mapping.DataMapping, or a function that makes one",
        )
    return replace(
        found,
        documents={**found.documents, **mapping.documents},
        vertices={**found.vertices, **mapping.vertices},
        edges={**found.edges, **mapping.edges},
    )


async def show(settings: Settings, name: str | None = None, key: Key | None = None) -> list[Shown]:
    """Each target (or one), with an example: the row with that key, or the first one. Raises ConfigError naming the line."""
    found = []
    async with _reader(settings) as reader:
        plan = await _plan(settings, reader)
        targets = [target for target in plan.targets if name in (None, target.name)]
        if not targets:
            known = ", ".join(target.name for target in plan.targets)
            raise ConfigError(f"the mapping has no target {name!r}", hint=f"there are: {known}")
        for target in targets:
            root = target.root
            async with reader.view(()) as view:
                rows = (
                    await view.page(root.table, root.columns, root.key, None, 1)
                    if key is None
                    else await view.rows(root.table, root.columns, root.key, [key])
                )
                puts = await assemble(view, target, rows)
            if key is not None and not rows:
                raise OperatorError(
                    f"{root.table} has no row with the key ({', '.join(key)})", hint="see the table"
                )
            example = None
            if puts:
                (put,) = puts
                example = {"collection": put.collection, "id": put.id, "body": put.body}
                if put.ends is not None:
                    example |= {"source": put.ends[0], "target": put.ends[1]}
            found.append(Shown(target, tuple(_lines(target)), example))
    return found


async def check(
    settings: Settings, kinds: Sequence[Kind] = ("document", "vertex", "edge"), only: Sequence[str] = ()
) -> list[Finding]:
    """What is wrong with the mapping (or with these targets of it), and what will be slow. Raises ConfigError naming the line
    of the first mistake."""
    findings: list[Finding] = []
    async with _reader(settings) as reader:
        plan = await _plan(settings, reader, kinds, only)
    async with await connect(
        settings.source.dsn, application=application_name(settings.pipeline.name, "map")
    ) as connection:
        published = await published_tables(connection, settings.source.publication)
        for target in plan.targets:
            for node in target.nodes:
                if node.table not in published:
                    findings.append(
                        Finding(
                            "error",
                            "mapping_not_published",
                            f"{target.name} reads {node.table}, which is not published: its changes do not arrive",
                            f"alter publication {settings.source.publication} add table {node.table}",
                        )
                    )
                for columns, table in _looked_up(node):
                    row = await (
                        await connection.execute(_INDEXED, [_quoted(table), len(columns), sorted(columns)])
                    ).fetchone()
                    if row is not None and not row[0]:
                        findings.append(
                            Finding(
                                "warning",
                                "mapping_no_index",
                                f"{target.name} looks up {table} by ({', '.join(columns)}), for which there is no index: "
                                "each change reads the whole table",
                                f"create index concurrently on {table} ({', '.join(columns)})",
                            )
                        )
    return list(dict.fromkeys(findings))


def _looked_up(node: Node) -> list[tuple[tuple[str, ...], TableId]]:
    """Columns that are compared: downwards, the node's; upwards, its parent's."""
    if node.parent is None:
        return []
    up = node.parent.ours if node.parent.parent is not None else node.parent.key
    climbs = [] if set(up) <= set(node.theirs) else [(node.theirs, node.parent.table)]
    return [(node.ours, node.table), *climbs]


def _quoted(table: TableId) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in table)


def _lines(target: Target) -> Sequence[tuple[int, str]]:
    names = " or ".join(target.collections)
    root = target.root
    lines = [(0, f"{target.kind} {names}: a row of {root.table}, id ({', '.join(target.id_columns)})")]
    if target.ends is not None:
        source, there = (", ".join(columns) for columns in target.ends)
        made = next(iter(target.collections.values()))
        labels = made.ends or ("", "")
        lines.append((1, f"from {labels[0]} ({source}) to {labels[1]} ({there})"))

    def below(node: Node, depth: int) -> None:
        for emit in node.emits:
            lines.append((depth, f"{emit.name}: {', '.join(emit.columns) or 'a constant'}"))
        for child in node.children:
            inner = child.children[0] if child.join else child
            what = "array" if child.many else "object"
            on = ", ".join(f"{child.table}.{ours} = {theirs}" for theirs, ours in child.link)
            if child.join:
                on += "; " + ", ".join(
                    f"{inner.table}.{ours} = {child.table}.{theirs}" for theirs, ours in inner.link
                )
            lines.append((depth, f"{inner.name}: {what} of {inner.table} where {on}"))
            if child.join:
                lines.extend(
                    (depth + 1, f"{emit.name}: {', '.join(emit.columns)} of {child.table}")
                    for emit in child.emits
                )
            below(inner, depth + 1)

    below(root, 1)
    return lines


def _reader(settings: Settings) -> PostgresReader:
    return PostgresReader(settings.source.dsn, application_name(settings.pipeline.name, "map"))


async def _plan(
    settings: Settings,
    reader: PostgresReader,
    kinds: Sequence[Kind] = ("document", "vertex", "edge"),
    only: Sequence[str] = (),
) -> Plan:
    mapping = declared(settings.mapping, settings.path)
    if not mapping:
        raise ConfigError(
            "there is no mapping", hint='add [mapping.documents.NAME] with table = "schema.table"'
        )
    try:
        relations: dict[TableId, Relation] = dict(await reader.relations(tables_of(mapping)))
        return compile_mapping(mapping, relations, kinds, only)
    except MappingError as error:
        where = settings.locate(("mapping", *error.path))
        hint = error.hint
        if error.path and error.path[-1] == "table":
            hint = near_name(error.message.rpartition(" ")[2], map(str, await reader.tables()))
        raise ConfigError(f"{where}: {error.message}", hint=hint) from error
