"""Vertices and edges in a LadybugDB file: what a batch becomes, and the checkpoint after it, in one transaction.

A collection is made anew in place: what the new generation brings is marked, and `finish` sweeps away the rest, so that
readers find the old until the new is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self, TypeVar

from walcast.model import Checkpoint, Durability, Fenced, Journal, SinkContext, SinkUnavailable
from walcast.model.derived import Collection, Derived, Kind, Put
from walcast.sinks.graph.config import GraphConfig
from walcast.sinks.graph.database import Database, checkpoint_json, checkpoint_of
from walcast.sinks.graph.labels import Edges, Vertices

T = TypeVar("T")


class GraphStore:
    """Implements `walcast.model.derived.DerivedStore` and `KeepsJournal`. LadybugDB's calls block: they run in a thread."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"vertex", "edge"})
    keeps_checkpoint = True

    def __init__(self, config: GraphConfig, context: SinkContext) -> None:
        self._config = config
        self._owner = f"{context.pipeline}/{context.sink}"
        self._worker = ThreadPoolExecutor(1, "walcast-graph")
        self._database: Database | None = None
        self._labels: dict[str, Vertices | Edges] = {}
        self._generations: dict[str, int] = {}
        self._making: set[str] = set()
        self._held: Checkpoint | None = None
        self._reached: Checkpoint | None = None
        self._whole = True

    async def __aenter__(self) -> Self:
        try:
            await self._call(self._open)
        except BaseException:
            await (
                self.__aexit__()
            )  # called off while it was opening, it opens all the same: that is closed, too
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        closing = self._worker.submit(self._close)
        self._worker.shutdown(wait=False)
        try:
            await asyncio.shield(asyncio.wrap_future(closing))
        except asyncio.CancelledError:
            closing.result()  # the file is let go all the same: the next to open it may be ourselves
            raise

    async def checkpoint(self) -> Checkpoint | None:
        return self._held

    async def built(self) -> Mapping[str, str]:
        found = await self._call(lambda: self._db.named("built:"))
        return {name: value["fingerprint"] for name, value in found.items()}

    async def begin(self, collection: Collection) -> None:
        await self._call(self._begin, collection)

    async def finish(self, collection: Collection) -> None:
        await self._call(self._finish, collection)

    async def drop(self, name: str) -> None:
        await self._call(self._drop, name)

    async def write(self, derived: Derived) -> Durability:
        await self._call(self._write, derived)
        return Durability.ACCEPTED

    async def flush(self) -> None:
        await self._call(self._commit)

    async def holders(self, collection: Collection, members: Sequence[str]) -> Sequence[tuple[str, str]]:
        return await self._call(lambda: self._label(collection.name).holders(members))

    async def query(self, cypher: str) -> tuple[list[str], list[list[Any]]]:
        """Rows of a Cypher query, as the writer sees them."""
        return [], await self._call(lambda: self._db.run(cypher))

    def journal(self) -> Journal:
        return _Journal(self)

    async def load_journal(self) -> dict[str, Any]:
        return await self._call(lambda: self._db.named(f"journal:{self._owner}:"))

    async def save_journal(self, key: str, value: Any) -> None:
        """Durable when it returns; what is open is committed with it, or, within a transaction's parts, waits for no one."""
        await self._call(self._save_journal, key, value)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._guarded, function, *args)

    def _guarded(self, function: Callable[..., T], *args: Any) -> T:
        """On an error the open transaction is rolled back, with all that it holds."""
        try:
            return function(*args)
        except BaseException:
            if self._database is not None:
                self._database.rollback()
            self._reached, self._whole = None, True
            raise

    @property
    def _db(self) -> Database:
        if self._database is None:
            raise SinkUnavailable("the graph is not open")
        return self._database

    def _open(self) -> None:
        config = self._config
        self._database = Database(config.path, config.memory, config.threads)
        self._held = checkpoint_of(self._db.get(f"checkpoint:{self._owner}"))
        for name, value in self._db.named("built:").items():
            self._know(
                Collection(
                    name, value["kind"], tuple(map(tuple, value["fields"])), "", ends=_pair(value["ends"])
                )
            )
            self._generations[name] = value["generation"]

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _know(self, collection: Collection) -> Vertices | Edges:
        kind = Edges if collection.kind == "edge" else Vertices
        made = self._labels[collection.name] = kind(self._db, collection)
        return made

    def _label(self, name: str) -> Vertices | Edges:
        return self._labels[name]

    def _begin(self, collection: Collection) -> None:
        self._db.begin()
        name = collection.name
        before = self._labels.get(name)
        label = self._know(collection)
        if isinstance(label, Edges):
            label.make(before.made.ends if before is not None else None)
        else:
            label.make()
        self._generations[name] = self._generations.get(name, 0) + 1
        self._making.add(name)

    def _finish(self, collection: Collection) -> None:
        name = collection.name
        if name not in self._making:
            return
        self._making.discard(name)
        self._db.begin()
        label, generation = self._label(name), self._generations[name]
        label.delete(label.others(generation))
        value = {"fingerprint": collection.fingerprint, "kind": collection.kind, "generation": generation}
        self._db.put(f"built:{name}", {**value, "fields": collection.fields, "ends": collection.ends})
        self._commit()

    def _drop(self, name: str) -> None:
        """Vertices that edges still need stay as ghosts; their label with them."""
        self._db.begin()
        label = self._labels.pop(name)
        label.delete(label.others(-1))
        if isinstance(label, Edges):
            label.drop()
        self._db.put(f"built:{name}", None)
        self._commit()

    def _write(self, derived: Derived) -> None:
        self._db.begin()
        self._whole = derived.done
        for name in derived.empty:
            label = self._label(name)
            label.delete(label.others(-1))
        gone: dict[str, list[str]] = {}
        for collection, id_ in derived.deletes:
            gone.setdefault(collection, []).append(id_)
        for name, ids in gone.items():
            self._label(name).delete(ids)
        puts: dict[str, dict[str, Put]] = {}
        for put in derived.puts:
            puts.setdefault(put.collection, {})[put.id] = put
        for name, items in puts.items():
            self._label(name).put(list(items.values()), derived.version, self._generations[name])
        self._reached = derived.checkpoint or self._reached

    def _commit(self) -> None:
        if not self._whole:
            return
        if self._reached is not None and self._reached != self._held:
            self._db.begin()
            name = f"checkpoint:{self._owner}"
            if checkpoint_of(self._db.get(name)) != self._held:
                raise Fenced(
                    f"{self._config.path}: somebody else wrote this pipeline's checkpoint",
                    hint="two pipelines of the same name write into one file; stop one, or give it another name",
                )
            self._db.put(name, checkpoint_json(self._reached))
        self._db.commit()
        self._held = self._reached or self._held

    def _save_journal(self, key: str, value: Any) -> None:
        self._db.put(f"journal:{self._owner}:{key}", value)
        self._commit()


class _Journal:
    """The pipeline's journal, in the same file."""

    def __init__(self, store: GraphStore) -> None:
        self._store = store

    async def load(self) -> dict[str, Any]:
        return await self._store.load_journal()

    async def save(self, key: str, value: Any) -> None:
        await self._store.save_journal(key, value)


def _pair(ends: Sequence[str] | None) -> tuple[str, str] | None:
    return None if ends is None else (ends[0], ends[1])
