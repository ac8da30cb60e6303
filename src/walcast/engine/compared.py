"""What a mapped sink holds beside what it should hold: read while it is held at a position (`walcast.engine.fence`).

The source is read a moment after the sink stood still, so a difference may be a change that is yet to come. It is one for
sure when it is there at two positions, and the source has the same at both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from walcast.engine.derive import View, page, sliced
from walcast.engine.mapped import MappedSink
from walcast.mapping import Target, assemble
from walcast.mapping.values import parts_of
from walcast.model import OperatorError
from walcast.model.derived import Key, Put, Shows


class Item(NamedTuple):
    """A document, vertex or edge by its name."""

    collection: str
    id: str


class Pair(NamedTuple):
    """The store's form of what the source makes it, and of what is held; None: nothing."""

    source: Any
    copy: Any

    @property
    def equal(self) -> bool:
        return bool(self.source == self.copy)


class Compared:
    """A sink whose store `Shows`, standing at `version`. Raises OperatorError for another, or while a collection is being filled."""

    def __init__(self, sink: MappedSink, version: int) -> None:
        if not isinstance(sink.store, Shows):
            raise OperatorError("this store cannot show what it holds", hint="see: walcast sinks")
        if sink.filling:
            raise OperatorError("a collection is being filled", hint="wait until it serves")
        self._sink = sink
        self._version = version
        self._store = sink.store

    async def page(self, target: Target, after: Key | None) -> tuple[dict[Item, Pair], Key | None]:
        """The next roots of the source and what is held of them; where they end, None after the last."""
        async with self._sink.still() as reader, View(reader, ()) as view:
            puts, after = await page(view, target, after)
            wanted = {Item(put.collection, put.id) for put in puts}
            return await self._pairs(target, wanted, puts), after

    async def ids(self, target: Target, collection: str, after: str | None) -> Sequence[str]:
        async with self._sink.still():
            return await self._store.ids(target.collections[collection], after)

    async def items(self, target: Target, items: Collection[Item]) -> dict[Item, Pair]:
        """These, as they are now."""
        async with self._sink.still() as reader, View(reader, ()) as view:
            return await self._pairs(target, items, await self._read(view, target, items))

    async def mend(self, target: Target, items: Collection[Item]) -> None:
        """Makes these what they should be; durable when it returns."""
        async with self._sink.still() as reader, View(reader, ()) as view:
            puts = await self._read(view, target, items)
            there = {Item(put.collection, put.id) for put in puts}
            await self._sink.put_right(puts, set(items) - there, self._version)

    async def _pairs(self, target: Target, items: Iterable[Item], puts: Sequence[Put]) -> dict[Item, Pair]:
        made = {Item(put.collection, put.id): put for put in puts}
        held: dict[Item, Any] = {}
        by_collection: dict[str, list[str]] = {}
        for item in items:
            by_collection.setdefault(item.collection, []).append(item.id)
        for name, ids in by_collection.items():
            found: Mapping[str, Any] = await self._store.held(target.collections[name], ids)
            held |= {Item(name, id_): form for id_, form in found.items()}
        return {
            item: Pair(
                self._store.form(target.collections[item.collection], made[item]) if item in made else None,
                held.get(item),
            )
            for item in items
        }

    async def _read(self, view: View, target: Target, items: Iterable[Item]) -> list[Put]:
        """What the source makes of these ids now."""
        wanted = set(items)
        ids = {item.id for item in wanted}
        root, puts = target.root, []
        columns = target.id_columns
        keys = [parts for id_ in ids if (parts := parts_of(id_, len(columns))) is not None]
        for some in sliced(keys):
            rows = await (await view.get()).rows(root.table, root.columns, columns, some)
            puts += await assemble(await view.get(), target, rows)
        return [put for put in puts if Item(put.collection, put.id) in wanted]
