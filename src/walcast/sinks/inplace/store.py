"""A store with transactions: what a batch becomes, and the checkpoint after it, in one of them.

A collection is made anew in place: what the new generation brings is marked, and `finish` sweeps away the rest, so that
readers find the old until the new is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, Generic, Protocol, Self, TypeVar

from walcast.model import (
    Checkpoint,
    Durability,
    Fenced,
    Journal,
    OperatorError,
    SinkContext,
    SinkUnavailable,
)
from walcast.model.derived import (
    Collection,
    Derived,
    ItemsRefused,
    Kind,
    Put,
    PutColumns,
    Told,
    Unfit,
    check_puts,
)
from walcast.model.token import token_at
from walcast.sinks.closing import closed
from walcast.sinks.inplace.values import stored

T = TypeVar("T")
_INTEGERS: Final = 1 << 63
_PAGE: Final = 5000


class Database(Protocol):
    """An open store: one connection, its transaction, and a small map of JSON values by name. Its calls block."""

    @property
    def full(self) -> bool:
        """Whether the open transaction is to be committed when it can be."""
        ...

    def begin(self) -> None:
        """Joins the open transaction, or starts one."""
        ...

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...
    def run(self, query: str, **parameters: Any) -> list[list[Any]]:
        """All rows of one query."""
        ...

    def read(self, query: str, parameters: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
        """Names and rows of somebody else's query of what is committed, beside the open transaction, which it does not
        disturb. It cannot write."""
        ...

    def get(self, name: str) -> Any:
        """None when it is not there."""
        ...

    def put(self, name: str, value: Any) -> None:
        """In the open transaction. None deletes."""
        ...

    def named(self, prefix: str) -> dict[str, Any]:
        """The values whose names begin so, by the rest of their names."""
        ...


class Label(Protocol):
    """What is put into one collection, and taken out. Everything runs in the open transaction."""

    made: Collection

    def make(self, before: Collection | None) -> None:
        """Makes the graph able to hold it. `before`: as it was made the last time."""
        ...

    def settle(self) -> None:
        """All of it is of the new generation: what only the one before needed goes."""
        ...

    def drop(self) -> None:
        """After everything was deleted."""
        ...

    def put(self, puts: Sequence[Put], version: int, generation: int, fresh: bool) -> None:
        """No id is in it twice. `generation`: 0 while none is being made; then there is nothing to mark. `fresh`: none of
        them is there."""
        ...

    def delete(self, keys: Sequence[str]) -> None: ...
    def others(self, generation: int) -> list[str]:
        """The keys of what is not of this generation."""
        ...

    def holders(self, members: Sequence[str]) -> list[tuple[str, str]]: ...
    def ids(self, after: str | None, limit: int) -> list[str]:
        """The next keys, in order."""
        ...

    def held(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        """Of each an edge's ends (else two nulls) and the fields."""
        ...


D = TypeVar("D", bound=Database)


