"""A pipeline as a process of its own, to be killed: PostgreSQL into two SQLite files.

    python fault_process.py DSN SLOT FOLDER [--until LSN]

`exact` keeps its checkpoint beside the data and is durable at once; `late` accepts, becomes durable when flushed, and
leaves the checkpoint to the state directory. Both refuse rows of users whose name begins with `refuse`: `exact` keeps its
dead letters beside the data, `late` leaves them to the state directory, too.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from walcast.engine import Pipeline, PipelineSettings
from walcast.engine.history import checkpoint_json, checkpoint_of
from walcast.model import (
    UNCHANGED,
    Batch,
    Change,
    Checkpoint,
    DeadLetter,
    DeadLetterStore,
    Durability,
    FatalError,
    Lsn,
    Refusal,
    Relation,
    RowPolicies,
    RowsRefused,
)
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig

SCHEMA = """
create table if not exists state (key text primary key, value text);
create table if not exists rows (tab text, key text, row text, primary key (tab, key));
create table if not exists dead (number integer primary key, letter text);
create table if not exists seen (lsn integer, ordinal integer, primary key (lsn, ordinal));
"""


class SqliteSink:
    """Rows as JSON by key; `seen` are the positions of changes, so that one that comes twice fails."""

    policies = RowPolicies(integrity="set_aside")

    def __init__(self, path: Path, *, exact: bool) -> None:
        self._path = path
        self._exact = exact
        self._in_parts = False
        self._db: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._db.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + SCHEMA)
        self._in_parts = False
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.db.close()  # what is open is rolled back

    @property
    def db(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    @property
    def keeps_checkpoint(self) -> bool:
        return self._exact

    async def checkpoint(self) -> Checkpoint | None:
        row = self.db.execute("select value from state where key = 'checkpoint'").fetchone()
        return checkpoint_of(json.loads(row[0])) if row else None

    async def prepare(self, relation: Relation) -> None: ...

    async def write(self, batch: Batch) -> Durability:
        return self._write(batch, (), ())

    def _write(self, batch: Batch, letters: Sequence[DeadLetter], gone: Sequence[int]) -> Durability:
        refused = [
            Refusal(place, "integrity", "refused", "it says refuse")
            for place, change in enumerate(batch.changes())
            if str(change.row.get("name")).startswith("refuse")
        ]
        if refused:
            raise RowsRefused(batch, refused)
        if not self.db.in_transaction:
            self.db.execute("begin immediate")
        part = batch.part
        if batch.kind == "snapshot" and part is not None and part.number == 0:
            self.db.execute("delete from rows where tab = ?", [str(batch.relations[0])])
        for change in batch.changes():
            self._apply(change)
        for letter in letters:
            self.db.execute("insert into dead values (?, ?)", [letter.number, json.dumps(letter.as_json())])
        for number in gone:
            self.db.execute("delete from dead where number = ?", [number])
        self._in_parts = batch.kind == "changes" and part is not None and not part.last
        if batch.checkpoint is not None:
            value = json.dumps(checkpoint_json(batch.checkpoint))
            self.db.execute("insert or replace into state values ('checkpoint', ?)", [value])
        if self._in_parts or not self._exact:
            return Durability.ACCEPTED
        self.db.execute("commit")
        return Durability.DURABLE

    async def flush(self) -> None:
        if self._in_parts:
            raise FatalError("flush between the parts of a transaction")
        if self.db.in_transaction:
            self.db.execute("commit")

    def _apply(self, change: Change) -> None:
        table = str(change.relation)
        if change.op != "snapshot":
            how = "insert" if self._exact else "insert or replace"
            position = (change.position.commit_lsn, change.position.ordinal)
            self.db.execute(f"{how} into seen values (?, ?)", position)
        if change.op == "truncate":
            self.db.execute("delete from rows where tab = ?", [table])
            return
        before = json.dumps(change.key, default=str)
        old: dict[str, Any] = {}
        found = self.db.execute("select row from rows where tab = ? and key = ?", [table, before]).fetchone()
        if found is not None and change.op != "insert":
            old = json.loads(found[0])
            self.db.execute("delete from rows where tab = ? and key = ?", [table, before])
        if change.new is not None:
            new = {name: old.get(name) if value is UNCHANGED else value for name, value in change.new.items()}
            key = json.dumps(
                [new[column.name] for column in change.relation.columns if column.key], default=str
            )  # type: ignore[union-attr]  # not a message
            row = json.dumps(new, default=str)
            self.db.execute("insert or replace into rows values (?, ?, ?)", [table, key, row])


class ExactSink(SqliteSink):
    """With dead letters beside the data."""

    def dead_letters(self) -> DeadLetterStore:
        return self  # type: ignore[return-value]  # what of it is asked for

    async def load(self) -> list[DeadLetter]:
        rows = self.db.execute("select letter from dead order by number").fetchall()
        return [DeadLetter.of(json.loads(row[0])) for row in rows]

    async def write_aside(
        self, batch: Batch, letters: Sequence[DeadLetter], gone: Sequence[int]
    ) -> Durability:
        return self._write(batch, letters, gone)


async def main(dsn: str, slot: str, folder: Path, until: str | None) -> None:
    config = SourceConfig(
        dsn=Secret(dsn),
        name="faults",
        slot=slot,
        publication="p",
        part_bytes=1 << 16,
        snapshot_chunk_bytes=1 << 16,
        snapshot_chunk_rows=100,
    )
    sinks = {
        "exact": ExactSink(folder / "exact.db", exact=True),
        "late": SqliteSink(folder / "late.db", exact=False),
    }
    settings = PipelineSettings(serve=False, retry_limit=20)
    pipeline = Pipeline(PostgresSource(config), sinks, folder / "state", settings)
    running = asyncio.create_task(pipeline.run())
    if until is not None:
        waiting = asyncio.create_task(pipeline.wait_for(Lsn.parse(until)))
        await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
        pipeline.stop()
        waiting.cancel()
    await running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[5] if len(sys.argv) > 4 else None))
