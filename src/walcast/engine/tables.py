"""What a sink has of each table: nothing yet, a copy under way, a copy with its start LSN, or a table that had to stop.

The states live in the sink's journal, so that a restart resumes without the tables that are done:

    (absent) --first chunk--> copying --last chunk durable--> done (start LSN)
        any --TableStopped--> stopped           resync: back to absent
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from walcast.model import Journal, Lsn, TableId, TableStopped

NEVER = Lsn((1 << 63) - 1)
"""A start LSN that no change reaches: all changes of the table are dropped."""
_PREFIX = "table "
_START = Lsn(0)

State = Literal["copying", "done", "stopped"]


@dataclass(frozen=True, slots=True)
class TableState:
    """`start`: changes that committed before it are in the copy already."""

    state: State
    start: Lsn = _START
    position: str | None = None
    reason: str = ""
    hint: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "start": str(self.start),
            "position": self.position,
            "reason": self.reason,
            "hint": self.hint,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> TableState:
        return cls(
            value["state"],
            Lsn.parse(value["start"]),
            value.get("position"),
            value["reason"],
            value.get("hint"),
        )


def table_states(content: Mapping[str, Any]) -> dict[TableId, TableState]:
    """The tables that a journal knows."""
    return {
        TableId(*json.loads(key.removeprefix(_PREFIX))): TableState.of(value)
        for key, value in content.items()
        if key.startswith(_PREFIX)
    }


class TableBook:
    """The tables of one sink. `starts` is what `Batch.after` wants: it drops what the copy has or must not get."""

    def __init__(self, *, copy: bool) -> None:
        self._copy = copy
        self._journal: Journal | None = None
        self.states: dict[TableId, TableState] = {}
        self.selected: set[TableId] = set()
        self.starts: dict[TableId, Lsn] = {}
        self.blocked: set[TableId] = set()
        self.copy_starts: dict[TableId, Lsn] = {}
        """Start LSNs of the tables that a running snapshot brings."""

    def load(self, journal: Journal, content: Mapping[str, Any]) -> None:
        """Takes the states from a journal's content; later changes are saved there."""
        self._journal = journal
        self.states = table_states(content)
        self._index()

    def select(self, tables: Iterable[TableId]) -> None:
        """These tables are wanted now."""
        self.selected = set(tables)
        self._index()

    def unknown(self, table: TableId) -> bool:
        """A table that the stream brings and nobody asked about yet: its changes are dropped from now on. If it is
        wanted it is copied under a snapshot later than all of them."""
        if not self._copy or table in self.states or table in self.starts:
            return False
        self.starts[table] = NEVER
        self.blocked.add(table)
        return True

    @property
    def pending(self) -> set[TableId]:
        """Tables still to be copied."""
        if not self._copy:
            return set()
        return {
            table
            for table in self.selected
            if table not in self.states or self.states[table].state == "copying"
        }

    @property
    def stopped(self) -> dict[TableId, TableState]:
        return {table: state for table, state in self.states.items() if state.state == "stopped"}

    async def copying(self, table: TableId, start: Lsn) -> None:
        await self._save(table, TableState("copying", start))

    async def done(self, table: TableId, start: Lsn) -> None:
        await self._save(table, TableState("done", start))

    async def stop(self, error: TableStopped) -> None:
        """Recorded durably, with where and why."""
        position = None if error.position is None else str(error.position)
        await self._save(error.table, TableState("stopped", _START, position, error.message, error.hint))

    async def reset(self, tables: Iterable[TableId] | None = None) -> None:
        """Forgets these tables (all: None), so that they are copied anew."""
        for table in list(self.states) if tables is None else list(tables):
            await self._save(table, None)

    async def _save(self, table: TableId, state: TableState | None) -> None:
        assert self._journal is not None
        key = _PREFIX + json.dumps(list(table))
        await self._journal.save(key, None if state is None else state.as_json())
        if state is None:
            self.states.pop(table, None)
        else:
            self.states[table] = state
        self._index()

    def _index(self) -> None:
        """Brings `starts` and `blocked` in line, in place: others hold them."""
        self.starts.clear()
        for table, state in self.states.items():
            if state.state != "done":
                self.starts[table] = NEVER
            else:
                self.starts[table] = state.start
        for table in self.pending:
            self.starts[table] = NEVER
        self.blocked = {table for table, start in self.starts.items() if start == NEVER}
