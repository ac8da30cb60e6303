"""Documents in tantivy indexes, one a collection.

First every index is committed, then the position, so a crash between the two lets batches come again; whole documents make
that harmless. A collection is made anew in a folder of its own, and `finish` lets the state file name it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self, TypeVar

from walcast.model import (
    Checkpoint,
    Durability,
    Finding,
    OperatorError,
    SinkContext,
    WalcastError,
    finding_of,
)
from walcast.model.derived import Collection, Derived, Kind, Put, Unfit, check_puts
from walcast.model.token import token_at
from walcast.sinks.closing import closed
from walcast.sinks.search import state as kept
from walcast.sinks.search.config import SearchConfig
from walcast.sinks.search.index import LONGEST, Writing, readable, there
from walcast.sinks.search.state import Serving, State

log = logging.getLogger("walcast.sinks")
T = TypeVar("T")


class SearchStore:
    """Implements `walcast.model.derived.DerivedStore`. Tantivy's calls block: they run in a thread."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"document"})
    keeps_checkpoint = True

    def __init__(self, config: SearchConfig, context: SinkContext) -> None:
        self._config = config
        self._state = State(f"{context.pipeline}/{context.sink}")
        self._source = context.source
        self._worker = ThreadPoolExecutor(1, "walcast-search")
        self._serving: dict[str, Writing] = {}
        self._making: dict[str, Writing] = {}
        self._reached: Checkpoint | None = None
        self._whole = True

    async def __aenter__(self) -> Self:
        try:
            await self._call(self._open)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await closed(self._worker, self._close)

    async def checkpoint(self) -> Checkpoint | None:
        return self._state.checkpoint

    async def built(self) -> Mapping[str, str]:
        return {name: item.fingerprint for name, item in self._state.collections.items()}

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
        await self._call(self._flush)

    async def holders(self, collection: Collection, members: Sequence[str]) -> Sequence[tuple[str, str]]:
        return await self._call(lambda: self._of(collection.name).holders(members))

    async def ids(self, collection: Collection, after: str | None) -> Sequence[str]:
        """All of them at once."""
        return [] if after is not None else await self._call(lambda: self._of(collection.name).ids())

    async def held(self, collection: Collection, ids: Sequence[str]) -> Mapping[str, Any]:
        return await self._call(lambda: self._of(collection.name).bodies(ids))

    def form(self, collection: Collection, put: Put) -> Any:
        return put.body

    async def examine(self) -> Sequence[Finding]:
        """Whether what is there can be read, and is this sink's."""
        try:
            await asyncio.to_thread(self._examine)
        except WalcastError as error:
            return [finding_of(error, "target")]
        return []

    def _examine(self) -> None:
        found = kept.load(self._config.path)
        if found is not None:
            self._check_owner(found)
            for item in found.collections.values():
                readable(self._config.path / item.folder, item.fields, self._config.tokenizer)

    def _check_owner(self, found: State) -> None:
        if found.owner != self._state.owner:
            raise OperatorError(
                f"{self._config.path} belongs to {found.owner}", hint="give this sink a folder of its own"
            )

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)

    def _open(self) -> None:
        root = self._config.path
        found = kept.load(root)
        if found is not None:
            self._check_owner(found)
        else:
            root.mkdir(parents=True, exist_ok=True)
            kept.save(root, self._state)
        if found is not None:
            self._state = found
        wanted = {item.folder for item in self._state.collections.values()}
        for folder in root.iterdir():  # what a crash left half made
            if folder.is_dir() and folder.name not in wanted:
                shutil.rmtree(folder)
        for name, item in self._state.collections.items():
            if not there(root / item.folder):
                log.warning("index_gone", extra={"collection": name, "folder": item.folder})
                item.fingerprint = ""  # it has to be made anew
            self._serving[name] = self._writing(item.folder, item.fields)

    def _close(self) -> None:
        for index in (*self._serving.values(), *self._making.values()):
            index.close()
        self._serving.clear()
        self._making.clear()

    def _writing(self, folder: str, fields: Sequence[tuple[str, str]]) -> Writing:
        return Writing(self._config.path / folder, fields, self._config.tokenizer, self._config.memory)

    def _of(self, name: str) -> Writing:
        return self._making.get(name) or self._serving[name]

    def _begin(self, collection: Collection) -> None:
        unfinished = self._making.pop(collection.name, None)
        if unfinished is not None:
            unfinished.close()
            shutil.rmtree(unfinished.folder)
        self._state.folders += 1
        self._making[collection.name] = self._writing(f"index{self._state.folders}", collection.fields)

    def _finish(self, collection: Collection) -> None:
        new = self._making.pop(collection.name, None)
        if new is None:
            return
        new.commit()
        old = self._serving.get(collection.name)
        self._serving[collection.name] = new
        fields = [(name, str(kind)) for name, kind in collection.fields]
        self._state.collections[collection.name] = Serving(new.folder.name, collection.fingerprint, fields)
        kept.save(self._config.path, self._state)
        if old is not None:
            old.close()
            shutil.rmtree(old.folder)

    def _drop(self, name: str) -> None:
        self._state.collections.pop(name)
        kept.save(self._config.path, self._state)
        old = self._serving.pop(name)
        old.close()
        shutil.rmtree(old.folder)

    def _write(self, derived: Derived) -> None:
        check_puts(derived.puts, _unfit)
        self._whole = derived.done
        for name in derived.empty:
            self._of(name).empty()
        for name, id_ in derived.deletes:
            if len(id_.encode()) <= LONGEST:  # else it is not there
                self._of(name).delete(id_)
        for put in derived.puts:
            self._of(put.collection).put(put, derived.version)
        self._reached = derived.checkpoint or self._reached

    def _flush(self) -> None:
        if not self._whole:
            return
        for index in (*self._serving.values(), *self._making.values()):
            index.commit()
        if self._reached is not None and self._reached != self._state.checkpoint:
            self._state.checkpoint = self._reached
            self._state.token = token_at(self._source, self._reached)
            kept.save(self._config.path, self._state)


def _unfit(put: Put) -> Unfit | None:
    if max(len(term.encode()) for term in (put.id, *put.members)) > LONGEST:
        return "KeyTooLong", f"an id of more than {LONGEST} bytes"
    return None
