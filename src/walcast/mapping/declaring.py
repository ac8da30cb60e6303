"""What a model says of itself: the classes of an ORM declare what their rows become, in the words of attributes and
relations. An integration says what those are in the database; `mapping_of` makes the mapping of it.

    class User(Base):
        __walcast__ = vertex("User", fields=["username"])

    @search("post", fields=["title", "body"], nested={"author": ["username"]})
    class Post(Base): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from walcast.mapping.model import DataMapping, Document, Edge, End, Field, Nested, Route, Through, Vertex
from walcast.model import ConfigError

M = TypeVar("M", bound=type)
Names = Sequence[str] | Mapping[str, "str | Field"]
"""Attributes that become fields of the same name; or field -> attribute, or Field (whose columns are attributes' columns)."""
Parts = Mapping[str, "Names | Part"]
"""Relation -> what is taken of its rows."""
ATTRIBUTE = "__walcast__"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a related model inside the document. `fields` by default all columns; `name`: instead of the relation's."""

    fields: Names | None = None
    nested: Parts | None = None
    name: str | None = None
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declaration:
    """One thing that a model's rows become. Assigned to `__walcast__` (alone or with others), or used as a decorator."""

    kind: Literal["document", "vertex", "edge"]
    name: str | None = None
    id: tuple[str, ...] = ()
    fields: Names | None = None
    nested: Parts | None = None
    source: str | None = None
    target: str | None = None
    along: str | None = None
    route: Route | None = None
    tenant: str | None = None
    deleted: str | None = None

    def __call__(self, model: M) -> M:
        setattr(model, ATTRIBUTE, (*declared_by(model), self))
        return model


def document(
    name: str | None = None,
    *,
    id: str | Sequence[str] = (),
    fields: Names | None = None,
    nested: Parts | None = None,
    route: Route | None = None,
    tenant: str | None = None,
    deleted: str | None = None,
) -> Declaration:
    """A row becomes a document of the collection `name` (by default the table's). See `walcast.mapping.Document`; all names
    are attributes and relations of the model."""
    return Declaration(
        "document", name, _several(id), fields, nested, route=route, tenant=tenant, deleted=deleted
    )


search = document
"""A document that is meant to be searched: a sink of type `search` holds it."""


def vertex(
    label: str | None = None,
    *,
    id: str | Sequence[str] = (),
    fields: Names | None = None,
    tenant: str | None = None,
    deleted: str | None = None,
) -> Declaration:
    """A row becomes a vertex; the label is by default the class's name."""
    return Declaration("vertex", label, _several(id), fields, tenant=tenant, deleted=deleted)


def edge(
    label: str | None = None,
    *,
    source: str | None = None,
    target: str | None = None,
    along: str | None = None,
    fields: Names | None = None,
    tenant: str | None = None,
    deleted: str | None = None,
) -> Declaration:
    """A row becomes an edge: `source` and `target` are its relations to models that are vertices. Or `along` a many-to-many
    relation of this model: each row of the join table becomes one, from this model to the related one."""
    if (along is None) == (source is None and target is None) or (source is None) != (target is None):
        raise ConfigError("an edge leads from `source` to `target`, or `along` a many-to-many relation")
    return Declaration(
        "edge",
        label,
        fields=fields,
        source=source,
        target=target,
        along=along,
        tenant=tenant,
        deleted=deleted,
    )


@dataclass(frozen=True, slots=True)
class Link:
    """How a relation finds its rows. `on`: their column -> ours; or `through` a join table."""

    model: Model
    many: bool
    on: Mapping[str, str]
    through: Through | None = None


class Model(Protocol):
    """What an integration knows of a model. `column` and `link` raise ConfigError for what the model does not have."""

    @property
    def name(self) -> str: ...
    @property
    def table(self) -> str: ...
    @property
    def key(self) -> Sequence[str]:
        """The primary key's columns."""
        ...

    @property
    def declared(self) -> Sequence[Declaration]: ...
    def column(self, attribute: str) -> str: ...
    def link(self, relation: str) -> Link: ...


def declared_by(model: type[Any]) -> tuple[Declaration, ...]:
    """What the class says itself; what it inherits is its parent's."""
    said = model.__dict__.get(ATTRIBUTE, ())
    return (said,) if isinstance(said, Declaration) else tuple(said)


def mapping_of(models: Iterable[Model]) -> DataMapping:
    """The mapping that these models declare. Raises ConfigError naming the model."""
    documents: dict[str, Document] = {}
    vertices: dict[str, Vertex] = {}
    edges: dict[str, Edge] = {}
    for model in models:
        for said in model.declared:
            if said.kind == "document":
                _add(documents, said.name or model.table.rpartition(".")[2], _document(model, said), model)
            elif said.kind == "vertex":
                _add(vertices, said.name or model.name, _vertex(model, said), model)
            else:
                _add(edges, said.name or said.along or model.name, _edge(model, said), model)
    return DataMapping(documents, vertices, edges)


def _add(known: dict[str, Any], name: str, made: object, model: Model) -> None:
    if name in known:
        raise ConfigError(
            f"{model.name}.{ATTRIBUTE}: {name!r} is declared twice", hint="give one of them another name"
        )
    known[name] = made


def _document(model: Model, said: Declaration) -> Document:
    return Document(
        model.table,
        _columns(model, said.id),
        _fields(model, said.fields),
        _nested(model, said.nested),
        None if said.route is None else _routed(model, said.route),
        _optional(model, said.tenant),
        _optional(model, said.deleted),
    )


def _vertex(model: Model, said: Declaration) -> Vertex:
    return Vertex(
        model.table,
        _columns(model, said.id),
        _fields(model, said.fields),
        _optional(model, said.tenant),
        _optional(model, said.deleted),
    )


def _edge(model: Model, said: Declaration) -> Edge:
    if said.along is not None:
        link = model.link(said.along)
        if link.through is None:
            raise ConfigError(
                f"{model.name}.{said.along} has no join table",
                hint="give the edge source and target: relations of the model that has both",
            )
        ends = [_end(model, link.through.ours), _end(link.model, link.through.theirs)]
        return Edge(link.through.table, ends[0], ends[1])
    assert said.source is not None
    assert said.target is not None
    ends = []
    for relation in (said.source, said.target):
        link = model.link(relation)
        ends.append(_end(link.model, {ours: theirs for theirs, ours in link.on.items()}))
    return Edge(
        model.table,
        ends[0],
        ends[1],
        fields=_fields(model, said.fields) or {},
        tenant=_optional(model, said.tenant),
        deleted=_optional(model, said.deleted),
    )


def _end(model: Model, columns: Mapping[str, str]) -> End:
    """`columns`: the edge's column -> the vertex's."""
    for said in model.declared:
        if said.kind == "vertex":
            wanted = _columns(model, said.id) or tuple(model.key)
            there = {theirs: ours for ours, theirs in columns.items()}
            if set(wanted) <= there.keys():
                return End(said.name or model.name, tuple(there[column] for column in wanted))
            raise ConfigError(
                f"an edge refers to {model.name} by ({', '.join(there)}), but its id is ({', '.join(wanted)})",
                hint="let the vertex's id be what the foreign key refers to",
            )
    raise ConfigError(
        f"an edge leads to {model.name}, which is no vertex", hint=f"add vertex() to {model.name}"
    )


def _nested(model: Model, parts: Parts | None) -> dict[str, Nested]:
    found = {}
    for relation, given in (parts or {}).items():
        part = given if isinstance(given, Part) else Part(given)
        link = model.link(relation)
        found[part.name or relation] = Nested(
            link.model.table,
            {} if link.through is not None else link.on,
            link.through,
            link.many,
            _fields(link.model, part.fields),
            _nested(link.model, part.nested),
            _columns(link.model, part.order),
        )
    return found


def _fields(model: Model, names: Names | None) -> dict[str, str | Field] | None:
    if names is None:
        return None
    items = names.items() if isinstance(names, Mapping) else ((name, name) for name in names)
    return {name: model.column(what) if isinstance(what, str) else what for name, what in items}


def _columns(model: Model, attributes: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(model.column, attributes))


def _optional(model: Model, attribute: str | None) -> str | None:
    return None if attribute is None else model.column(attribute)


def _routed(model: Model, route: Route) -> Route:
    return Route(model.column(route.column), route.into, route.otherwise)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