class InPlaceStore(Generic[D]):
    """Implements `walcast.model.derived.DerivedStore` and `KeepsJournal`. The database's calls block: they run in a thread.

    Subclasses open the database and make labels. An error rolls the open transaction back, with all that it holds.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"vertex", "edge"})
    keeps_checkpoint = True
    longest_key: ClassVar[int]
    """Bytes of a key."""

    def __init__(self, context: SinkContext, where: str) -> None:
        self._owner = f"{context.pipeline}/{context.sink}"
        self._at = f"checkpoint:{self._owner}"
        self._where = where
        self._source = context.source
        self._worker = ThreadPoolExecutor(1, "walcast-graph")
        self._database: D | None = None
        self._labels: dict[str, Label] = {}
        self._generations: dict[str, int] = {}
        self._making: set[str] = set()
        self._held: Checkpoint | None = None
        self._reached: Checkpoint | None = None
        self._whole = True

    def connect(self) -> D:
        raise NotImplementedError

    def label(self, database: D, collection: Collection) -> Label:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self._call(self._open)
        except BaseException:
            # Called off while it was opening, it opens all the same: that is closed, too.
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await closed(self._worker, self._close)

    async def checkpoint(self) -> Checkpoint | None:
        return self._held

    async def built(self) -> Mapping[str, str]:
        found = await self._call(self._built)
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
        return await self._call(lambda: self._labels[collection.name].holders(members))

    async def ids(self, collection: Collection, after: str | None) -> Sequence[str]:
        return await self._call(lambda: self._labels[collection.name].ids(after, _PAGE))

    async def held(self, collection: Collection, ids: Sequence[str]) -> Mapping[str, Any]:
        return await self._call(lambda: self._labels[collection.name].held(ids))

    def form(self, collection: Collection, put: Put) -> Any:
        fields = [stored(kind, put.body.get(field)) for field, kind in collection.fields]
        return [*(put.ends or (None, None)), *fields]

    async def query(
        self, cypher: str, parameters: Mapping[str, Any] | None = None
    ) -> tuple[list[str], list[list[Any]]]:
        """Names and rows of a Cypher query of what is committed. It cannot write, and an error in it is the asker's alone."""
        loop, ask = asyncio.get_running_loop(), self._db.read
        return await loop.run_in_executor(self._worker, ask, cypher, dict(parameters or {}))

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
        except ItemsRefused:
            raise
        except BaseException:
            if self._database is not None:
                self._database.rollback()
            self._reached, self._whole = None, True
            raise

    @property
    def _db(self) -> D:
        if self._database is None:
            raise SinkUnavailable("the graph is not open")
        return self._database

    def _open(self) -> None:
        self._database = self.connect()
        self._held = self._stored()
        for name, value in self._built().items():
            fields = tuple((field, kind) for field, kind in value["fields"])
            ends = None if value["ends"] is None else (value["ends"][0], value["ends"][1])
            told = None if value.get("told") is None else Told(*value["told"])
            known = Collection(
                name, value["kind"], fields, value["fingerprint"], value["tracked"], ends, told
            )
            self._labels[name] = self.label(self._db, known)
        self._generations = self._db.named(f"generation:{self._owner}:")

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _built(self) -> dict[str, Any]:
        return self._db.named(f"built:{self._owner}:")

    def _begin(self, collection: Collection) -> None:
        name = collection.name
        self._check_free(name)
        before = self._labels.get(name)
        label = self._labels[name] = self.label(self._db, collection)
        self._db.begin()
        label.make(before.made if before is not None else None)
        self._generations[name] = self._generations.get(name, 0) + 1
        # Kept with the first of its rows: after a crash those of an unfinished generation are not taken for the next one's.
        self._db.put(f"generation:{self._owner}:{name}", self._generations[name])
        self._making.add(name)

    def _check_free(self, name: str) -> None:
        """A label is one sink's."""
        for known in self._db.named("built:"):
            owner, _, other = known.rpartition(":")
            if other == name and owner != self._owner:
                raise OperatorError(
                    f"{self._where}: {name} belongs to {owner}",
                    hint="give this sink a graph of its own, or other targets",
                )

    def _finish(self, collection: Collection) -> None:
        name = collection.name
        if name not in self._making:
            return
        self._making.discard(name)
        self._db.begin()
        self._check_alone()  # what is not of our generation may be of another writer's
        label, generation = self._labels[name], self._generations[name]
        label.delete(label.others(generation))
        label.settle()
        value = {
            "fingerprint": collection.fingerprint,
            "kind": collection.kind,
            "fields": collection.fields,
            "tracked": collection.tracked,
            "ends": collection.ends,
            "told": collection.told,
        }
        self._db.put(f"built:{self._owner}:{name}", value)
        self._commit()

    def _drop(self, name: str) -> None:
        """Vertices that edges still need stay as ghosts; their label with them."""
        self._db.begin()
        label = self._labels.pop(name)
        label.delete(label.others(-1))
        label.drop()
        self._db.put(f"built:{self._owner}:{name}", None)
        self._commit()

    def _write(self, derived: Derived) -> None:
        if not self._fits(derived.puts):
            check_puts(derived.puts, self._unfit)
        self._db.begin()
        self._whole = derived.done
        for name in derived.empty:
            label = self._labels[name]
            label.delete(label.others(-1))
        gone: dict[str, list[str]] = {}
        for collection, id_ in derived.deletes:
            gone.setdefault(collection, []).append(id_)
        for name, ids in gone.items():
            self._labels[name].delete(sorted(ids))
        for name, puts in _by_collection(derived.puts):
            # What was there before a collection is made anew may have had other ids.
            making = name in self._making
            fresh = isinstance(puts, PutColumns) and puts.fresh and not making
            self._labels[name].put(puts, derived.version, self._generations[name] if making else 0, fresh)
        self._reached = derived.checkpoint or self._reached
        if self._db.full:
            self._commit()

    def _fits(self, puts: Sequence[Put]) -> bool:
        """Whether it can be told of whole columns that all of them do."""
        if not isinstance(puts, PutColumns) or not len(puts):
            return not len(puts)
        if 4 * max(max(map(len, ids)) for ids in (puts.ids, *(puts.ends or ()))) > self.longest_key:
            return False
        integers = [field for field, kind in self._labels[puts.collection].made.fields if kind == "integer"]
        known = [value for field in integers for value in puts.fields.get(field, ()) if value is not None]
        return not known or -_INTEGERS <= min(known) <= max(known) < _INTEGERS

    def _unfit(self, put: Put) -> Unfit | None:
        if max(len(key.encode()) for key in (put.id, *(put.ends or ()))) > self.longest_key:
            return "KeyTooLong", f"an id of more than {self.longest_key} bytes"
        for field, kind in self._labels[put.collection].made.fields:
            value = put.body.get(field)
            if kind == "integer" and value is not None and not -_INTEGERS <= value < _INTEGERS:
                return "IntegerTooLarge", f"an integer of more than 64 bits in {field}"
        return None

    def _commit(self) -> None:
        if not self._whole:
            return
        if self._reached is not None and self._reached != self._held:
            self._db.begin()
            self._check_alone()
            self._db.put(self._at, self._reached.numbers)
            self._db.put(f"token:{self._owner}", token_at(self._source, self._reached))
        self._db.commit()
        self._held = self._reached or self._held

    def _stored(self) -> Checkpoint | None:
        numbers = self._db.get(self._at)
        return None if numbers is None else Checkpoint.of(numbers)

    def _check_alone(self) -> None:
        """Raises Fenced when the checkpoint is not the one that we know: then this transaction is nothing."""
        if self._stored() != self._held:
            raise Fenced(
                f"{self._where}: somebody else wrote this pipeline's checkpoint",
                hint="two pipelines of the same name write into one graph; stop one, or give it another name",
            )

    def _save_journal(self, key: str, value: Any) -> None:
        self._db.put(f"journal:{self._owner}:{key}", value)
        self._commit()


class _Journal:
    """The pipeline's journal, in the same graph."""

    def __init__(self, store: InPlaceStore[Any]) -> None:
        self._store = store

    async def load(self) -> dict[str, Any]:
        return await self._store.load_journal()

    async def save(self, key: str, value: Any) -> None:
        await self._store.save_journal(key, value)


def _by_collection(puts: Sequence[Put]) -> Iterator[tuple[str, Sequence[Put]]]:
    """Each id once, the last of them, in order: whoever else writes these takes locks in the same order."""
    if isinstance(puts, PutColumns):
        if len(puts):
            yield puts.collection, puts
        return
    found: dict[str, dict[str, Put]] = {}
    for put in puts:
        found.setdefault(put.collection, {})[put.id] = put
    for name, items in found.items():
        yield name, [items[id_] for id_ in sorted(items)]
