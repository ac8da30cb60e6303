"""Derived copies: documents, vertices and edges, the stores that hold them, and how the source is read again for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Group
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, overload, runtime_checkable

from walcast.model.batch import Durability
from walcast.model.deadletter import LIMIT, RowPolicies, RowPolicy
from walcast.model.errors import OperatorError
from walcast.model.lsn import Checkpoint, Lsn
from walcast.model.relation import Relation, TableId

Kind = Literal["document", "vertex", "edge"]
FieldKind = Literal["boolean", "integer", "float", "text", "json"]
"""What a store may index a field as. `json` is anything: a list, an object, or whatever a computed field gives."""

Key = tuple[str, ...]
"""The values of a row's key (or of other columns that are compared) as canonical text."""
Row = dict[str, Any]
"""Column names to Python values, as `Change.new` has them."""

_LSN_BITS = 48


def version_of(epoch: int, lsn: Lsn | int) -> int:
    """A version that rises with every history and, within one, with every commit: 15 bits epoch, 48 bits LSN. It fits a
    signed 64-bit integer; 48 bits are 256 TiB of WAL. Raises ValueError beyond."""
    if not 0 <= epoch < 1 << 15 or not 0 <= lsn < 1 << _LSN_BITS:
        raise ValueError(f"epoch {epoch} and LSN {Lsn(lsn)} do not fit a version")
    return (epoch << _LSN_BITS) | int(lsn)


class Told(NamedTuple):
    """How an edge's id, of so many parts, tells its ends: the places of the parts that each end's id is made of."""

    parts: int
    source: tuple[int, ...]
    target: tuple[int, ...]

    def ends(self, id_: str) -> tuple[str, str]:
        """The two ends' ids. Raises ValueError for what is no such id."""
        parts = id_.split(":") if self.parts > 1 else [id_]
        if len(parts) != self.parts:
            raise ValueError("an id of other parts")
        return self._end(parts, self.source), self._end(parts, self.target)

    @property
    def both_ways(self) -> bool:
        """Whether the ends tell the id as well: no two edges between the same vertices."""
        return {*self.source, *self.target} == set(range(self.parts))

    def id_of(self, source: str, target: str) -> str:
        """The id that has these ends, where they tell it."""
        parts = [""] * self.parts
        for places, end in ((self.source, source), (self.target, target)):
            of = end.split(":") if len(places) > 1 else [escaped(end)]
            for place, part in zip(places, of, strict=True):
                parts[place] = part
        return ":".join(parts)

    def _end(self, parts: Sequence[str], places: Sequence[int]) -> str:
        if len(places) > 1:
            return ":".join(parts[place] if self.parts > 1 else escaped(parts[place]) for place in places)
        part = parts[places[0]]
        return unescaped(part) if self.parts > 1 else part


def escaped(part: str) -> str:
    """A part of an id of several, which colons join."""
    return part.replace("%", "%25").replace(":", "%3A")


def unescaped(part: str) -> str:
    return part.replace("%3A", ":").replace("%25", "%")


@dataclass(frozen=True, slots=True)
class Collection:
    """What a store makes for one target of a mapping: an index, a table, a vertex or edge label.

    `fingerprint` changes when the mapping does. `tracked`: the store is asked for `holders`. `ends` are the labels that
    an edge leads from and to; `told`, where an edge's id alone tells which two vertices.
    """

    name: str
    kind: Kind
    fields: tuple[tuple[str, FieldKind], ...]
    fingerprint: str
    tracked: bool = False
    ends: tuple[str, str] | None = None
    told: Told | None = None


class Put(NamedTuple):
    """A whole document, vertex or edge. `body` is plain JSON data. `members` name the rows that it was made from, as far as
    the store is to be asked for them, its root row first; none where the collection is not tracked. `ends` are the ids of
    an edge's two vertices."""

    collection: str
    id: str
    body: dict[str, Any]
    members: tuple[str, ...] = ()
    ends: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """Documents of one collection that are JSON already, with their ids: see `TakesJson`."""

    collection: str
    ids: Sequence[str]
    bodies: Sequence[bytes]


class PutColumns(Sequence[Put]):
    """Puts of one collection, column by column: for stores that take columns, and for the others what it says it is. No id
    is in it twice, and none is tracked. `fresh`: a store that holds each position's writes once has none of these ids,
    unless it is making the collection anew."""

    __slots__ = ("collection", "ends", "fields", "fresh", "ids")

    def __init__(
        self,
        collection: str,
        ids: Sequence[str],
        fields: Mapping[str, Sequence[Any]],
        ends: tuple[Sequence[str], Sequence[str]] | None = None,
        fresh: bool = False,
    ) -> None:
        self.collection = collection
        self.ids = ids
        self.fields = fields
        self.ends = ends
        self.fresh = fresh

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Put: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Put]: ...
    def __getitem__(self, place: int | slice) -> Put | Sequence[Put]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        body = {name: values[place] for name, values in self.fields.items()}
        ends = None if self.ends is None else (self.ends[0][place], self.ends[1][place])
        return Put(self.collection, self.ids[place], body, (), ends)


class Delete(NamedTuple):
    """What may be there and must not be."""

    collection: str
    id: str


