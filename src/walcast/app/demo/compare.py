"""Whether a copy equals its source, row by row: every table read from both sides and compared value by value.

The demo's own check, for small databases: it holds a table in memory. Each kind of copy spells values in its own
way, so a *reading* brings the source's canonical text and the copy's value to the same Python value.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import zstandard
from psycopg import sql

from walcast.decode.values import loaders
from walcast.model import Change, Relation, TableId, Unchanged
from walcast.postgres.connect import Connection, connect

Rows = dict[tuple[Any, ...], tuple[Any, ...]]
"""Key values (canonical) -> all values, in the order of the relation's columns."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing found that is not the same."""

    table: TableId
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result for one copy."""

    rows: int
    difference: Difference | None

    @property
    def equal(self) -> bool:
        return self.difference is None


async def canonical_rows(connection: Connection, relation: Relation) -> list[tuple[str | None, ...]]:
    """A table as canonical text, straight from a server: by the types' output functions (a cast to text says `true`
    for a boolean, and strips a char)."""
    columns = sql.SQL(", ").join(
        sql.SQL("case when pg_catalog.num_nulls({0}) = 0 then pg_catalog.format('%s', {0}) end").format(
            sql.Identifier(name)
        )
        for name in relation.names
    )
    cursor = await connection.execute(
        sql.SQL("select {} from {}").format(columns, sql.Identifier(*relation.table))
    )
    return await cursor.fetchall()


def differences(
    relation: Relation, source: Iterable[tuple[Any, ...]], copy: Iterable[tuple[Any, ...]]
) -> str | None:
    """What the first difference is, by key; None when there is none. Values are never printed."""
    key = relation.key or tuple(range(len(relation.columns)))
    left = {tuple(map(repr, (row[i] for i in key))): row for row in source}
    right: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for row in copy:
        name = tuple(map(repr, (row[i] for i in key)))
        if name in right:
            return f"key {', '.join(name)} is there twice"
        right[name] = row
    for name, row in left.items():
        if name not in right:
            return (
                f"key {', '.join(name)} is missing ({len(left)} rows at the source, {len(right)} in the copy)"
            )
        for column, ours, theirs in zip(relation.columns, row, right[name], strict=True):
            if not _same(ours, theirs):
                return f"key {', '.join(name)}: column {column.name} differs"
    extra = next((name for name in right if name not in left), None)
    return f"key {', '.join(extra)} should not be there" if extra else None


def _same(left: Any, right: Any) -> bool:
    """NaN is the same as NaN here, also deep inside a list."""
    return bool(left == right) or repr(left) == repr(right)


def _floats(relation: Relation, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Two spellings of one float are one float."""
    return tuple(
        float(value) if value is not None and column.type.base.name in ("float4", "float8") else value
        for column, value in zip(relation.columns, row, strict=True)
    )


async def compare_postgres(source: Connection, dsn: str, relations: Iterable[Relation]) -> Comparison:
    """Exact: canonical text against canonical text."""
    copy = await connect(dsn, application="walcast:demo")
    total = 0
    async with copy:
        for relation in relations:
            try:
                theirs = await canonical_rows(copy, relation)
            except psycopg.Error as error:
                return Comparison(
                    total, Difference(relation.table, f"cannot be read: {error.diag.message_primary}")
                )
            total += len(theirs)
            ours = await canonical_rows(source, relation)
            if found := await asyncio.to_thread(differences, relation, ours, theirs):
                return Comparison(total, Difference(relation.table, found))
    return Comparison(total, None)


async def compare_rows(
    source: Connection,
    relations: Iterable[Relation],
    copy: Callable[[Relation], list[tuple[Any, ...]]],
    reading: Callable[[Relation, tuple[str | None, ...]], tuple[Any, ...]],
) -> Comparison:
    """Any other copy: `copy` reads its rows, `reading` brings the source's text to the same values."""
    total = 0
    for relation in relations:
        ours = [reading(relation, row) for row in await canonical_rows(source, relation)]
        try:
            theirs = await asyncio.to_thread(copy, relation)
        except (duckdb.Error, KeyError) as error:
            return Comparison(total, Difference(relation.table, f"cannot be read: {error}"))
        total += len(theirs)
        if found := await asyncio.to_thread(differences, relation, ours, theirs):
            return Comparison(total, Difference(relation.table, found))
    return Comparison(total, None)


