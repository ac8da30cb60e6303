"""What a sink has of each table: nothing yet, a copy under way, a copy with its start LSN, or a table that had to stop.

The states live in the sink's journal, so that a restart resumes without the tables that are done:

    (absent) --first chunk--> copying --last chunk durable--> done (start LSN)
        any --TableStopped--> stopped           resync: back to absent
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from walcast.model import Journal, Lsn, Relation, TableId, TableStopped

NEVER = Lsn((1 << 63) - 1)
"""A start LSN that no change reaches: all changes of the table are dropped."""
FROM_THE_BEGINNING: Mapping[str, Any] = {
    "begun": False,
    "upper": None,
    "rows": 0,
    "where": None,
    "rate": None,
    "needed": False,
}
"""`TableState.progress` before the first chunk. `needed`: without the chunks the copy is wrong."""
_PREFIX = "table "
_START = Lsn(0)

State = Literal["copying", "building", "done", "stopped"]


@dataclass(frozen=True, slots=True)
class TableState:
    """`start`: changes that committed before it are in the copy already. `building`: the copy's rows come chunk by chunk
    beside the stream; `progress` says how far, also where a table that is done is taken over again."""

    state: State
    start: Lsn = _START
    position: str | None = None
    reason: str = ""
    hint: str | None = None
    progress: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "progress": self.progress,
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
            value.get("progress"),
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
        self.building: set[TableId] = set()
        """Tables whose rows come chunk by chunk: rows that the stream changes may not be there yet."""
        self.builder = False
        """Somebody brings rows chunk by chunk (see `Pipeline.claim_new`)."""
        self.claimed: set[TableId] = set()
        """Tables to be copied that somebody else than the coordinator looks after (see `Coordinator.claim`)."""

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
            if table not in self.claimed
            and (table not in self.states or self.states[table].state == "copying")
        }

    @property
    def stopped(self) -> dict[TableId, TableState]:
        return {table: state for table, state in self.states.items() if state.state == "stopped"}

    def may_build(self, relation: Relation) -> bool:
        """Whether all rows of a table that the copy has can come again, chunk by chunk."""
        state = self.states.get(relation.table)
        return self.builder and bool(relation.key) and state is not None and state.state == "done"

    async def copying(self, table: TableId, start: Lsn) -> None:
        await self._save(table, TableState("copying", start))

    async def done(self, table: TableId, start: Lsn) -> None:
        await self._save(table, TableState("done", start))

    def claim(self, tables: Iterable[TableId]) -> None:
        self.claimed.update(tables)
        self._index()

    def unclaim(self, tables: Iterable[TableId]) -> None:
        self.claimed.difference_update(tables)
        self._index()

    async def build(self, table: TableId, progress: dict[str, Any]) -> None:
        """Its rows come chunk by chunk from now on, or have come so far; its changes are taken as they come."""
        known = self.states.get(table)
        if known is not None and known.state == "done":
            await self._save(table, replace(known, progress=progress))
        else:
            await self._save(table, TableState("building", _START, progress=progress))

    async def built(self, table: TableId) -> None:
        """All rows are there."""
        await self.done(table, self.states[table].start)

    async def stop(self, error: TableStopped) -> None:
        """Recorded durably, with where and why."""
        position = None if error.position is None else str(error.position)
        await self._save(error.table, TableState("stopped", _START, position, error.message, error.hint))

    async def reset(self, tables: Iterable[TableId] | None = None) -> None:
        """Forgets these tables (all: None), so that they are copied anew."""
        for table in list(self.states) if tables is None else list(tables):
            await self._save(table, None)

    async def moved(self, anew: Iterable[TableId]) -> None:
        """The source is another server: start LSNs of the old one mean nothing there, and all that they stood for is in
        the copies. `anew` are tables to be copied again."""
        for table, state in list(self.states.items()):
            if state.state == "done" and state.start != _START:
                await self._save(table, replace(state, start=_START))
        await self.reset(anew)

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
            if state.state not in ("done", "building"):
                self.starts[table] = NEVER
            else:
                self.starts[table] = state.start
        for table in self.pending | (self.claimed - set(self.states)):
            self.starts[table] = NEVER
        self.building.clear()
        self.building.update(table for table, state in self.states.items() if state.progress is not None)
        self.blocked = {table for table, start in self.starts.items() if start == NEVER}