@dataclass(frozen=True, slots=True)
class Derived:
    """What a batch becomes, or a slice of it: first `empty` these collections, then deletes, then puts; an id is in one of
    the two only.

    `version` never falls from one batch to the next, and what was read is never older than it says. Until `done` more of
    the same transaction follows, and nothing of it may become durable. `checkpoint` is None but for the last slice.
    """

    version: int
    puts: Sequence[Put] = ()
    deletes: Sequence[Delete] = ()
    empty: Sequence[str] = ()
    checkpoint: Checkpoint | None = None
    done: bool = True
    encoded: Encoded | None = None
    """More puts, for a store that takes them so."""


class Refused(NamedTuple):
    """A document, vertex or edge that a store can never take. `code` is a constant name; `message` never holds a value."""

    collection: str
    id: str
    code: str
    message: str


class ItemsRefused(OperatorError):
    """Raised by `DerivedStore.write`. What it accepted before is as it was, and all that came with these may be written again."""

    def __init__(self, items: Iterable[Refused]) -> None:
        self.items = tuple(items)
        first = self.items[0]
        super().__init__(
            f"{first.collection}: {first.message} ({len(self.items)} refused)",
            hint="see on_refused, or change the mapping",
        )


Unfit = tuple[str, str]
"""Code and message of a `Refused`."""


def check_puts(puts: Iterable[Put], unfit: Callable[[Put], Unfit | None]) -> None:
    """Raises ItemsRefused for those of which `unfit` says why."""
    found = [(put, why) for put in puts if (why := unfit(put)) is not None]
    if found:
        raise ItemsRefused(Refused(put.collection, put.id, *why) for put, why in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSettings:
    """What the settings of all such stores have in common."""

    on_refused: RowPolicy = field(
        default="set_aside",
        metadata={
            "help": "what becomes of a change that makes something the store can never take: it is set aside as a dead letter, or "
            "skipped, or its table stops"
        },
    )
    dead_letter_limit: int = field(
        default=LIMIT, metadata={"help": "the table stops when more changes than this would be set aside"}
    )

    @property
    def policies(self) -> RowPolicies:
        return RowPolicies(data=self.on_refused, limit=self.dead_letter_limit)


class DerivedStore(Protocol):
    """A target of documents, vertices or edges; an async context manager.

    Calls come one at a time. A collection is made by `begin` and `finish`; while it is between the two, what is written to
    it goes to the new one, and readers see the one before. `begin` drops what an earlier one left unfinished; `finish`
    without it does nothing.
    """

    kinds: ClassVar[frozenset[Kind]]

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...
    @property
    def keeps_checkpoint(self) -> bool: ...
    async def checkpoint(self) -> Checkpoint | None: ...
    async def built(self) -> Mapping[str, str]:
        """The finished collections of this sink by name, with their fingerprints."""
        ...

    async def begin(self, collection: Collection) -> None: ...
    async def finish(self, collection: Collection) -> None: ...
    async def drop(self, name: str) -> None:
        """Removes a finished collection that the mapping no longer has."""
        ...

    async def write(self, derived: Derived) -> Durability:
        """Raises ItemsRefused."""
        ...

    async def flush(self) -> None: ...
    async def holders(self, collection: Collection, members: Sequence[str]) -> Sequence[tuple[str, str]]:
        """The id and the first member of all that was made from any of these rows, everything written so far considered."""
        ...


@runtime_checkable
class TakesLater(Protocol):
    """A store whose writes are still on their way when `write` returns."""

    async def taken(self, *, lagging: bool = False) -> None:
        """Returns once it has all that it was given; `lagging`: all that it was given before the last call. Raises
        ItemsRefused, in place of `write`."""
        ...


@runtime_checkable
class TakesJson(Protocol):
    """A store of documents that writes JSON: where a document is a row's columns as they are, it is given the JSON."""

    takes_json: ClassVar[Literal[True]]


@runtime_checkable
class Shows(Protocol):
    """A store that can show what it holds, for `walcast verify`. Everything written and flushed is in it."""

    async def ids(self, collection: Collection, after: str | None) -> Sequence[str]:
        """The next ids in an order of the store's own, some thousand; none after the last."""
        ...

    async def held(self, collection: Collection, ids: Sequence[str]) -> Mapping[str, Any]:
        """What it holds under these ids, in a form of its own."""
        ...

    def form(self, collection: Collection, put: Put) -> Any:
        """What `held` gives for this when it is written."""
        ...


class SourceView(Protocol):
    """The source's tables in one snapshot."""

    async def rows(
        self, table: TableId, columns: Sequence[str], by: Sequence[str], values: Group[Key]
    ) -> Sequence[Row]:
        """The rows whose columns `by` have one of these values. One query."""
        ...

    async def page(
        self, table: TableId, columns: Sequence[str], key: Sequence[str], after: Key | None, limit: int
    ) -> Sequence[Row]:
        """The next rows in the order of `key`."""
        ...


class SourceReader(Protocol):
    """Reads the source again, for what a change does not carry; an async context manager."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...
    async def relations(self, tables: Group[TableId]) -> Mapping[TableId, Relation]:
        """These tables as the catalog has them now; those that are not there are left out."""
        ...

    @property
    def shown(self) -> Lsn:
        """Where the source was when it was last seen: all that views have shown committed before. At opening it is looked at."""
        ...

    async def settle(self) -> None:
        """From now on views also wait for transactions that are in the log already but not visible yet: for a copy that
        begins at a position whose transactions nobody has named."""
        ...

    def view(self, xids: Group[int]) -> AbstractAsyncContextManager[SourceView]:
        """A snapshot in which all these transactions (32-bit ids, committed) are visible. Waits until there is one."""
        ...
