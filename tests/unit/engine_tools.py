"""What the tests of the engine share: a scripted server and source in memory, and ways to run a pipeline on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from walcast.engine import Pipeline, PipelineSettings, SinkState
from walcast.model import (
    Batch,
    Change,
    Checkpoint,
    Column,
    Cut,
    Lsn,
    Part,
    Position,
    RawChange,
    Relation,
    SlotState,
    SnapshotTable,
    SourceIdentity,
    SourceUnavailable,
    TableId,
    TypeInfo,
    Visibility,
)

INT8 = TypeInfo(20, "pg_catalog", "int8")
SETTINGS = PipelineSettings(
    backoff_first=0.001,
    backoff_most=0.01,
    retry_limit=5.0,
    stall_limit=0.1,
    flush_idle=0.001,
    flush_interval=0.005,
    save_interval=0.001,
    stop_timeout=2.0,
    serve=False,
)


def users(oid: int = 1, name: str = "users", columns: Sequence[str] = ("id", "n")) -> Relation:
    made = tuple(Column(column, INT8, key=number == 0) for number, column in enumerate(columns))
    return Relation(oid, TableId("app", name), made)


USERS = users()


@dataclass(frozen=True)
class ScriptedBatch:
    """A batch of Change objects; what the engine asks of `walcast.model.Batch`."""

    kind: Literal["changes", "snapshot", "idle"]
    relations: Sequence[Relation]
    checkpoint: Checkpoint | None
    rows: tuple[Change, ...] = ()
    part: Part | None = None
    nbytes: int = 0
    commit_time: float | None = None

    @property
    def transactions(self) -> int:
        return len({change.position.commit_lsn for change in self.rows})

    def __len__(self) -> int:
        return len(self.rows)

    def changes(self) -> Iterator[Change]:
        return iter(self.rows)

    def raw(self) -> Iterator[RawChange]:
        for change in self.rows:
            assert change.relation is not None
            op = {"insert": b"I", "update": b"U", "delete": b"D", "truncate": b"T"}[change.op]
            new, old = (_sent(row, change.relation) for row in (change.new, change.old))
            yield RawChange(
                op,
                list(self.relations).index(change.relation),
                change.position.commit_lsn,
                change.position.ordinal,
                change.xid,
                0,
                *new,
                b"K" if change.old is not None else b"",
                *old,
                (False, False, ()),
            )

    def counts(self, relation: Relation) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for change in self.rows:
            if change.relation == relation:
                found[change.op] = found.get(change.op, 0) + 1
        return found

    @property
    def xids(self) -> Sequence[int]:
        return [change.xid for change in self.rows if change.xid]

    def upto(self, lsn: Lsn) -> ScriptedBatch | None:
        if self.kind == "idle":
            return self if self.checkpoint is None or self.checkpoint.through <= lsn else None
        rows = tuple(change for change in self.rows if change.position.commit_lsn < lsn)
        if self.kind == "snapshot" or len(rows) == len(self.rows):
            return self
        if not rows:
            return None
        last = rows[-1].position
        assert self.checkpoint is not None
        return replace(
            self, rows=rows, checkpoint=Checkpoint(self.checkpoint.epoch, last, Lsn(last.commit_lsn + 30))
        )

    def after(self, checkpoint: Checkpoint | None, starts: Mapping[TableId, Lsn]) -> ScriptedBatch | None:
        held = 0 if checkpoint is None else checkpoint.through
        rows = tuple(
            change
            for change in self.rows
            if change.position.commit_lsn >= held
            and (
                change.relation is None or change.position.commit_lsn >= starts.get(change.relation.table, 0)
            )
        )
        if rows:
            return replace(self, rows=rows)
        if self.part is not None and self.rows and self.rows[0].position.commit_lsn >= held:
            return replace(self, rows=())
        newer = self.checkpoint is not None and self.checkpoint.through > held
        return replace(self, kind="idle", rows=(), part=None, relations=()) if newer else None

    def join(self, later: Sequence[Batch]) -> tuple[Batch, int]:
        if self.kind == "idle" and later and later[0].part is None and later[0].kind != "snapshot":
            found, more = later[0].join(later[1:])
            return found, more + 1
        joined, count = self, 0
        for batch in later:
            if not isinstance(batch, ScriptedBatch) or self.kind != "changes" or batch.kind == "snapshot":
                break
            known = {relation.oid: relation for relation in joined.relations}
            if batch.part or self.part or any(known.get(r.oid, r) != r for r in batch.relations):
                break
            joined = replace(
                joined,
                relations=list({**known, **{r.oid: r for r in batch.relations}}.values()),
                checkpoint=batch.checkpoint,
                rows=joined.rows + batch.rows,
                nbytes=joined.nbytes + batch.nbytes,
                commit_time=batch.commit_time or joined.commit_time,
            )
            count += 1
        return joined, count


def _sent(row: dict[str, Any] | None, relation: Relation) -> tuple[bytes, tuple[bytes | None, ...]]:
    if row is None:
        return b"", ()
    values = tuple(str(row[name]).encode() if name in row else None for name in relation.names)
    return bytes(b"nt"[value is not None] for value in values), values


@dataclass
class Transaction:
    lsn: Lsn
    end: Lsn
    changes: list[tuple[str, Relation, dict[str, Any]]]
    parts: int
    xid: int


@dataclass
class ScriptedServer:
    """A database server's memory: its WAL, its slot, its rows. Outlives the sources that read it."""

    relations: list[Relation] = field(default_factory=lambda: [USERS])
    system_id: int = 7
    timeline: int = 1
    wal: list[Transaction] = field(default_factory=list)
    rows: dict[TableId, dict[int, dict[str, Any]]] = field(default_factory=dict)
    at: Lsn = field(default_factory=lambda: Lsn(1000))
    confirmed: Lsn | None = None
    ended: dict[int, Lsn] = field(default_factory=dict)
    retained: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    streams: int = 0
    xid: int = (5 << 32) - 3
    """The last transaction's; a few more and its lower half begins again."""
    hidden: set[int] = field(default_factory=set)
    """Transactions that were committed and are not visible yet."""
    check: Callable[[Lsn], None] | None = None

    def commit(self, *changes: tuple[str, Relation, dict[str, Any]], parts: int = 1) -> Lsn:
        """One transaction; the token of a writer that asks afterwards."""
        self.xid += 1
        transaction = Transaction(Lsn(self.at + 10), Lsn(self.at + 40), list(changes), parts, self.xid)
        for op, relation, row in changes:
            rows = self.rows.setdefault(relation.table, {})
            if op == "truncate":
                rows.clear()
            elif op == "delete":
                rows.pop(row["id"], None)
            else:
                rows[row["id"]] = row
        self.wal.append(transaction)
        self.at = Lsn(self.at + 50)
        self.wake()
        return self.at

    def put(self, number: int, n: int = 0, relation: Relation = USERS, parts: int = 1) -> Lsn:
        return self.commit(("insert", relation, {"id": number, "n": n}), parts=parts)

    def cut(self) -> Cut:
        """What a snapshot taken now sees, and the position now."""
        return Cut(
            self.at, Visibility(min(self.hidden, default=self.xid + 1), self.xid + 1, frozenset(self.hidden))
        )

    def wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    def expected(self, relation: Relation = USERS) -> list[dict[str, Any]]:
        rows = self.rows.get(relation.table, {})
        return [rows[key] for key in sorted(rows, key=lambda key: repr((key,)))]


