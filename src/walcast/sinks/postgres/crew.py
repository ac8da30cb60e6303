"""Lines beside the sink's own, over which a snapshot's chunks are written side by side.

    part 0 of a table   the sink's line, which empties the table
    parts after it      any free line of the crew
    its last part       the sink's line, once the table's other parts are there

One backend that takes COPY is slower than one that sends it. What a line could not write is told at the same table's
next chunk, so that the right table stops.
"""

from __future__ import annotations

import asyncio

from walcast.model import Batch, Checkpoint, RowsRefused, TableId, TableStopped
from walcast.sinks.postgres.line import Line


class Crew:
    """Takes chunks while a line is free, and waits for one otherwise. After any error but TableStopped the sink is opened
    again, and the crew with it."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._free: list[Line] = []
        self._running: dict[asyncio.Task[None], TableId] = {}
        self._stopped: dict[TableId, TableStopped] = {}
        self._refused: dict[TableId, list[RowsRefused]] = {}
        self._broken: Exception | None = None

    def join(self, line: Line) -> None:
        """The line is the crew's to close from now on."""
        self._lines.append(line)
        self._free.append(line)

    async def write(self, batch: Batch, held: Checkpoint | None) -> None:
        """Returns when a line has taken the chunk. Raises what an earlier chunk of this table met."""
        table = batch.relations[0].table
        while not self._free:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        self._tell(table)
        task = asyncio.create_task(self._write(self._free.pop(), table, batch, held))
        self._running[task] = table
        task.add_done_callback(self._running.pop)

    async def settle(self, table: TableId | None = None) -> None:
        """Returns when the chunks of the table (None: all) are written. Raises what one of that table met."""
        waited = [task for task, of in self._running.items() if table in (None, of)]
        if waited:
            await asyncio.wait(waited)
        self._tell(table)

    async def close(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for line in self._lines:
            await line.close()

    async def _write(self, line: Line, table: TableId, batch: Batch, held: Checkpoint | None) -> None:
        try:
            line.writer.held = held
            await line.call(lambda: line.writer.write(batch))
        except TableStopped as stopped:
            self._stopped[table] = stopped
        except RowsRefused as refused:
            self._refused.setdefault(table, []).append(refused)
        except Exception as error:
            self._broken = error
        finally:
            self._free.append(line)

    def _tell(self, table: TableId | None) -> None:
        if self._broken is not None:
            raise self._broken
        if table is not None and table in self._stopped:
            raise self._stopped.pop(table)
        if table is not None and self._refused.get(table):
            raise self._refused[table].pop()