class DuckDBCopy:
    """A DuckDB file, opened after its pipeline has let go of it."""

    _TEXT = {
        "BOOLEAN": "if({c}, 't', 'f')",
        "BLOB": "'\\x' || lower(hex({c}))",
        "TIMESTAMP WITH TIME ZONE": "if(isinf({c}), cast({c} as varchar), cast({c} at time zone 'UTC' as varchar) || '+00')",
    }

    def __init__(self, path: Path) -> None:
        self._connection = duckdb.connect(str(path), read_only=True)
        self._connection.execute("set TimeZone = 'UTC'")

    def close(self) -> None:
        self._connection.close()

    def rows(self, relation: Relation) -> list[tuple[Any, ...]]:
        table = ".".join(_quoted(part) for part in relation.table)
        types = {name: kind for name, kind, *_ in self._connection.execute(f"describe {table}").fetchall()}
        columns = []
        for name in relation.names:
            text = self._TEXT.get(types[name], "cast({c} as varchar)")
            columns.append(f"if({_quoted(name)} is null, null, {text.format(c=_quoted(name))})")
        found = self._connection.execute(f"select {', '.join(columns)} from {table}").fetchall()  # noqa: S608  # identifiers are quoted
        return [_floats(relation, tuple(map(_era, row))) for row in found]

    @staticmethod
    def reading(relation: Relation, row: tuple[str | None, ...]) -> tuple[Any, ...]:
        return _floats(relation, row)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _era(value: Any) -> Any:
    return value.replace(" (BC)", " BC") if isinstance(value, str) and value.endswith(" (BC)") else value


def _complete(
    relation: Relation,
    row: Mapping[str, Any],
    reading: Callable[[Relation, tuple[str | None, ...]], tuple[Any, ...]],
) -> tuple[Any, ...]:
    """A row from a log. One that was written before a column was added holds in it what the catalog says (no log tells
    rows that nobody touched)."""
    if len(row) < len(relation.columns):
        missing = reading(relation, tuple(column.missing for column in relation.columns))
        return tuple(row.get(name, missing[number]) for number, name in enumerate(relation.names))
    return tuple(row[name] for name in relation.names)


class JsonLinesCopy:
    """The state that a folder of JSON Lines adds up to: the log, folded by key."""

    def __init__(self, folder: Path, relations: Iterable[Relation]) -> None:
        self._relations = {relation.table: relation for relation in relations}
        self._tables: dict[TableId, dict[str, dict[str, Any]]] = {table: {} for table in self._relations}
        for path in sorted(folder.glob("*.jsonl*")):
            for line in _lines(path):
                self._apply(json.loads(line))

    def rows(self, relation: Relation) -> list[tuple[Any, ...]]:
        return [_complete(relation, row, self.reading) for row in self._tables[relation.table].values()]

    def _apply(self, change: Mapping[str, Any]) -> None:
        table = TableId(change.get("schema", ""), change.get("table", ""))
        if table not in self._tables:
            return
        rows, op = self._tables[table], change["op"]
        if op == "truncate":
            rows.clear()
            return
        before = rows.pop(json.dumps(change["key"]), {})
        if op == "delete":
            return
        new = {**change["new"], **{name: before.get(name) for name in change.get("unchanged", ())}}
        names = [column.name for column in self._relations[table].columns if column.key]
        rows[json.dumps({name: new[name] for name in names})] = {**before, **new}

    @staticmethod
    def reading(relation: Relation, row: tuple[str | None, ...]) -> tuple[Any, ...]:
        return tuple(_json_value(c.type.base.name, v) for c, v in zip(relation.columns, row, strict=True))


def _json_value(type_name: str, text: str | None) -> Any:
    if text is None:
        return None
    if type_name == "bool":
        return text == "t"
    if type_name in ("int2", "int4", "int8", "oid"):
        return int(text)
    if type_name in ("float4", "float8"):
        return text if text in ("NaN", "Infinity", "-Infinity") else float(text)
    return json.loads(text) if type_name in ("json", "jsonb") else text


def _lines(path: Path) -> Iterable[str]:
    with path.open("rb") as file:
        if ".zst" in path.suffixes:  # the newest file is still named .part
            yield from io.TextIOWrapper(
                zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True), "utf-8"
            )
        else:
            yield from io.TextIOWrapper(file, "utf-8")


class HandlerCopy:
    """What handlers in the program's own memory made of the changes: a cache, kept by callbacks."""

    def __init__(self) -> None:
        self.tables: dict[TableId, dict[tuple[str, ...], dict[str, Any]]] = {}
        self.calls = 0

    async def handle(self, change: Change) -> None:
        """At least once: the same change again ends in the same state."""
        self.calls += 1
        if change.relation is None:
            return
        rows = self.tables.setdefault(change.relation.table, {})
        if change.op == "truncate":
            rows.clear()
            return
        before = rows.pop(tuple(map(repr, change.key)), {})
        if change.new is not None:
            new = {n: before.get(n) if isinstance(v, Unchanged) else v for n, v in change.new.items()}
            names = [column.name for column in change.relation.columns if column.key]
            rows[tuple(repr(new[name]) for name in names)] = new

    def rows(self, relation: Relation) -> list[tuple[Any, ...]]:
        return [
            _complete(relation, row, self.reading) for row in self.tables.get(relation.table, {}).values()
        ]

    @staticmethod
    def reading(relation: Relation, row: tuple[str | None, ...]) -> tuple[Any, ...]:
        return tuple(
            None if value is None else loaders(column.type)[0](value.encode())
            for column, value in zip(relation.columns, row, strict=True)
        )
