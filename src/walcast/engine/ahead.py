"""How far a sink's reads of the source have looked ahead of the stream.

What is read again may hold what the stream has not brought yet. When a standby takes over that never got this, the
checkpoint alone does not tell: it may lie before the point where the histories part. So the end of what was ever shown
is kept beside the checkpoint, durable before anything of it is written; beyond that point, the copy is in doubt until
it was filled anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from collections.abc import Collection as Group
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from walcast.engine.journal import FileJournal
from walcast.model import Lsn, Relation, SourceIdentity, TableId
from walcast.model.derived import SourceReader, SourceView

_STEP: Final = 64 << 20
"""Bytes of WAL by which the kept end runs ahead of the true one, so that it is seldom written."""


class ReadAhead:
    """The end of what was shown of one history, in a file."""

    def __init__(self, path: Path, identity: SourceIdentity) -> None:
        self._file = FileJournal(path)
        self._history = identity.system_id, identity.timeline
        self._before: tuple[int, int, Lsn] | None = None
        self._shown = self._kept = Lsn(0)
        self.doubted = False

    async def load(self) -> None:
        content = await self._file.load()
        self.doubted = bool(content.get("doubted"))
        if "shown" in content:
            system_id, timeline = int(content["system_id"]), content["timeline"]
            self._before = system_id, timeline, Lsn.parse(content["shown"])
            if (system_id, timeline) == self._history:
                self._shown = self._kept = self._before[2]

    @property
    def end(self) -> Lsn:
        """All that was ever shown committed before."""
        return max(self._shown, self._before[2] if self._before is not None else Lsn(0))

    @property
    def known(self) -> bool:
        return self._before is not None

    def shown(self, system_id: int, timeline: int) -> Lsn | None:
        """As it was when loaded: up to where this history was shown. None when nothing was since it was taken up."""
        before = self._before
        return before[2] if before is not None and before[0] == system_id and before[1] >= timeline else None

    async def note(self, shown: Lsn) -> None:
        """Durable when it returns."""
        self._shown = max(self._shown, shown)
        if self._shown > self._kept:
            await self._keep(Lsn(self._shown + _STEP))

    async def close(self) -> None:
        """From now on exactly."""
        if self._shown < self._kept:
            await self._keep(self._shown)

    async def doubt(self, doubted: bool) -> None:
        self.doubted = doubted
        await self._file.save("doubted", doubted or None)

    async def _keep(self, shown: Lsn) -> None:
        self._kept = shown
        system_id, timeline = self._history
        await self._file.update({"system_id": str(system_id), "timeline": timeline, "shown": str(shown)})


class NotingReader:
    """A SourceReader that notes what its views show before it shows it."""

    def __init__(self, reader: SourceReader, ahead: ReadAhead) -> None:
        self._reader = reader
        self._ahead = ahead
        self.viewed = Lsn(0)
        """All that views have shown since it was opened committed before."""

    async def __aenter__(self) -> Self:
        await self._ahead.load()
        await self._reader.__aenter__()
        if not self._ahead.known:  # whatever was shown before was shown by now
            await self._ahead.note(self._reader.shown)
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._ahead.close()
        finally:
            await self._reader.__aexit__(*exc)

    @property
    def shown(self) -> Lsn:
        return self._reader.shown

    async def relations(self, tables: Group[TableId]) -> Mapping[TableId, Relation]:
        return await self._reader.relations(tables)

    async def settle(self) -> None:
        await self._reader.settle()

    @asynccontextmanager
    async def view(self, xids: Group[int]) -> AsyncIterator[SourceView]:
        async with self._reader.view(xids) as view:
            await self._ahead.note(self._reader.shown)
            self.viewed = max(self.viewed, self._reader.shown)
            yield view
