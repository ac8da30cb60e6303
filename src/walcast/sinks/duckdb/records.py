"""What the pipeline keeps beside the data: its journal and the dead letters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from walcast.model import DeadLetter
from walcast.sinks.duckdb.faults import translated
from walcast.sinks.duckdb.store import Store

_LOAD_LETTERS: Final = (
    "select letter from _walcast.dead_letters where pipeline = ? and sink = ? order by number"
)


class DuckDBJournal:
    """The pipeline's journal, in the same file. It has a connection of its own: an entry is durable at once, also while a
    split transaction is open."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> dict[str, Any]:
        return await self._store.call(self._load)

    async def save(self, key: str, value: Any) -> None:
        await self._store.call(self._save, key, value)

    def _load(self) -> dict[str, Any]:
        statement = "select key, value from _walcast.journal where pipeline = ? and sink = ?"
        with translated(self._store.path), self._store.cursor() as cursor:
            return {
                key: json.loads(value)
                for key, value in cursor.execute(statement, self._store.owner).fetchall()
            }

    def _save(self, key: str, value: Any) -> None:
        with translated(self._store.path), self._store.cursor() as cursor:
            cursor.execute("begin transaction")
            cursor.execute(
                "delete from _walcast.journal where pipeline = ? and sink = ? and key = ?",
                (*self._store.owner, key),
            )
            if value is not None:
                cursor.execute(
                    "insert into _walcast.journal values (?, ?, ?, ?)",
                    (*self._store.owner, key, json.dumps(value)),
                )
            cursor.execute("commit")


class DuckDBDeadLetters:
    """The dead letters, in the same file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> list[DeadLetter]:
        return await self._store.call(self._load)

    async def save(self, letters: Sequence[DeadLetter], gone: Sequence[int] = ()) -> None:
        """Commits what the open transaction holds, too: no part of a split one may be in it."""
        await self._store.call(self._save, letters, gone)

    def _load(self) -> list[DeadLetter]:
        with translated(self._store.path):
            rows = self._store.execute(_LOAD_LETTERS, self._store.owner)
        return [DeadLetter.of(json.loads(row[0])) for row in rows]

    def _save(self, letters: Sequence[DeadLetter], gone: Sequence[int]) -> None:
        with translated(self._store.path):
            self._store.begin()
            self._store.set_aside(letters, gone)
            self._store.commit(None)
