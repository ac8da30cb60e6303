"""Relations as the stream announces them, completed from the catalog.

The stream's Relation message has names, type oids and key flags. Types' parts, SQL names, attribute numbers and the
primary key under REPLICA IDENTITY FULL come from the catalog, which is ahead of the stream: a table may have been
altered or dropped since. So the announced shape always rules, and an attribute number is given only when it is proven:
by a recorded schema change (walcast.postgres.ddl), or because the table's published columns are still the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, cast

from walcast.decode import Catalog
from walcast.decode.builtin import type_tuples
from walcast.decode.frames import Catalog as DecoderCatalog
from walcast.decode.frames import ColumnTuple, RelationTuple
from walcast.model import Column, Relation, ReplicaIdentity, TableId, TypeInfo
from walcast.postgres.catalog import describe_relations
from walcast.postgres.connect import Connection
from walcast.postgres.control import Control
from walcast.postgres.ddl import Shapes
from walcast.postgres.published import column_lists
from walcast.postgres.typeinfo import load_types

_SQL_TYPES: Final[LiteralString] = """
select t.oid, t.typmod, pg_catalog.format_type(t.oid::oid, t.typmod)
  from unnest(%s::int8[], %s::int4[]) t(oid, typmod)
"""


@dataclass(slots=True)
class _Known:
    announced: RelationTuple
    relation: Relation


class Relations:
    """The relations of one stream, and the types that its batches need."""

    def __init__(self, control: Control, shapes: Shapes | None = None) -> None:
        self._control = control
        self._shapes = shapes
        self._known: dict[int, _Known] = {}
        self._types: dict[int, TypeInfo] = {}
        self.catalog: DecoderCatalog = Catalog([])

    async def complete(self, announced: Sequence[RelationTuple]) -> list[Relation]:
        """The relations in their order. Asks the catalog only about those that are new or changed."""
        fresh = [item for item in announced if not self._is_known(item)]
        if fresh:
            await self._control.ask(lambda connection: self._learn(connection, fresh))
        return [self._known[item[0]].relation for item in announced]

    def forget(self, oid: int) -> None:
        """The next announcement of this table is looked up again: its attribute numbers may have changed."""
        self._known.pop(oid, None)

    def add_types(self, types: Mapping[int, TypeInfo]) -> None:
        """Makes the decoder know these types."""
        if any(self._types.get(oid) != info for oid, info in types.items()):
            self._types |= types
            self.catalog = cast(DecoderCatalog, Catalog(type_tuples(self._types.values())))

    def readable_in_binary(self, relation: Relation) -> bool:
        """Whether server and decoder both have a binary form of every column."""
        return all(self.has_binary(column.type) for column in relation.columns)

    def has_binary(self, info: TypeInfo) -> bool:
        return info.has_binary and self.catalog.has_binary(info.oid)

    def _is_known(self, announced: RelationTuple) -> bool:
        known = self._known.get(announced[0])
        return known is not None and known.announced == announced

    async def _learn(self, connection: Connection, announced: Sequence[RelationTuple]) -> None:
        current = {
            r.oid: r for r in (await describe_relations(connection, {a[0] for a in announced})).values()
        }
        lists = await column_lists(connection, current)
        pairs = sorted({(column[1], column[2]) for item in announced for column in item[4]})
        self.add_types(await load_types(connection, {oid for oid, _ in pairs}))
        cursor = await connection.execute(_SQL_TYPES, [[p[0] for p in pairs], [p[1] for p in pairs]])
        names = {(oid, typmod): name for oid, typmod, name in await cursor.fetchall()}
        for item in announced:
            now = current.get(item[0])
            published = _published(now, lists)
            self._known[item[0]] = _Known(item, self._completed(item, now, published, names))

    def _completed(
        self,
        announced: RelationTuple,
        now: Relation | None,
        published: list[tuple[Column, ...]],
        sql_types: Mapping[tuple[int, int], str],
    ) -> Relation:
        oid, schema, name, identity, columns = announced
        attnums = self._attnums(oid, columns, published)
        there = {c.name: c for c in now.columns} if now is not None else {}
        keys = _keys(identity, columns, now)
        made = []
        for number, (column, type_oid, typmod, _) in enumerate(columns):
            same = there.get(column)
            if same is not None and (same.type.oid, same.typmod) != (type_oid, typmod):
                same = None
            made.append(
                Column(
                    name=column,
                    type=self._types.get(type_oid)
                    or TypeInfo(type_oid, "", f"type {type_oid}", has_binary=False),
                    typmod=typmod,
                    sql_type=sql_types.get((type_oid, typmod), "text"),
                    attnum=attnums[number] if attnums is not None else None,
                    key=column in keys,
                    nullable=same.nullable if same is not None else True,
                    generated=same.generated if same is not None else False,
                    missing=same.missing if same is not None else None,
                    unproven=same.unproven if same is not None else True,
                )
            )
        return Relation(oid, TableId(schema, name), tuple(made), cast(ReplicaIdentity, identity))

    def _attnums(
        self, oid: int, columns: Sequence[ColumnTuple], published: list[tuple[Column, ...]]
    ) -> tuple[int | None, ...] | None:
        if self._shapes is not None and oid in self._shapes:
            return self._shapes.attnums(oid, [(name, kind, typmod) for name, kind, typmod, _ in columns])
        announced = [(name, kind, typmod) for name, kind, typmod, _ in columns]
        for candidate in published:
            if announced == [(c.name, c.type.oid, c.typmod) for c in candidate]:
                return tuple(column.attnum for column in candidate)
        return None


def announcement(relation: Relation) -> RelationTuple:
    """A relation from the catalog in the shape in which the stream would announce it."""
    full = relation.identity == "f"
    return (
        relation.oid,
        relation.table.schema,
        relation.table.name,
        relation.identity,
        [
            (c.name, c.type.oid, c.typmod, full or (c.key and relation.identity in "di"))
            for c in relation.columns
        ],
    )


def _published(now: Relation | None, lists: Mapping[int, list[list[int]]]) -> list[tuple[Column, ...]]:
    """The sets of columns that the stream may announce while the table is as it is now."""
    if now is None:
        return []
    stored = tuple(c for c in now.columns if not c.generated)
    listed = [tuple(c for c in now.columns if c.attnum in numbers) for numbers in lists[now.oid]]
    return [stored, now.columns, *listed]


def _keys(identity: str, columns: Sequence[ColumnTuple], now: Relation | None) -> set[str]:
    """The names of the key's columns. FULL marks every column: there the primary key is taken, when it was sent whole."""
    if identity != "f":
        sent = {column[0] for column in columns if column[3]}
        if sent or identity != "n":
            return sent
    primary = {(c.name, c.type.oid) for c in now.columns if c.key} if now is not None else set()
    if primary <= {(column[0], column[1]) for column in columns}:
        return {name for name, _ in primary}
    return set()


def catalog_of(types: Iterable[TypeInfo]) -> DecoderCatalog:
    """A decoder's catalog of these types and what they are made of."""
    found: dict[int, TypeInfo] = {}

    def add(info: TypeInfo) -> None:
        if info.oid not in found:
            found[info.oid] = info
            for part in (info.element, *(part for _, part in info.fields)):
                if part is not None:
                    add(part)

    for info in types:
        add(info)
    return cast(DecoderCatalog, Catalog(type_tuples(found.values())))
