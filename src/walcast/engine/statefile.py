"""What the state directory remembers of the pipeline itself: its slot, its sinks, and what was asked to be copied anew.

pipeline.json   slot, sinks, anew, switch     the pipeline's own
sinks/NAME.json                               the journal of a sink whose target cannot hold one
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from walcast.engine.history import Switch
from walcast.engine.journal import FileJournal
from walcast.engine.upgrade import load_journal
from walcast.model import TableId

_ALL = "*"


class StateFile:
    """The pipeline's file. Load it once; reads are from memory, writes are durable when they return."""

    def __init__(self, state_dir: Path) -> None:
        self._journal = FileJournal(state_dir / "pipeline.json")
        self._content: dict[str, Any] = {}
        self._one_change = (
            asyncio.Lock()
        )  # sinks are admitted side by side: each changes its part of a whole value

    async def load(self) -> None:
        self._content = await load_journal(self._journal, str(self._journal.path))

    @property
    def slot_is_ours(self) -> bool:
        """The slot was made, or was about to be made, from here."""
        return "slot" in self._content

    async def slot_ours(self, state: str) -> None:
        """`creating` before the slot is made: a crash between the two must not leave an orphan."""
        await self._save("slot", {"state": state})

    def knows(self, sink: str) -> bool:
        """The sink has taken part before."""
        return sink in self._content.get("sinks", [])

    async def know(self, sinks: Sequence[str]) -> None:
        async with self._one_change:
            known = set(self._content.get("sinks", []))
            if not known.issuperset(sinks):
                await self._save("sinks", sorted(known.union(sinks)))

    def wants_all_anew(self, sink: str) -> bool:
        return bool(self._content.get("anew", {}).get(sink) == _ALL)

    def wants_anew(self, sink: str) -> list[TableId]:
        asked = self._content.get("anew", {}).get(sink, [])
        return [] if asked == _ALL else [TableId(*table) for table in asked]

    async def ask_anew(self, sink: str, tables: Sequence[TableId] | None) -> None:
        """Remembers that these tables (None: all) are to be copied anew into the sink."""
        async with self._one_change:
            asked = dict(self._content.get("anew", {}))
            before = asked.get(sink, [])
            if tables is None or before == _ALL:
                asked[sink] = _ALL
            else:
                asked[sink] = sorted({tuple(table) for table in [*before, *tables]})
            await self._save("anew", asked)

    async def anew_done(self, sink: str) -> None:
        """The sink's journal has taken it up."""
        async with self._one_change:
            asked = dict(self._content.get("anew", {}))
            if asked.pop(sink, None) is not None:
                await self._save("anew", asked)

    @property
    def switch(self) -> Switch | None:
        """The latest planned move to another server."""
        return Switch.of(self._content.get("switch"))

    async def note_switch(self, switch: Switch) -> None:
        await self._save("switch", switch.as_json())

    async def _save(self, key: str, value: Any) -> None:
        await self._journal.save(key, value)
        self._content[key] = value


async def request_resync(state_dir: str | Path, sink: str, tables: Sequence[TableId] | None = None) -> None:
    """Has the tables (None: all) copied anew into the sink at the pipeline's next start. Only while it does not run:
    hold the state directory (`owned`); a running pipeline is asked by its control socket."""
    state = StateFile(Path(state_dir))
    await state.load()
    await state.ask_anew(sink, tables)


async def adopt_slot(state_dir: str | Path) -> None:
    """Notes that the slot was made for this state directory (`walcast slot create`), so that `run` follows it."""
    state = StateFile(Path(state_dir))
    await state.load()
    await state.slot_ours("made")