class ScriptedSource:
    """A source that reads a ScriptedServer. `fail` raises at the next batch, or after some more."""

    def __init__(self, server: ScriptedServer, *, chunk: int = 2) -> None:
        self.server = server
        self.epoch = 1
        self.failure: Exception | None = None
        self._fails_after = 0
        self.opened = 0
        self._chunk = chunk
        self._export: tuple[Lsn, dict[TableId, dict[int, dict[str, Any]]]] | None = None
        self._starts: dict[TableId, Lsn] = {}
        self._identity: SourceIdentity | None = None
        self._streaming = False
        self._poked = False

    async def __aenter__(self) -> Self:
        self.opened += 1
        self._identity = SourceIdentity(self.server.system_id, self.server.timeline, 180000, "db")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._export = None

    @property
    def identity(self) -> SourceIdentity:
        assert self._identity is not None
        return self._identity

    @property
    def starts(self) -> Mapping[TableId, Lsn]:
        return self._starts

    async def timeline_end(self, timeline: int) -> Lsn | None:
        return self.server.ended.get(timeline)

    async def slot(self) -> SlotState | None:
        if self.server.confirmed is None:
            return None
        return SlotState("slot", self.server.confirmed, Lsn(0), None, "reserved", None, self.server.retained)

    async def create_slot(self) -> Lsn:
        assert self.server.confirmed is None
        self.server.confirmed = self.server.at
        self._export = self._exported()
        return self.server.at

    async def drop_slot(self) -> bool:
        assert not self._streaming, "somebody reads it"
        there, self.server.confirmed = self.server.confirmed is not None, None
        self.server.retained = 0
        return there

    async def tables(self) -> Sequence[SnapshotTable]:
        return [
            SnapshotTable(relation.table, len(self.server.rows.get(relation.table, {})), 0)
            for relation in self.server.relations
        ]

    async def snapshot(self, tables: Sequence[TableId]) -> AsyncGenerator[Batch, None]:
        (start, content), self._export = self._export or self._exported(), None
        for relation in self.server.relations:
            if relation.table not in tables:
                continue
            self._starts[relation.table] = start
            rows = list(content.get(relation.table, {}).values())
            chunks = [rows[at : at + self._chunk] for at in range(0, len(rows), self._chunk)] or [[]]
            for number, chunk in enumerate(chunks):
                await asyncio.sleep(0)
                self._maybe_fail()
                changes = tuple(Change("snapshot", Position(start, 0), relation, new=row) for row in chunk)
                part = Part(number, number == len(chunks) - 1)
                yield ScriptedBatch("snapshot", [relation], None, changes, part, nbytes=100)

    async def stream(self, after: Checkpoint | None) -> AsyncGenerator[Batch, None]:
        assert not self._streaming, "one stream at a time"
        server = self.server
        assert server.confirmed is not None
        self._streaming = True
        server.streams += 1
        through = max(server.confirmed, after.through if after is not None else Lsn(0))
        position = after.position if after is not None else Position(Lsn(0), 0)
        try:
            while True:
                self._maybe_fail()
                news = server.news
                waiting = [transaction for transaction in server.wal if transaction.lsn >= through]
                for transaction in waiting:
                    for batch in _batches(transaction, self.epoch):
                        yield batch
                        self._maybe_fail()
                        await asyncio.sleep(0)
                    through, position = (
                        transaction.end,
                        Position(transaction.lsn, len(transaction.changes)),
                    )
                if waiting:
                    continue
                if self._poked:
                    self._poked = False
                    through = max(through, server.at)
                    yield ScriptedBatch("idle", (), Checkpoint(self.epoch, position, through))
                    continue
                await news.wait()
        finally:
            self._streaming = False

    async def confirm(self, through: Lsn) -> None:
        server = self.server
        if server.check is not None:
            server.check(through)
        if self._streaming and server.confirmed is not None:
            server.confirmed = max(server.confirmed, through)

    async def position(self) -> Lsn:
        return self.server.at

    async def visibility(self) -> Visibility:
        return self.server.cut().visibility

    async def nudge(self) -> None:
        pass

    async def unsettled(self) -> Sequence[int]:
        return [xid & 0xFFFFFFFF for xid in self.server.hidden]

    def poke(self) -> None:
        self._poked = True
        self.server.wake()

    def fail(self, error: Exception | None = None, *, after: int = 0) -> None:
        self.failure = error or SourceUnavailable("cut by the test")
        self._fails_after = after
        self.server.wake()

    def _maybe_fail(self) -> None:
        self._fails_after -= 1
        if self.failure is not None and self._fails_after < 0:
            failure, self.failure = self.failure, None
            raise failure

    def _exported(self) -> tuple[Lsn, dict[TableId, dict[int, dict[str, Any]]]]:
        return self.server.at, {table: dict(rows) for table, rows in self.server.rows.items()}


