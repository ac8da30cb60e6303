"""Every sink through one suite."""

from __future__ import annotations

import gzip
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import psycopg.rows
import pytest
from psycopg import sql

from walcast.model import UNCHANGED, Change, Lsn, Sink, TableId
from walcast.model.secret import Secret
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig
from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig
from walcast.testing.conformance import Event, Row, SinkConformance
from walcast.testing.memory import MemorySink, MemoryStore
from walcast.testing.postgres import Database


class TestDuckDBSink(SinkConformance):
    guarantee = "exactly once"
    sets_aside = True

    def make_sink(self, place: Path) -> AbstractAsyncContextManager[Sink]:
        return DuckDBSink(
            DuckDBSinkConfig(place / "copy.duckdb", threads=1, on_data_error="set_aside"), self.context()
        )

    async def read(self, place: Path, table: TableId) -> list[Row]:
        with duckdb.connect(str(place / "copy.duckdb")) as connection:
            name = ".".join('"' + part.replace('"', '""') + '"' for part in table)
            try:
                result = connection.execute(f"select cast(columns(*) as varchar) from {name}")
            except duckdb.CatalogException:
                return []
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


class TestJsonLinesSink(SinkConformance):
    guarantee = "exactly once"
    keeps = "log"

    def make_sink(self, place: Path) -> AbstractAsyncContextManager[Sink]:
        return JsonLinesSink(JsonLinesSinkConfig(place / "out", rotate_bytes=2000), self.context())

    async def read_log(self, place: Path) -> list[Event]:
        events = []
        for path in sorted((place / "out").glob("*.jsonl*")):
            data = path.read_bytes()
            if path.suffix == ".part":  # only what the checkpoint counts
                data = data[: json.loads((place / "out" / ".walcast.json").read_bytes())["offset"]]
            if ".gz" in path.suffixes:
                data = gzip.decompress(data)
            events += [_event_of(json.loads(line)) for line in data.splitlines()]
        return events


class TestCompressedJsonLinesSink(TestJsonLinesSink):
    def make_sink(self, place: Path) -> AbstractAsyncContextManager[Sink]:
        config = JsonLinesSinkConfig(place / "out", rotate_bytes=2000, compress="gzip", fsync="batch")
        return JsonLinesSink(config, self.context())


class TestPostgresSink(SinkConformance):
    guarantee = "exactly once"
    sets_aside = True

    @pytest.fixture
    def place(self, database: Database) -> Database:
        return database

    def make_sink(self, place: Database) -> AbstractAsyncContextManager[Sink]:
        config = PostgresSinkConfig(Secret(place.dsn()), on_data_error="set_aside")
        return PostgresSink(config, self.context())

    async def read(self, place: Database, table: TableId) -> list[Row]:
        with psycopg.connect(place.dsn(), row_factory=psycopg.rows.dict_row) as connection:
            try:
                rows = connection.execute(
                    sql.SQL("select * from {}").format(sql.Identifier(*table))
                ).fetchall()
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                return []
        return [{name: _text(value) for name, value in row.items()} for row in rows]


class TestMemorySink(SinkConformance):
    guarantee = "exactly once"
    follows_schema = False

    @pytest.fixture
    def place(self) -> MemoryStore:
        return MemoryStore()

    def make_sink(self, place: MemoryStore) -> AbstractAsyncContextManager[Sink]:
        return MemorySink(place)

    async def read(self, place: MemoryStore, table: TableId) -> list[Row]:
        return [{name: _text(value) for name, value in row.items()} for row in place.rows(table)]


class TestHandlerSink(SinkConformance):
    guarantee = "at least once"
    keeps = "log"
    order = "key"

    def make_sink(self, place: dict[str, Any]) -> AbstractAsyncContextManager[Sink]:
        handlers, log = Handlers(), self._log

        @handlers.on()
        async def told(change: Change) -> None:
            log.append(_event_of_change(change))

        return HandlerSink(HandlerSinkConfig(handlers), self.context())

    @property
    def _log(self) -> list[Event]:
        return self.__dict__.setdefault("_events", [])

    async def read_log(self, place: Any) -> list[Event]:
        return self._log


def _event_of(line: dict[str, Any]) -> Event:
    if line["op"] == "message":
        return Event("message", None, Lsn.parse(line["lsn"]), line["ordinal"])
    unchanged = dict.fromkeys(line.get("unchanged", ()), UNCHANGED)
    new = (
        {**{name: _text(value) for name, value in line["new"].items()}, **unchanged}
        if "new" in line
        else None
    )
    key = tuple((name, _text(value)) for name, value in line.get("key", {}).items())
    table = TableId(line["schema"], line["table"])
    return _event(line["op"], table, Lsn.parse(line["lsn"]), line["ordinal"], key, new)


def _event_of_change(change: Change) -> Event:
    position = change.position
    if change.relation is None:
        return Event("message", None, position.commit_lsn, position.ordinal)
    names = [column.name for column in change.relation.columns if column.key]
    key = tuple((name, _text(value)) for name, value in zip(names, change.key, strict=True)) if names else ()
    new = None if change.new is None else {name: _text(value) for name, value in change.new.items()}
    return _event(change.op, change.relation.table, position.commit_lsn, position.ordinal, key, new)


def _event(op: str, table: TableId, lsn: int, ordinal: int, key: Any, new: dict[str, Any] | None) -> Event:
    key = () if op in ("snapshot", "truncate") else key
    return Event(op, table, int(lsn), ordinal, key, None if new is None else tuple(sorted(new.items())))


def _text(value: object) -> Any:
    return value if value is None or value is UNCHANGED else str(value)
