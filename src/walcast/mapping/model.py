"""What a mapping declares: tables become documents, vertices and edges. Frozen values, the same from TOML and from Python.

DataMapping(
    documents={"posts": Document(
        table="public.post",
        fields={"title": "title", "teaser": Field(call=teaser, columns=("body",))},
        nested={
            "author": Nested("public.users", on={"id": "author_id"}, many=False, fields={"name": "username"}),
            "comments": Nested("public.comment", on={"post_id": "id"}),
            "tags": Nested("public.tag", through=Through("public.post_tag", ours={"post_id": "id"}, theirs={"tag_id": "id"})),
        },
    )},
    vertices={"User": Vertex("public.users", fields={"name": "username"})},
    edges={"FOLLOWS": Edge("public.follows", source=End("User", ("follower_id",)), target=End("User", ("followee_id",)))},
)
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Convert = Literal["text", "integer", "float", "boolean"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field: a `column`, perhaps converted; a `template` such as "{first} {last}"; a constant `value`; or what `call`
    (a function, or "package.module:function") makes of `columns`, given by name. A call must always give the same."""

    column: str | None = None
    convert: Convert | None = None
    template: str | None = None
    value: Any = None
    call: Callable[..., Any] | str | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [self.column, self.template, self.value, self.call]
        if sum(item is not None for item in given) != 1:
            raise ValueError("a field is one of: column, template, value, call")
        if self.convert is not None and self.column is None:
            raise ValueError("convert goes with column")
        if bool(self.columns) != (self.call is not None):
            raise ValueError("columns go with call: they are its arguments")
        if self.template is not None:
            self.inputs()

    def inputs(self) -> tuple[str, ...]:
        """The columns that it is made from. Raises ValueError for a template that cannot be read."""
        if self.column is not None:
            return (self.column,)
        if self.template is None:
            return self.columns
        names = [name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None]
        if any(not name or set(name) & set(".[") for name in names):
            raise ValueError('a template names columns: "{first} {last}"')
        return tuple(dict.fromkeys(names))


Fields = Mapping[str, "str | Field"]
"""Field name -> column, or Field."""


@dataclass(frozen=True, slots=True)
class Through:
    """A join table between parent and child. `ours`: its column -> the parent's; `theirs`: its column -> the child's.
    `fields` of its own are merged into the child's."""

    table: str
    ours: Mapping[str, str]
    theirs: Mapping[str, str]
    fields: Fields | None = None


@dataclass(frozen=True, slots=True)
class Nested:
    """Rows of another table inside the document: an array, or with `many=False` an object or null.

    `on`: its column -> the parent's. `order`: columns that sort the array; by default its key. Without `fields` it has
    all columns.
    """

    table: str
    on: Mapping[str, str] = field(default_factory=dict)
    through: Through | None = None
    many: bool = True
    fields: Fields | None = None
    nested: Mapping[str, Nested] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    deleted: str | None = None

    def __post_init__(self) -> None:
        if bool(self.on) == (self.through is not None):
            raise ValueError("say how its rows are found: on = { their_column = our_column }, or through")


@dataclass(frozen=True, slots=True)
class Route:
    """Which collection a document goes to, by a column's value. `otherwise`: for every other value; None: nowhere."""

    column: str
    into: Mapping[str, str]
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A row becomes a document. `id`: columns that name it, by default the row's key. `tenant`: a column whose value is put
    before the id. `deleted`: a column that, when it is set (not null, not false), means that the row is gone."""

    table: str
    id: tuple[str, ...] = ()
    fields: Fields | None = None
    nested: Mapping[str, Nested] = field(default_factory=dict)
    route: Route | None = None
    tenant: str | None = None
    deleted: str | None = None


@dataclass(frozen=True, slots=True)
class Vertex:
    """A row becomes a vertex. See Document."""

    table: str
    id: tuple[str, ...] = ()
    fields: Fields | None = None
    tenant: str | None = None
    deleted: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """One end of an edge: a vertex, and the columns that hold its id."""

    vertex: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """A row, often of a join table, becomes an edge with properties. Without `fields` it has none. `source` and `target` say
    where it leads from and to; a null there means no edge."""

    table: str
    source: End
    target: End
    id: tuple[str, ...] = ()
    fields: Fields = field(default_factory=dict)
    tenant: str | None = None
    deleted: str | None = None


@dataclass(frozen=True, slots=True)
class DataMapping:
    """What tables become. `declared` takes the rest from Python: "package.module:name" of a DataMapping."""

    documents: Mapping[str, Document] = field(default_factory=dict)
    vertices: Mapping[str, Vertex] = field(default_factory=dict)
    edges: Mapping[str, Edge] = field(default_factory=dict)
    declared: str | None = None

    def __bool__(self) -> bool:
        return bool(self.documents or self.vertices or self.edges)