def _batches(transaction: Transaction, epoch: int) -> Iterator[ScriptedBatch]:
    changes = tuple(
        Change(
            op,  # type: ignore[arg-type]  # what the tests write
            Position(transaction.lsn, number),
            relation,
            new=None if op in ("delete", "truncate") else row,
            old=row if op == "delete" else None,
            xid=transaction.xid & 0xFFFFFFFF,
        )
        for number, (op, relation, row) in enumerate(transaction.changes, 1)
    )
    relations = list(dict.fromkeys(relation for _, relation, _ in transaction.changes))
    checkpoint = Checkpoint(epoch, Position(transaction.lsn, len(changes)), transaction.end)
    count = min(transaction.parts, len(changes))
    if count < 2:
        yield ScriptedBatch("changes", relations, checkpoint, changes, nbytes=100, commit_time=1.0)
        return
    for number in range(count):
        last = number == count - 1
        rows = changes[number * len(changes) // count : (number + 1) * len(changes) // count]
        yield ScriptedBatch(
            "changes", relations, checkpoint if last else None, rows, Part(number, last), 100, 1.0
        )


@asynccontextmanager
async def running(pipeline: Pipeline) -> Any:
    """Runs it until its sinks have their copies, then the body; stops it cleanly at the end. An error of the pipeline is
    raised here."""
    task = asyncio.create_task(pipeline.run())
    begun = (SinkState.OPENING, SinkState.COPYING)
    try:
        await until(lambda: task.done() or all(sink.state not in begun for sink in pipeline.status().sinks))
        yield task
    finally:
        pipeline.stop()
        async with asyncio.timeout(10):
            await task


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Waits for something that the pipeline does by itself."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.002)
