"""Source -> mapping -> sink: makes of a batch what a store of documents, vertices or edges holds.

    write(batch):  affected roots (mapping) -> a view of the source that sees the batch -> the roots as they are there -> store

Why this converges, and why a version cannot go backwards, is argued in docs/decisions/0008-derived-copies.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import Self

from walcast.engine.ahead import NotingReader, ReadAhead
from walcast.engine.blame import blamed
from walcast.engine.derive import View, changed, copied, page, whole
from walcast.engine.tasks import end
from walcast.mapping import DataMapping, Plan, Target, affected, compile_mapping, tables_of
from walcast.model import (
    Batch,
    Checkpoint,
    Durability,
    Journal,
    KeepsJournal,
    Lsn,
    OperatorError,
    Position,
    Refusal,
    Relation,
    RowPolicies,
    RowsRefused,
    TableId,
    TableStopped,
)
from walcast.model.derived import (
    Delete,
    Derived,
    DerivedSettings,
    DerivedStore,
    Encoded,
    ItemsRefused,
    Key,
    Put,
    SourceReader,
    TakesJson,
    TakesLater,
    version_of,
)

log = logging.getLogger("walcast.engine")
DEFAULT_POLICIES = DerivedSettings().policies


class MappedSink:
    """Implements `walcast.model.Sink`, `SetsAside`, `ReadsAhead` and `AwaitsTables` over a store. The mapping is compiled when it is opened, with the tables as they are.

    A collection whose mapping changed is filled anew beside the stream while the old one serves, then takes its place.
    """

    def __init__(
        self,
        store: DerivedStore,
        mapping: DataMapping,
        reader: SourceReader,
        targets: Sequence[str] = (),
        policies: RowPolicies = DEFAULT_POLICIES,
        ahead: ReadAhead | None = None,
    ) -> None:
        self._targets = targets
        self.policies = policies
        self.store = store
        self._mapping = mapping
        self._ahead = ahead
        self._reader = reader if ahead is None else NotingReader(reader, ahead)
        self._plan: Plan | None = None
        self._calls = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._filler: asyncio.Task[None] | None = None
        self._copied: set[str] = set()
        """Collections copied by the snapshot at hand: its copies of their other tables bring nothing new."""
        self._shown_before: Lsn | None = None
        """Nothing that committed there or later was read for the store before it was opened; None: not known."""
        self._version = 0
        self._in_parts = False
        self.awaited: Callable[[], Collection[TableId]] = frozenset
        self._chunk_before: Batch | None = None
        """A snapshot's chunk that may still be on its way to the store."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.store)
            await stack.enter_async_context(self._reader)
            relations = await self._reader.relations(tables_of(self._mapping))
            self._plan = compile_mapping(self._mapping, relations, self.store.kinds, self._targets)
            held = await self.store.checkpoint()
            if self._ahead is not None:
                empty = held is None and not await self.store.built()
                self._shown_before = Lsn(0) if empty else self._ahead.end
            self._version = 0 if held is None else _version_at(held)
            await self._match()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        filler, self._filler = self._filler, None
        await end(filler)
        await self._stack.aclose()

    @property
    def keeps_checkpoint(self) -> bool:
        return self.store.keeps_checkpoint

    @property
    def plan(self) -> Plan:
        assert self._plan is not None, "the sink is not open"
        return self._plan

    async def checkpoint(self) -> Checkpoint | None:
        return await self.store.checkpoint()

    def shown(self, system_id: int, timeline: int) -> Lsn | None:
        return None if self._ahead is None else self._ahead.shown(system_id, timeline)

    async def fill_anew(self) -> None:
        assert self._ahead is not None, "it was not asked what it has read"
        async with self._calls:  # not amid a page
            filler, self._filler = self._filler, None
            await end(filler)
            await self._ahead.doubt(True)
        await self._match()

    async def prepare(self, relation: Relation) -> None:
        """Raises TableStopped when the mapping reads a column that the table does not have any more."""
        for target, node in self.plan.places.get(relation.table, ()):
            missing = [column for column in node.columns if column not in relation.names]
            if not missing:
                continue  # what is missing may only not be published
            now = (await self._reader.relations([relation.table])).get(relation.table)
            for column in missing:
                if now is None or column not in now.names:
                    raise TableStopped(
                        relation.table,
                        f"the mapping of {target.name} reads {relation.table}.{column}, which is not there any more",
                        hint="change the mapping and start again",
                    )

    async def write(self, batch: Batch) -> Durability:
        if batch.kind == "snapshot" and self._filler is not None:
            await asyncio.wait([self._filler])  # both would make the same collection
        self._check_filler()
        async with self._calls:
            try:
                if batch.kind == "snapshot":
                    return await self._snapshot(batch)
                return await self._changes(batch)
            except ItemsRefused as refused:
                self._shown_before = None  # the batch comes again, and some of it is written
                before, self._chunk_before = self._chunk_before, None
                for suspect in (batch,) if before is None else (before, batch):
                    async with View(self._reader, suspect.xids) as view:
                        refusals = await blamed(self.plan, suspect, refused, view, self.store)
                    if refusals and self.policies.data == "stop":
                        raise self._stopped(suspect, refusals[0]) from refused
                    if refusals:
                        raise RowsRefused(suspect, refusals) from refused
                raise

    async def flush(self) -> None:
        self._check_filler()
        async with self._calls:
            await self.store.flush()

    async def query(self, *args: object, **kwargs: object) -> object:
        """Asks the store, between two of its writes. Raises OperatorError for a store that others can ask themselves."""
        ask = getattr(self.store, "query", None)
        if ask is None:
            raise OperatorError("this copy answers no queries here", hint="ask the store itself")
        async with self._calls:
            return await ask(*args, **kwargs)

    async def filled(self) -> None:
        """Returns when no collection is being filled any more. Raises what broke the filling."""
        if self._filler is not None:
            await asyncio.wait([self._filler])
        self._check_filler()

    @property
    def filling(self) -> bool:
        """Whether a collection is being filled beside the stream."""
        return self._filler is not None and not self._filler.done()

    @asynccontextmanager
    async def still(self) -> AsyncIterator[SourceReader]:
        """Nothing is written meanwhile; the source can be read, with all that may have been streamed in sight."""
        async with self._calls:
            await self._reader.settle()
            yield self._reader

    async def put_right(self, puts: Sequence[Put], gone: Iterable[tuple[str, str]], version: int) -> None:
        """Writes what was found to differ, read at this version or later; durable when it returns. Under `still`, and not
        amid a transaction in parts."""
        self._version = max(self._version, version)
        await self._write_page(puts, done=True)
        await self.store.write(self._derived((), [Delete(*item) for item in gone]))
        await self.store.flush()

    async def _changes(self, batch: Batch) -> Durability:
        self._copied.clear()
        done = batch.part is None or batch.part.last
        self._in_parts = not done
        if batch.last_commit is not None:
            # A dead letter that is tried again is older than what was written since.
            self._version = max(self._version, version_of(*batch.last_commit))
        elif batch.checkpoint is not None:
            self._version = _version_at(batch.checkpoint)
        letter = batch.checkpoint is None and batch.part is None
        if letter:  # its rows may be long outdated: it is made of what the source has now
            await self._reader.settle()
        shown = None
        if self._shown_before is not None and isinstance(self._reader, NotingReader) and not self.filling:
            shown = max(self._shown_before, self._reader.viewed)
        rest: list[Target] = []
        for target in self.plan.targets:
            pieces = None if letter else whole(target, batch, shown)
            if pieces is None:
                rest.append(target)
            else:
                await self._pour(pieces)
        async with View(self._reader, batch.xids) as view:
            for target, work in affected(self.plan, batch, targets=rest) if rest else ():
                if work.everything:
                    await self._anew(target, view, done=False)
                    continue
                if work.emptied:
                    await self.store.write(Derived(self._version, empty=list(target.collections), done=False))
                async for puts, deletes in changed(view, target, work, self.store):
                    await self.store.write(self._derived(puts, deletes, done=False))
            await self._taken()
        return await self.store.write(self._derived(checkpoint=batch.checkpoint, done=done))

    async def _pour(self, pieces: Iterator[tuple[Sequence[Put], Sequence[Delete]]]) -> None:
        """Each piece is made while the store takes the one before."""
        writing: asyncio.Task[Durability] | None = None
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self.store.write(self._derived(*piece, done=False)))
        finally:
            if writing is not None:
                await writing

    async def _snapshot(self, batch: Batch) -> Durability:
        """A chunk of a root's table is written. After the last chunk of a table below, what was made of it before is made
        anew, unless the same snapshot brought the root's table, or it is still to come: that makes all of it anew."""
        (relation,) = batch.relations
        first = batch.part is None or batch.part.number == 0
        last = batch.part is None or batch.part.last
        if first:
            await self._reader.settle()
        built = await self.store.built() if last else {}
        for target, node in self.plan.places.get(relation.table, ()):
            names = target.collections.keys()
            async with View(self._reader, ()) as view:
                if node is target.root:
                    await self._chunk(target, batch, view, first, last)
                elif (
                    last
                    and not self._copied & names
                    and names <= built.keys()
                    and target.root.table not in self.awaited()
                ):
                    await self._taken()
                    await self._anew(target, view)
        await self._taken(lagging=not last)
        self._chunk_before = None if last else batch
        return Durability.ACCEPTED

    async def _chunk(self, target: Target, batch: Batch, view: View, first: bool, last: bool) -> None:
        if first:
            self._copied |= target.collections.keys()
            await self._start(target)
        async for made in copied(view, target, batch, as_json=isinstance(self.store, TakesJson)):
            if isinstance(made, Encoded):
                await self.store.write(Derived(self._version, encoded=made))
            else:
                await self.store.write(self._derived(made))
        if last:
            await self._taken()
            await self._finish(target)

    async def _match(self) -> None:
        """Makes the collections that are missing; what is there but of another mapping is filled beside the stream."""
        built = await self.store.built()
        wanted = self.plan.collections
        doubted = self._ahead is not None and self._ahead.doubted
        for name in built.keys() - wanted.keys():
            await self.store.drop(name)
        stale = [
            target
            for target in self.plan.targets
            if doubted
            or any(built.get(name) != made.fingerprint for name, made in target.collections.items())
        ]
        if built and stale:
            self._filler = asyncio.create_task(self._fill(stale), name="walcast fill")
            return
        for target in stale:
            await self._start(target)
            await self._finish(target)
        await self._trusted()

    async def _trusted(self) -> None:
        """Nothing is left of what was in doubt."""
        if self._ahead is not None and self._ahead.doubted:
            await self._ahead.doubt(False)

    async def _fill(self, targets: Sequence[Target]) -> None:
        """Page by page between the stream's batches, which go to the new collections as well."""
        async with self._calls:
            await self._reader.settle()
            for target in targets:
                await self._start(target)
        for target in targets:
            after: Key | None = None
            while True:
                async with self._calls, View(self._reader, ()) as view:
                    puts, after = await page(view, target, after)
                    await self._write_page(puts, done=not self._in_parts)
                    if after is None:
                        await self._finish(target)
                        break
            log.info("collection_filled", extra={"target": target.name})
        await self._trusted()

    async def _anew(self, target: Target, view: View, *, done: bool = True) -> None:
        """All of it: it cannot be told what changed."""
        await self._start(target)
        after: Key | None = None
        while True:
            puts, after = await page(view, target, after)
            await self._write_page(puts, done=done)
            if after is None:
                break
        await self._finish(target)

    async def _write_page(self, puts: Sequence[Put], *, done: bool) -> None:
        """There is no change that could be set aside: what is refused is left out, unless it is to stop the sink."""
        try:
            await self.store.write(self._derived(puts, done=done))
            await self._taken()
        except ItemsRefused as refused:
            if self.policies.data == "stop":
                raise
            gone = {(item.collection, item.id) for item in refused.items}
            for item in refused.items:
                log.error("item_left_out", extra={"collection": item.collection, "reason": item.message})
            rest = [put for put in puts if (put.collection, put.id) not in gone]
            await self._write_page(rest, done=done)

    def _stopped(self, batch: Batch, refusal: Refusal) -> TableStopped:
        """The table whose change led to what is refused: its next changes might again."""
        raw = next(islice(batch.raw(), refusal.place, None))
        table = batch.relations[raw.relation].table
        return TableStopped(
            table,
            refusal.message,
            position=Position(Lsn(raw.commit_lsn), raw.ordinal),
            hint=f"correct the row at the source, or change the mapping, then: walcast resync {table}",
        )

    async def _taken(self, *, lagging: bool = False) -> None:
        if isinstance(self.store, TakesLater):
            await self.store.taken(lagging=lagging)

    async def _start(self, target: Target) -> None:
        for made in target.collections.values():
            await self.store.begin(made)

    async def _finish(self, target: Target) -> None:
        for made in target.collections.values():
            await self.store.finish(made)

    def _derived(
        self,
        puts: Sequence[Put] = (),
        deletes: Sequence[Delete] = (),
        *,
        checkpoint: Checkpoint | None = None,
        done: bool = True,
    ) -> Derived:
        return Derived(self._version, puts, deletes, (), checkpoint, done)

    def _check_filler(self) -> None:
        """What broke the filling breaks the sink: it is opened again, and begins to fill again."""
        filler = self._filler
        if filler is not None and filler.done() and not filler.cancelled():
            self._filler = None
            error = filler.exception()
            if error is not None:
                raise error


class JournalledMappedSink(MappedSink):
    """Over a store that keeps the pipeline's journal as well."""

    def journal(self) -> Journal:
        assert isinstance(self.store, KeepsJournal)
        return self.store.journal()


def mapped_sink(
    store: DerivedStore,
    mapping: DataMapping,
    reader: SourceReader,
    targets: Sequence[str] = (),
    policies: RowPolicies = DEFAULT_POLICIES,
    ahead: ReadAhead | None = None,
) -> MappedSink:
    """The sink that fits the store. `targets`: which of the mapping's, by default all that it can hold. `ahead`: where to
    keep how far the source was read."""
    kind = JournalledMappedSink if isinstance(store, KeepsJournal) else MappedSink
    return kind(store, mapping, reader, targets, policies, ahead)


def _version_at(checkpoint: Checkpoint) -> int:
    return version_of(checkpoint.epoch, checkpoint.position.commit_lsn)
