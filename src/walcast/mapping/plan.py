"""A compiled mapping: for each target a tree of nodes, and for each table the nodes that read it.

A node is a table at one place of the tree; the root's rows become documents. A join table is a node of its own between
parent and child, so that every link is the same: columns of the parent equal columns of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from walcast.mapping.values import id_of, plain, text
from walcast.model import Relation, TableId
from walcast.model.derived import Collection, Key, Kind, Row


@dataclass(frozen=True, slots=True)
class Emit:
    """A field of the result, made of columns of one row. `make` is None for a column as it is."""

    name: str
    columns: tuple[str, ...]
    make: Callable[..., Any] | None

    def of(self, row: Row) -> Any:
        if self.make is None:
            return plain(row[self.columns[0]])
        return plain(self.make(*[row[column] for column in self.columns]))

    def of_all(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[Any]:
        """The same of many rows, from their columns."""
        if self.make is None:
            column = columns[self.columns[0]]
            whole = set(map(type, column)) <= {int, bool, type(None)}
            return list(column) if whole else [plain(value) for value in column]
        if not self.columns:
            return [plain(self.make()) for _ in range(rows)]
        return [plain(made) for made in map(self.make, *(columns[name] for name in self.columns))]


@dataclass(eq=False)
class Node:
    """A table at one place of a target's tree.

    `link`: pairs of (the parent's column, this table's column) that are equal; empty for the root. `name` is the field in
    the parent; a join table's node has none, and its one child's rows stand for its own. `tracked`: what a row was linked
    to before a change cannot be told from the change alone, so the store is asked which documents hold the row.
    """

    number: int
    table: TableId
    key: tuple[str, ...]
    emits: tuple[Emit, ...]
    name: str = ""
    many: bool = True
    link: tuple[tuple[str, str], ...] = ()
    order: tuple[str, ...] = ()
    deleted: str | None = None
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    tracked: bool = False
    columns: tuple[str, ...] = ()
    """All that is read of a row."""

    @property
    def join(self) -> bool:
        return self.parent is not None and not self.name

    @cached_property
    def ours(self) -> tuple[str, ...]:
        return tuple(ours for _, ours in self.link)

    @cached_property
    def theirs(self) -> tuple[str, ...]:
        return tuple(theirs for theirs, _ in self.link)

    @cached_property
    def sorted_by(self) -> tuple[str, ...]:
        """What its rows are ordered by, within one parent."""
        return tuple(dict.fromkeys((*self.order, *self.key)))

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def gone(self, row: Row) -> bool:
        """Softly deleted."""
        return self.deleted is not None and row[self.deleted] not in (None, False)


@dataclass(eq=False)
class Target:
    """What one declaration compiles to. `collections` has more than one where rows are routed by a column's value.

    Not to be changed once it is compiled: what follows from it is worked out once.
    """

    name: str
    kind: Kind
    root: Node
    id: tuple[str, ...]
    tenant: str | None
    collections: dict[str, Collection]
    route: Callable[[Row], str | None] | None = None
    """The collection that a row goes to, None for none; without it there is but one."""
    ends: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    @cached_property
    def nodes(self) -> Sequence[Node]:
        """Parents before their children."""
        return list(self.root.walk())

    @cached_property
    def tracked(self) -> bool:
        return any(node.tracked for node in self.nodes)

    @cached_property
    def straight(self) -> tuple[tuple[str, str], ...] | None:
        """(field, column) of documents that are columns of one row as they are, all in one collection; None for others."""
        root = self.root
        if self.kind != "document" or not self.flat or self.tracked or self.route is not None or root.deleted:
            return None
        if any(emit.make is not None for emit in root.emits):
            return None
        return tuple((emit.name, emit.columns[0]) for emit in root.emits)

    @property
    def flat(self) -> bool:
        """Made from one row alone: a change that carries the whole row need not be read again."""
        return not self.root.children

    @cached_property
    def id_columns(self) -> tuple[str, ...]:
        return (*((self.tenant,) if self.tenant else ()), *self.id)

    def id_from(self, row: Row) -> str:
        """The id, from a row that has its columns."""
        columns = self.id_columns
        if len(columns) == 1 and (value := row[columns[0]]) is not None:
            return text(value)
        return id_of([row[column] for column in columns])

    def id_of_key(self, key: Key) -> str:
        """The id, from a row's key: see `named_by_key`."""
        return self.id_from(dict(zip(self.root.key, key, strict=True)))

    @cached_property
    def named_by_key(self) -> bool:
        """Whether the key of a row is enough to tell its id."""
        return set(self.id_columns) <= set(self.root.key)


@dataclass(frozen=True)
class Plan:
    """A compiled mapping. `places`: table -> where it is read. `relations`: the tables as they were when compiled."""

    targets: tuple[Target, ...]
    relations: Mapping[TableId, Relation]

    @cached_property
    def places(self) -> dict[TableId, list[tuple[Target, Node]]]:
        found: dict[TableId, list[tuple[Target, Node]]] = {}
        for target in self.targets:
            for node in target.nodes:
                found.setdefault(node.table, []).append((target, node))
        return found

    @property
    def collections(self) -> dict[str, Collection]:
        return {name: made for target in self.targets for name, made in target.collections.items()}
