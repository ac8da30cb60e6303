"""Documents in OpenSearch and Elasticsearch: one index for each collection, behind an alias of its name.

put     bulk index, version (epoch, LSN): the cluster refuses an older one
delete  a hidden document with the version takes its place; it is removed for good when `tombstones` has passed. The
        cluster itself forgets a deleted document's version after a minute (index.gc_deletes) or a restart
flush   all answered, refreshed, then the position is saved in the cluster
begin   a new index; finish: the state names it, the alias is moved, the old one is dropped. What a crash leaves half
        done is put in order by the next opening: the state is the truth
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar, Final, Literal, Self

from walcast.model import (
    Checkpoint,
    Durability,
    Finding,
    Journal,
    OperatorError,
    SinkContext,
)
from walcast.model.derived import (
    Collection,
    Derived,
    ItemsRefused,
    Kind,
    Put,
    Refused,
    Unfit,
)
from walcast.sinks.opensearch import examination, indexes
from walcast.sinks.opensearch.bulk import Bulk, Operation, liner, too_big
from walcast.sinks.opensearch.client import Client, Rejected, dumps, explain, path_of
from walcast.sinks.opensearch.config import SearchServerConfig
from walcast.sinks.opensearch.examination import Family
from walcast.sinks.opensearch.state import Serving, State, fenced

log = logging.getLogger("walcast.sinks")

_TERMS: Final = 1000
_SPARE: Final = 2048
"""Bytes of a request beside the document."""
_LINGER: Final = 5.0
"""Seconds for which an index outlives the one that took its place."""
_SWEEP: Final = 60.0
"""Seconds between two looks for tombstones that have had their time."""


class _SearchServerStore:
    """Implements `DerivedStore`, `TakesLater`, `TakesJson` and `Shows` of `walcast.model.derived`, `KeepsJournal` and `Examinable`."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"document"})
    takes_json: ClassVar[Literal[True]] = True
    keeps_checkpoint = True
    family: ClassVar[Family]

    def __init__(self, config: SearchServerConfig, context: SinkContext) -> None:
        self._config = config
        self._context = context
        self._client = Client(config)
        self._state = State(self._client, context)
        self._bulk = Bulk(self._client, config.concurrency, config.bulk, config.timeout)
        self._making: dict[str, Serving] = {}
        self._dirty: set[str] = set()
        self._reached: Checkpoint | None = None
        self._whole = True
        self._largest: int | None = None
        self._swept = -_SWEEP
        self._outgrown: dict[str, float] = {}
        """Indexes that serve no more, and when they go."""
        self._listing: dict[str, AsyncGenerator[list[dict[str, Any]]]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._client)
            stack.push_async_callback(self._bulk.close)
            self._largest = (await examination.check(self._client, self.family)).largest
            await self._state.load()
            await self._put_in_order()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def examine(self) -> Sequence[Finding]:
        return await examination.examine(self._config, self.family, self._state.owner)

    async def checkpoint(self) -> Checkpoint | None:
        return self._state.checkpoint

    async def built(self) -> Mapping[str, str]:
        """One that is to be indexed otherwise, or that somebody deleted, has to be made anew: it has no fingerprint."""
        return {
            name: made.collection.fingerprint
            if made.stamp == indexes.stamp_of(made.collection, self._config)
            else ""
            for name, made in self._state.serving.items()
        }

    async def begin(self, collection: Collection) -> None:
        name = collection.name
        alias = indexes.alias_of(name, self._config)
        if any(field.partition(".")[0] == indexes.OWN for field, _ in collection.fields):
            raise OperatorError(
                f"{name}: a field cannot be called {indexes.OWN}", hint="give it another name in the mapping"
            )
        await self._belongs_to_nobody_else(alias)
        unfinished = self._making.pop(name, None)
        if unfinished is not None:
            await self._bulk.drain()
            await self._delete(unfinished.index)
        index = indexes.index_of(self._state.owner, name, self._state.number())
        body = {**indexes.body_of(collection, self._config), "aliases": {indexes.writing(index): {}}}
        try:
            await self._client.send("PUT", path_of(index), body)
        except Rejected as rejected:
            if rejected.kind == "resource_already_exists_exception":
                raise fenced() from None
            raise explain(rejected, f"making the index of {name}") from None
        self._making[name] = Serving(index, indexes.stamp_of(collection, self._config), collection)

    async def finish(self, collection: Collection) -> None:
        new = self._making.get(collection.name)
        if new is None:
            return
        await self._bulk.drain()
        interval = indexes.refresh_interval(self._config.settings)
        doing = f"finishing the index of {collection.name}"
        settings = {"index": {"refresh_interval": interval}}
        await self._client.ask("PUT", path_of(new.index, "_settings"), settings, doing=doing)
        await self._client.ask("POST", path_of(new.index, "_refresh"), doing=doing)
        del self._making[collection.name]
        self._dirty.discard(new.index)
        old = self._state.serving.get(collection.name)
        self._state.serving[collection.name] = new
        await self._state.save()
        await self._serve(collection.name, new.index, None if old is None else old.index)

    async def drop(self, name: str) -> None:
        old = self._state.serving.pop(name)
        await self._state.save()
        await self._delete(old.index)

    async def write(self, derived: Derived) -> Durability:
        self._whole = derived.done
        for name in derived.empty:
            await self._empty(name)
        gone = dumps({indexes.OWN: {"gone": int(time.time())}})
        for name, deletes in groupby(derived.deletes, key=itemgetter(0)):
            # One whose id does not fit was never there.
            await self._add(
                name, derived.version, [(d.id, gone) for d in deletes if not self._unfit(d.id, gone)]
            )
        for name, puts in groupby(derived.puts, key=itemgetter(0)):
            await self._add(name, derived.version, ((put.id, _body(put)) for put in puts))
        if derived.encoded is not None:
            encoded = derived.encoded
            await self._add(
                encoded.collection, derived.version, zip(encoded.ids, encoded.bodies, strict=True)
            )
        await self._bulk.push()
        self._reached = derived.checkpoint or self._reached
        return Durability.ACCEPTED

    async def taken(self, *, lagging: bool = False) -> None:
        """Raises ItemsRefused; everything else is there, and may be written once more all the same."""
        await (self._bulk.settle() if lagging else self._bulk.drain())
        refused, self._bulk.refused = self._bulk.refused, []
        if refused:
            raise ItemsRefused(refused)

    async def flush(self) -> None:
        await self.taken()
        if not self._whole:
            return
        if self._reached is not None and self._reached != self._state.checkpoint:
            if self._config.refresh:
                await self._refresh({made.index for made in self._state.serving.values()})
            self._state.checkpoint = self._reached
            await self._state.save()
        await self._clear_away()
        await self._sweep()

    async def holders(self, collection: Collection, members: Sequence[str]) -> Sequence[tuple[str, str]]:
        await self._bulk.drain()
        index = self._of(collection.name).index
        await self._refresh({index})
        found: list[tuple[str, str]] = []
        for start in range(0, len(members), _TERMS):
            some = list(members[start : start + _TERMS])
            query = {"terms": {f"{indexes.OWN}.members": some}}
            async for hits in self._client.scroll(index, query, docvalue_fields=[f"{indexes.OWN}.root"]):
                found += [(hit["_id"], hit["fields"][f"{indexes.OWN}.root"][0]) for hit in hits]
        return list(dict.fromkeys(found))

    async def ids(self, collection: Collection, after: str | None) -> Sequence[str]:
        """Those that were there when it was asked for the first ones."""
        name = collection.name
        if after is None:
            index = self._of(name).index
            await self._refresh({index})
            self._listing[name] = self._client.scroll(index, indexes.THERE)
        hits: list[dict[str, Any]] = await anext(self._listing[name], [])
        return [hit["_id"] for hit in hits]

    async def held(self, collection: Collection, ids: Sequence[str]) -> Mapping[str, Any]:
        await self.taken()
        index = self._of(collection.name).index
        await self._refresh({index})
        found: dict[str, Any] = {}
        for start in range(0, len(ids), _TERMS):
            some = list(ids[start : start + _TERMS])
            query = {"bool": {"filter": [{"ids": {"values": some}}, indexes.THERE]}}
            async for hits in self._client.scroll(index, query, _source=True):
                found |= {hit["_id"]: hit["_source"] for hit in hits}
        return found

    def form(self, collection: Collection, put: Put) -> Any:
        return put.body

    def journal(self) -> Journal:
        return _Journal(self._state)

    async def _put_in_order(self) -> None:
        """Takes away what a crash left half made, lets each alias lead where the state says, and notices what somebody
        deleted."""
        ours = indexes.family_of(self._state.owner)
        doing = "looking for this sink's indexes"
        there = await self._client.ask("GET", f"/{ours}*/_alias?expand_wildcards=all", doing=doing)
        wanted = {made.index: name for name, made in self._state.serving.items()}
        for index in there.keys() - wanted.keys():
            await self._delete(index)
        for index, name in wanted.items():
            if index not in there:
                log.warning("index_gone", extra={"collection": name, "index": index})
                self._state.serving[name].stamp = ""
            elif indexes.alias_of(name, self._config) not in there[index]["aliases"]:
                await self._belongs_to_nobody_else(indexes.alias_of(name, self._config))
                await self._serve(name, index, None)

    async def _belongs_to_nobody_else(self, alias: str) -> None:
        found = await self._client.find(
            f"{path_of(alias)}/_alias?expand_wildcards=all", doing="looking for the alias"
        )
        ours = indexes.family_of(self._state.owner)
        for index in found or ():
            if not index.startswith(ours):
                raise OperatorError(
                    f"{alias} is there already: {'an index' if index == alias else f'it leads to {index}'}",
                    hint='give this sink a prefix of its own, such as prefix = "shop-", or remove that one',
                )

    async def _serve(self, name: str, index: str, old: str | None) -> None:
        """From now on readers find this index, at once. The old one goes a little later: a search that is under way in it
        would fail."""
        alias = indexes.alias_of(name, self._config)
        actions: list[dict[str, Any]] = [{"add": {"index": index, "alias": alias, "filter": indexes.THERE}}]
        if old is not None:
            self._dirty.discard(old)
            self._outgrown[old] = asyncio.get_running_loop().time() + _LINGER
            actions.append({"remove": {"index": old, "alias": alias}})
        doing = f"moving the alias {alias}"
        try:
            await self._client.send("POST", "/_aliases", {"actions": actions})
        except Rejected as rejected:
            if old is None or rejected.status != 404:
                raise explain(rejected, doing) from None
            await self._client.ask("POST", "/_aliases", {"actions": actions[:1]}, doing=doing)

    async def _clear_away(self) -> None:
        """Those that are left when the sink is closed go when it is opened again."""
        now = asyncio.get_running_loop().time()
        for index in [index for index, due in self._outgrown.items() if due <= now]:
            await self._delete(index)
            del self._outgrown[index]

    async def _empty(self, name: str) -> None:
        """A new index takes its place: a cluster has no quicker way to take out all of it."""
        collection = self._of(name).collection
        serves = name not in self._making
        await self.begin(collection)
        if serves:
            await self.finish(collection)

    async def _delete(self, index: str) -> None:
        self._dirty.discard(index)
        try:
            await self._client.send("DELETE", path_of(index))
        except Rejected as rejected:
            if rejected.status != 404:
                raise explain(rejected, f"dropping the index {index}") from None

    async def _add(self, collection: str, version: int, items: Iterable[tuple[str, bytes | None]]) -> None:
        """Ids and documents; None for what may be forgotten."""
        index = self._of(collection).index
        alias = indexes.writing(index)
        line = liner(alias, version)
        self._dirty.add(index)
        operations: list[Operation] = []
        size = 0
        for id_, body in items:
            why = self._unfit(id_, body)
            if why is not None:
                self._bulk.refused.append(Refused(collection, id_, *why))
                continue
            operations.append(Operation(collection, alias, id_, line(id_, body)))
            size += len(operations[-1].lines)
            if size > self._config.bulk:
                await self._send(operations)
                operations, size = [], 0
        await self._send(operations)

    async def _send(self, operations: Sequence[Operation]) -> None:
        self._bulk.add(operations)
        if self._bulk.crowded:
            await self._bulk.push()

    def _unfit(self, id_: str, body: bytes | None) -> Unfit | None:
        length = len(id_) if id_.isascii() else len(id_.encode())
        if not 0 < length <= indexes.LONGEST_ID:
            return "KeyTooLong", f"an id of {length} bytes; it may have 1 to {indexes.LONGEST_ID}"
        if body is not None and self._largest is not None and len(body) + _SPARE > self._largest:
            return too_big(len(body), self._largest - _SPARE)
        return None

    def _of(self, name: str) -> Serving:
        return self._making.get(name) or self._state.serving[name]

    async def _refresh(self, names: set[str]) -> None:
        """What was written to these can be found."""
        wanted = self._dirty & names
        if wanted:
            self._dirty -= wanted
            path = f"/{','.join(sorted(wanted))}/_refresh"
            await self._client.ask("POST", path, doing="making what was written searchable")

    async def _sweep(self) -> None:
        """Removes tombstones that have had their time."""
        now = asyncio.get_running_loop().time()
        if now < self._swept + min(_SWEEP, self._config.tombstones):
            return
        self._swept = now
        await self._refresh(set(self._dirty))
        query = {"range": {f"{indexes.OWN}.gone": {"lt": int(time.time() - self._config.tombstones)}}}
        for name in (*self._state.serving, *self._making):
            async for hits in self._client.scroll(self._of(name).index, query, version=True):
                for hit in hits:
                    await self._add(name, hit["_version"], [(hit["_id"], None)])
            await self._bulk.drain()


def _body(put: Put) -> bytes:
    """The document, with the names of the rows that it was made of."""
    body = dumps(put.body)
    if not put.members:
        return body
    own = dumps({indexes.OWN: {"root": put.members[0], "members": put.members}})
    return own[:-1] + b"," + body[1:] if put.body else own


class _Journal:
    """The pipeline's journal, in a document of its own."""

    def __init__(self, state: State) -> None:
        self._record = state.journal

    async def load(self) -> dict[str, Any]:
        return dict(self._record.content)

    async def save(self, key: str, value: Any) -> None:
        if value is None:
            self._record.content.pop(key, None)
        else:
            self._record.content[key] = value
        await self._record.save()


class OpenSearchStore(_SearchServerStore):
    family = "opensearch"

    def __init__(self, config: SearchServerConfig, context: SinkContext) -> None:
        super().__init__(config, context)


class ElasticsearchStore(_SearchServerStore):
    family = "elasticsearch"

    def __init__(self, config: SearchServerConfig, context: SinkContext) -> None:
        super().__init__(config, context)
