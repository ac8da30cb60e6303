"""Whether the copies equal the source: every row of every table, values compared as text, rows counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import psycopg
from tests.chaos.writer import TABLES

Rows = Counter[tuple[str | None, ...]]
Query = Callable[[str], Awaitable[list[list[str | None]]]]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "account": ("id", "n", "note", "big"),
    "entry": ("serial", "what", "amount", "flag"),
    "passing": ("id", "what"),
    '"Odd Näme.ß"': ('"select"', '"a""b"'),
}


async def of_postgres(dsn: str) -> dict[str, Rows]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        found = {}
        for table in TABLES:
            columns = ", ".join(f"{column}::text" for column in COLUMNS[table])
            cursor = await connection.execute(f"select {columns} from public.{table}")  # type: ignore[arg-type]  # constants
            found[table] = Rows(await cursor.fetchall())
        return found


async def of_duckdb(query: Query) -> dict[str, Rows]:
    found = {}
    for table in TABLES:
        columns = ", ".join(f"{column}::varchar" for column in COLUMNS[table])
        found[table] = Rows(tuple(row) for row in await query(f"select {columns} from public.{table}"))
    return found


def differences(source: dict[str, Rows], copy: dict[str, Rows]) -> list[str]:
    """One line a table that differs: how many rows are missing, how many are too many, and the first of each."""
    found = []
    for table, rows in source.items():
        missing, extra = rows - copy.get(table, Rows()), copy.get(table, Rows()) - rows
        if missing or extra:
            example = [str(next(iter(side)))[:120] for side in (missing, extra) if side]
            found.append(f"{table}: {missing.total()} missing, {extra.total()} too many, such as {example}")
    return found


class Folded:
    """Tables as a log adds up to them. `entry` has no key: its rows are by the whole row."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, Any]]] = {}

    def apply(
        self,
        table: str,
        op: str,
        key: Mapping[str, Any] | None,
        new: dict[str, Any] | None,
        old: Mapping[str, Any] | None,
        unchanged: Iterable[str],
    ) -> None:
        rows = self.tables.setdefault(table, {})
        if op == "truncate":
            rows.clear()
            return
        before = rows.pop(_name(table, old or key or new or {}), {})
        if op != "delete" and new is not None:
            whole = {**new, **{name: before.get(name) for name in unchanged}}
            rows[_name(table, whole)] = whole

    def rows(self) -> dict[str, Rows]:
        found = {}
        for table in TABLES:
            names = [column.strip('"').replace('""', '"') for column in COLUMNS[table]]
            rows = self.tables.get(table.strip('"'), {}).values()
            found[table] = Rows(tuple(_text(row[name]) for name in names) for row in rows)
        return found


def _name(table: str, row: Mapping[str, Any]) -> str:
    key = {"account": "id", "entry": "serial", "passing": "id"}.get(table, "select")
    return str(row.get(key))


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


class JsonLines:
    """The state that the files of the `jsonl` sink add up to, and whether a line is there twice. What was finished at the
    last look is not read again, unless `whole`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._finished: dict[str, int] = {}
        self._folded = Folded()
        self._last = (0, 0)
        self._seen: dict[str, int] = {}

    def look(self, *, whole: bool = False) -> tuple[dict[str, Rows], list[str]]:
        """(rows, what is wrong)"""
        if whole:
            self.__init__(self._folder)  # type: ignore[misc]  # from the beginning
        wrong, seen = [], {}
        folded, last = deepcopy(self._folded), self._last
        still = True
        for path in sorted(self._folder.glob("*.jsonl*")):
            size = path.stat().st_size
            if path.name in self._finished:
                if self._finished[path.name] != size:
                    wrong.append(f"{path.name} has changed after it was finished")
                continue
            last, found = _fold(path, folded, last)
            wrong += found
            if path.suffix != ".part":
                seen[path.name] = size
            # Finished for good: it was there, as it is, at the look before.
            still &= self._seen.get(path.name) == size and path.suffix != ".part"
            if still:
                self._finished[path.name] = size
                self._folded, self._last = deepcopy(folded), last
        self._seen = seen
        return folded.rows(), wrong


def _fold(path: Path, folded: Folded, last: tuple[int, int]) -> tuple[tuple[int, int], list[str]]:
    wrong = []
    for line in path.read_bytes().splitlines():
        change = json.loads(line)
        if change["op"] == "message":
            continue
        high, low = change["lsn"].split("/")
        position = (int(high, 16) << 32 | int(low, 16), change["ordinal"])
        if change["op"] != "snapshot" and change["ordinal"]:
            if position < last or (position == last and change["op"] != "truncate"):
                wrong.append(f"{path.name}: {change['lsn']}#{change['ordinal']} after {last[0]:X}#{last[1]}")
            last = position
        folded.apply(
            change["table"],
            change["op"],
            change.get("key"),
            change.get("new"),
            change.get("old"),
            change.get("unchanged", ()),
        )
    return last, wrong[:3]


class Handled:
    """What the handlers wrote down. At least once: a change that was handled before, which its position tells, is passed
    over, as a handler does that keeps unchanged columns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._folded = Folded()
        self._seen: set[tuple[object, ...]] = set()
        self.calls = 0

    def look(self) -> dict[str, Rows]:
        if not self._path.exists():
            return {}
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                change = json.loads(line)
                self._offset += len(line)
                self.calls += 1
                place = (change["table"], *change["at"])
                if change["op"] != "snapshot":
                    if place in self._seen:
                        continue
                    self._seen.add(place)
                self._folded.apply(
                    change["table"], change["op"], None, change["new"], change["old"], change["kept"]
                )
        return self._folded.rows()

    def forget(self) -> None:
        """Everything is copied anew: rows come again, and nobody says which are gone."""
        self.look()
        self._folded = Folded()
