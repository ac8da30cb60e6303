"""One target's share of a batch: the roots that it affects, read as they are in a view that sees the batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any

from walcast.mapping import Target, Work, assemble, climb, columnar, ids_of, put_columns
from walcast.mapping.values import key_of, key_of_member
from walcast.model import Batch, Lsn, NetChanges, Relation, RowSet
from walcast.model.derived import Delete, DerivedStore, Encoded, Key, Put, Row, SourceReader, SourceView

SLICE = 1000
"""Roots that are read and written at a time."""
WHOLE = 20_000
"""Rows that are written at a time where nothing is read."""


class View:
    """A view of the source that is taken when something is to be read, and not before; an async context manager."""

    def __init__(self, reader: SourceReader, xids: Collection[int]) -> None:
        self._reader = reader
        self._xids = xids
        self._stack = AsyncExitStack()
        self._view: SourceView | None = None

    async def __aenter__(self) -> View:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def get(self) -> SourceView:
        """The same one each time. Waits until the source shows all that the batch brought."""
        if self._view is None:
            self._view = await self._stack.enter_async_context(self._reader.view(self._xids))
        return self._view


async def changed(
    view: View, target: Target, work: Work, store: DerivedStore
) -> AsyncIterator[tuple[Sequence[Put], Sequence[Delete]]]:
    """What becomes of the affected roots, a slice at a time. What was not put is deleted with the last one: an id may move
    from one row to another."""
    names = list(target.collections)
    ids = set(work.gone)
    roots = set(work.roots)
    if work.links:
        roots |= await climb(await view.get(), target, work.links)
    if work.held:
        for made in target.collections.values():
            for id_, root in await store.holders(made, sorted(work.held)):
                ids.add(id_)
                roots.add(key_of_member(root, len(target.root.key)))
    kept: set[Delete] = set()
    for keys in sliced(roots):
        rows = await _rows(view, target, work, keys)
        ids |= {target.id_from(row) for row in rows}
        if target.named_by_key:
            ids |= {target.id_of_key(key) for key in keys}
        puts = await assemble(None if target.flat else await view.get(), target, rows)
        kept |= {Delete(put.collection, put.id) for put in puts}
        yield puts, ()
    gone = {Delete(name, id_) for name in names for id_ in ids}
    if gone - kept:
        yield (), sorted(gone - kept)


def whole(
    target: Target, batch: Batch, shown: Lsn | None
) -> Iterator[tuple[Sequence[Put], Sequence[Delete]]] | None:
    """What becomes of a batch's rows, column by column, where each of them tells it by itself; None where they do not.

    `shown`: nothing that committed there or later was ever read for this store, nor written before; None: it cannot be
    told. What the batch inserts beyond it is fresh: its key was in no row that the store was given.
    """
    root = target.root
    relations = [relation for relation in batch.relations if relation.table == root.table]
    if not relations and target.flat:
        return iter(())
    if len(relations) != 1 or not columnar(target, relations[0]):
        return None
    (relation,) = relations
    net = batch.net(relation)
    needed = {relation.names.index(column) for column in root.columns}
    if net.replay or net.truncate or any(needed.intersection(group.unchanged) for group in net.upserts):
        return None
    first = next(batch.raw(), None)
    return _pieces(
        target, relation, net, shown is not None and first is not None and first.commit_lsn >= shown
    )


def _pieces(
    target: Target, relation: Relation, net: NetChanges, beyond: bool
) -> Iterator[tuple[Sequence[Put], Sequence[Delete]]]:
    (collection,) = target.collections

    def columns(rows: RowSet, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        for values in rows.values([relation.names.index(name) for name in names], WHOLE):
            yield dict(zip(names, values, strict=True))

    if net.deletes is not None:
        for found in columns(net.deletes, target.root.key):
            yield (), [Delete(collection, id_) for id_ in ids_of(found, target.id_columns)]
    for group in net.upserts:
        for found in columns(group.rows, target.root.columns):
            puts, gone = put_columns(target, found, beyond and group.fresh)
            yield puts, [Delete(collection, id_) for id_ in gone]


async def copied(
    view: View, target: Target, batch: Batch, *, as_json: bool
) -> AsyncIterator[Sequence[Put] | Encoded]:
    """What becomes of a chunk of a root table's rows, a slice at a time; in JSON where that can be. There is nothing to delete."""
    root, start = target.root, 0
    if as_json and target.straight is not None:
        (relation,) = batch.relations
        while made := batch.documents(relation, target.straight, target.id_columns, start, start + SLICE):
            if not made[0]:
                return
            yield Encoded(target.name, *made)
            start += SLICE
    changes = islice(batch.changes(), start, None)
    while some := list(islice(changes, SLICE)):
        rows = [change.new for change in some if change.new is not None]
        if not target.flat or any(column not in rows[0] for column in root.columns):
            keys = [key for row in rows if (key := key_of(row[column] for column in root.key)) is not None]
            rows = list(await (await view.get()).rows(root.table, root.columns, root.key, keys))
        yield await assemble(None if target.flat else await view.get(), target, rows)


async def page(view: View, target: Target, after: Key | None) -> tuple[Sequence[Put], Key | None]:
    """The next roots of the whole table, and where they end; None after the last."""
    root, there = target.root, await view.get()
    rows = await there.page(root.table, root.columns, root.key, after, SLICE)
    puts = await assemble(there, target, rows)
    return puts, None if len(rows) < SLICE else key_of(rows[-1][column] for column in root.key)


async def _rows(view: View, target: Target, work: Work, keys: Collection[Key]) -> list[Row]:
    """The root rows with these keys: those that the batch carries whole, the others as they are at the source."""
    rows = [row for key in keys if (row := work.known.get(key)) is not None]
    unknown = [key for key in keys if key not in work.known]
    if unknown:
        root = target.root
        rows += await (await view.get()).rows(root.table, root.columns, root.key, unknown)
    return rows


def sliced(keys: Iterable[Key]) -> Iterator[list[Key]]:
    """In a fixed order, `SLICE` at a time."""
    ordered = iter(sorted(keys))
    while found := list(islice(ordered, SLICE)):
        yield found
