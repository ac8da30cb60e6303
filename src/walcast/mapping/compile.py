"""Checks a mapping against the tables that there are, and compiles it.

A mistake is told with its path in the mapping, for whoever knows on which line that stands.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Group
from dataclasses import dataclass, replace
from typing import Any, cast

from walcast.mapping.model import DataMapping, Document, Edge, Field, Fields, Nested, Vertex
from walcast.mapping.plan import Emit, Node, Plan, Target
from walcast.mapping.values import field_kind, text
from walcast.model import ConfigError, Relation, TableId
from walcast.model.derived import Collection, FieldKind, Kind, Told

Path = tuple[str, ...]
_CONVERTED: dict[str, tuple[FieldKind, Callable[[Any], Any]]] = {
    "text": ("text", text),
    "integer": ("integer", int),
    "float": ("float", float),
    "boolean": ("boolean", bool),
}
_DEEPEST = 20
"""Levels of a document."""
_INCOMPARABLE = frozenset(("json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"))
"""Types of PostgreSQL without an equality that tells their values apart."""
_FORMAT = "1"
"""Part of every fingerprint: raised when the same mapping makes something else than before."""


class MappingError(ConfigError):
    """The mapping names what is not there, or contradicts itself. `path`: where in the mapping."""

    def __init__(self, path: Path, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


def table_id(name: str) -> TableId:
    """`schema.table`; without a schema it is in public."""
    schema, dot, table = name.partition(".")
    return TableId(schema, table) if dot else TableId("public", name)


def tables_of(mapping: DataMapping) -> set[TableId]:
    """Every table that the mapping reads. Raises MappingError for nesting without an end."""
    found: set[TableId] = set()

    def nested(path: Path, children: Mapping[str, Nested]) -> None:
        if len(path) > 2 * (_DEEPEST + 1):
            raise MappingError(
                path,
                f"it nests more than {_DEEPEST} levels, or in itself",
                hint="write each level once: an employee's manager, and that one's manager",
            )
        for name, child in children.items():
            found.add(table_id(child.table))
            if child.through is not None:
                found.add(table_id(child.through.table))
            nested((*path, "nested", name), child.nested)

    for name, document in mapping.documents.items():
        found.add(table_id(document.table))
        nested(("documents", name), document.nested)
    found |= {table_id(vertex.table) for vertex in mapping.vertices.values()}
    found |= {table_id(edge.table) for edge in mapping.edges.values()}
    return found


def compile_mapping(
    mapping: DataMapping,
    relations: Mapping[TableId, Relation],
    kinds: Group[Kind] = ("document", "vertex", "edge"),
    only: Group[str] = (),
) -> Plan:
    """The plan of these kinds of targets, and of these targets only, by default of the whole mapping. Raises MappingError."""
    compiler = _Compiler(mapping, relations)
    targets: list[Target] = []
    if "document" in kinds:
        targets += [compiler.document(name, item) for name, item in mapping.documents.items()]
    if "vertex" in kinds:
        targets += [compiler.vertex(name, item) for name, item in mapping.vertices.items()]
    if "edge" in kinds:
        targets += [compiler.edge(name, item) for name, item in mapping.edges.items()]
    known = [target.name for target in targets]
    for name in only:
        if name not in known:
            raise MappingError(
                (), f"the mapping has no target {name!r} for this store", hint=near_name(name, known)
            )
    targets = [target for target in targets if not only or target.name in only]
    plan = Plan(tuple(targets), relations)
    if len(plan.collections) < sum(len(target.collections) for target in targets):
        names = [name for target in targets for name in target.collections]
        twice = next(name for name in names if names.count(name) > 1)
        raise MappingError(
            (), f"two targets write to {twice!r}", hint="give each target, and each route, a name of its own"
        )
    return plan


@dataclass
class _Compiler:
    mapping: DataMapping
    relations: Mapping[TableId, Relation]

    def document(self, name: str, declared: Document) -> Target:
        path = ("documents", name)
        root = self._root(path, declared, declared.fields, declared.nested)
        target = self._target(path, name, "document", root, declared)
        if declared.route is not None:
            route, column = declared.route, declared.route.column
            self._columns((*path, "route", "column"), root.table, [column])
            into = dict(route.into)
            names = dict.fromkeys([*into.values(), *([route.otherwise] if route.otherwise else [])])
            base = target.collections[name]
            target.collections = {
                made: Collection(made, base.kind, base.fields, base.fingerprint, base.tracked)
                for made in names
            }
            target.route = lambda row: into.get(_routed(row[column]), route.otherwise)
        return target

    def vertex(self, name: str, declared: Vertex) -> Target:
        path = ("vertices", name)
        return self._target(path, name, "vertex", self._root(path, declared, declared.fields, {}), declared)

    def edge(self, name: str, declared: Edge) -> Target:
        path = ("edges", name)
        root = self._root(path, declared, declared.fields, {})
        sides = []
        for side, end in (("source", declared.source), ("target", declared.target)):
            vertex = self.mapping.vertices.get(end.vertex)
            if vertex is None:
                raise MappingError(
                    (*path, side, "vertex"),
                    f"there is no vertex {end.vertex!r}",
                    hint=near_name(end.vertex, self.mapping.vertices),
                )
            self._compared((*path, side, "columns"), root.table, end.columns)
            there = self._relation(("vertices", end.vertex, "table"), vertex.table)
            wanted = vertex.id or tuple(there.names[n] for n in there.key)
            if len(wanted) != len(end.columns) or bool(vertex.tenant) != bool(declared.tenant):
                named = ", ".join((*((vertex.tenant,) if vertex.tenant else ()), *wanted))
                raise MappingError(
                    (*path, side, "columns"),
                    f"{side} leads to {end.vertex}, whose id is made of ({named}); here are {len(end.columns)} columns",
                    hint="name one column for each, in that order (a tenant is named on the edge itself)",
                )
            sides.append((*((declared.tenant,) if declared.tenant else ()), *end.columns))
        target = self._target(
            path, name, "edge", root, declared, ends=(declared.source.vertex, declared.target.vertex)
        )
        target.ends = (sides[0], sides[1])
        told = target.id_columns
        if not target.tracked and {*sides[0], *sides[1]} <= set(told):
            places = [tuple(told.index(column) for column in side) for side in sides]
            made = target.collections[name]
            target.collections[name] = replace(made, told=Told(len(told), places[0], places[1]))
        root.columns = _ordered(root.columns, *sides)
        return target

    def _target(
        self,
        path: Path,
        name: str,
        kind: Kind,
        root: Node,
        declared: Document | Vertex | Edge,
        ends: tuple[str, str] | None = None,
    ) -> Target:
        ids = declared.id or root.key
        self._compared((*path, "id"), root.table, ids)
        if declared.tenant is not None:
            self._compared((*path, "tenant"), root.table, [declared.tenant])
        target = Target(name, kind, root, tuple(ids), declared.tenant, {})
        root.columns = _ordered(root.columns, target.id_columns, *self._routing(declared))
        root.tracked = not target.named_by_key and self.relations[root.table].identity != "f"
        nodes = target.nodes
        for number, node in enumerate(nodes):
            node.number = number
            if node.parent is not None:
                node.tracked = (
                    not set(node.ours) <= set(node.key) and self.relations[node.table].identity != "f"
                )
        print_of = repr(
            [_FORMAT, declared, [(str(n.table), n.key, n.columns, n.tracked) for n in nodes], ends]
        )
        target.collections[name] = Collection(
            name,
            kind,
            self._kinds(root),
            hashlib.sha256(_stable(print_of).encode()).hexdigest()[:16],
            target.tracked,
            ends,
        )
        return target

    def _routing(self, declared: Document | Vertex | Edge) -> list[list[str]]:
        route = declared.route if isinstance(declared, Document) else None
        return [[route.column]] if route is not None else []

    def _root(
        self,
        path: Path,
        declared: Document | Vertex | Edge,
        fields: Fields | None,
        nested: Mapping[str, Nested],
    ) -> Node:
        relation = self._relation((*path, "table"), declared.table)
        return self._node(path, relation, fields, nested, declared.deleted)

    def _node(
        self,
        path: Path,
        relation: Relation,
        fields: Fields | None,
        nested: Mapping[str, Nested],
        deleted: str | None,
    ) -> Node:
        table = relation.table
        key = tuple(relation.names[number] for number in relation.key)
        if not key:
            raise MappingError(
                (*path, "table"),
                f"{table} has no key",
                hint=f"add a primary key to {table}, or a replica identity index",
            )
        if deleted is not None:
            self._columns((*path, "deleted"), table, [deleted])
        node = Node(0, table, key, self._emits((*path, "fields"), relation, fields), deleted=deleted)
        names = {emit.name for emit in node.emits}
        for name, child in nested.items():
            if name in names:
                raise MappingError(
                    (*path, "nested", name),
                    f"{name!r} is a field already",
                    hint="give one of the two another name",
                )
            self._child((*path, "nested", name), node, name, child)
        down = [column for child in node.children for column in child.theirs]
        used = [column for emit in node.emits for column in emit.columns]
        node.columns = _ordered(key, used, down, [deleted] if deleted else [])
        return node

    def _child(self, path: Path, parent: Node, name: str, declared: Nested) -> None:
        relation = self._relation((*path, "table"), declared.table)
        node = self._node(path, relation, declared.fields, declared.nested, declared.deleted)
        node.name, node.many = name, declared.many
        above, on = parent, dict(declared.on)
        if declared.through is not None:
            through = declared.through
            joins = self._relation((*path, "through", "table"), through.table)
            above = self._node((*path, "through"), joins, through.fields or {}, {}, None)
            above.many = declared.many
            self._link((*path, "through", "ours"), parent, above, through.ours)
            on = {child: join for join, child in through.theirs.items()}
            if not on:
                raise MappingError(
                    (*path, "through", "theirs"), "theirs is empty", hint='theirs = { tag_id = "id" }'
                )
        self._link((*path, "through", "theirs") if declared.through else (*path, "on"), above, node, on)
        if declared.order:
            self._columns((*path, "order"), node.table, declared.order)
        node.order = declared.order or node.key
        node.columns = _ordered(node.columns, node.order)

    def _link(self, path: Path, parent: Node, node: Node, on: Mapping[str, str]) -> None:
        if not on:
            raise MappingError(
                path, "no columns are named", hint='name them: { their_column = "our_column" }'
            )
        self._compared(path, node.table, list(on))
        self._compared(path, parent.table, list(on.values()))
        node.link = tuple((theirs, ours) for ours, theirs in on.items())
        node.parent = parent
        parent.children.append(node)
        node.columns = _ordered(node.columns, node.ours)
        parent.columns = _ordered(parent.columns, node.theirs)

    def _emits(self, path: Path, relation: Relation, fields: Fields | None) -> tuple[Emit, ...]:
        chosen: Fields = {name: name for name in relation.names} if fields is None else fields
        return tuple(self._emit((*path, name), relation, name, item) for name, item in chosen.items())

    def _emit(self, path: Path, relation: Relation, name: str, item: str | Field) -> Emit:
        declared = Field(column=item) if isinstance(item, str) else item
        columns = declared.inputs()
        self._columns(path, relation.table, columns)
        if declared.call is not None:
            return Emit(name, columns, _called(path, declared.call, columns))
        if declared.template is not None:
            template = declared.template
            return Emit(
                name,
                columns,
                lambda *values: template.format(**dict(zip(columns, map(_shown, values), strict=True))),
            )
        if declared.column is None:
            value = declared.value
            return Emit(name, (), lambda: value)
        if declared.convert is None:
            return Emit(name, columns, None)
        return Emit(name, columns, _converted(_CONVERTED[declared.convert][1]))

    def _kinds(self, root: Node) -> tuple[tuple[str, FieldKind], ...]:
        relation = self.relations[root.table]
        kinds = {column.name: field_kind(column.type) for column in relation.columns}
        declared: list[tuple[str, FieldKind]] = []
        for emit in root.emits:
            kind: FieldKind = "json"
            if emit.make is None:
                kind = kinds[emit.columns[0]]
            else:
                kind = cast(FieldKind, getattr(emit.make, "kind", "text" if len(emit.columns) else "json"))
            declared.append((emit.name, kind))
        return (*declared, *((child.name or child.children[0].name, "json") for child in root.children))

    def _relation(self, path: Path, name: str) -> Relation:
        table = table_id(name)
        found = self.relations.get(table)
        if found is None:
            raise MappingError(
                path,
                f"there is no table {table}",
                hint=near_name(str(table), [str(t) for t in self.relations]),
            )
        return found

    def _columns(self, path: Path, table: TableId, names: Iterable[str]) -> None:
        known = self.relations[table].names
        for name in names:
            if name not in known:
                raise MappingError(path, f"{table} has no column {name!r}", hint=near_name(name, known))

    def _compared(self, path: Path, table: TableId, names: Iterable[str]) -> None:
        """Columns whose values are looked up."""
        names = tuple(names)
        self._columns(path, table, names)
        for column in self.relations[table].columns:
            base = column.type.base
            if column.name in names and base.schema in ("pg_catalog", "") and base.name in _INCOMPARABLE:
                raise MappingError(
                    path,
                    f"{table}.{column.name} is {base.name}, whose values cannot be compared",
                    hint="name another column, such as one that is generated from it",
                )


def _shown(value: Any) -> str:
    return "" if value is None else text(value)


def _routed(value: Any) -> str:
    return "" if value is None else text(value)


def _converted(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def make(value: Any) -> Any:
        try:
            return None if value is None else convert(value)
        except (ValueError, ArithmeticError):
            return None

    make.kind = next(kind for kind, known in _CONVERTED.values() if known is convert)  # type: ignore[attr-defined]
    return make


def _called(path: Path, call: Callable[..., Any] | str, columns: Sequence[str]) -> Callable[..., Any]:
    function = call
    if isinstance(function, str):
        module, _, name = function.partition(":")
        try:
            function = cast("Callable[..., Any]", getattr(importlib.import_module(module), name))
        except (ImportError, AttributeError, ValueError):
            raise MappingError(
                path,
                f"{call!r} cannot be imported",
                hint='write "package.module:function"; is it on the Python path?',
            ) from None
    called = function

    def make(*values: Any) -> Any:
        return called(**dict(zip(columns, values, strict=True)))

    make.kind = "json"  # type: ignore[attr-defined]
    return make


def _ordered(*groups: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))


def near_name(name: str, known: Iterable[str]) -> str:
    """A hint: the nearest of the known names, else all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are: {', '.join(options)}" if options else "there are none"


def _stable(shown: str) -> str:
    """A function's repr has its address."""
    return re.sub(r" at 0x[0-9a-f]+", "", shown)
