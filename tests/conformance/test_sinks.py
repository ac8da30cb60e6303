"""Every sink through one suite."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import duckdb

from walcast.model import UNCHANGED, Change, Lsn, Sink, TableId
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig
from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig
from walcast.testing.conformance import Event, Row, SinkConformance


class TestDuckDBSink(SinkConformance):
    guarantee = "exactly once"

    def make_sink(self, place: Path) -> AbstractAsyncContextManager[Sink]:
        return DuckDBSink(DuckDBSinkConfig(place / "copy.duckdb", threads=1), self.context())

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
            events += [_event_of(json.loads(line)) for line in data.splitlines()]
        return events


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
