"""Types with everything they are made of: elements, bases, fields, subtypes, labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, LiteralString

from walcast.model import TypeInfo, TypeKind
from walcast.postgres.connect import Connection

# An array type is one that its element type names as its array: typelem alone is set for point, name and others, too.
_TYPES: Final[LiteralString] = """
with recursive wanted(oid) as (
    select unnest(%(oids)s::int8[])::oid
    union
    select part.oid
      from wanted w
      join pg_catalog.pg_type t on t.oid = w.oid
      cross join lateral (
          select e.oid from pg_catalog.pg_type e where e.oid = t.typelem and e.typarray = t.oid
          union all select t.typbasetype where t.typtype = 'd'
          union all select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
          {multirange}
          union all select a.atttypid from pg_catalog.pg_attribute a
                     where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
      ) part(oid)
)
select t.oid::int8, n.nspname::text, t.typname::text, t.typtype::text, t.typdelim::text, t.typsend <> 0,
       coalesce((select e.oid::int8 from pg_catalog.pg_type e where e.oid = t.typelem and e.typarray = t.oid), 0),
       t.typbasetype::int8,
       coalesce((select r.rngsubtype::int8 from pg_catalog.pg_range r where r.rngtypid = t.oid), 0),
       {range_of_multirange},
       array(select l.enumlabel::text from pg_catalog.pg_enum l where l.enumtypid = t.oid order by l.enumsortorder),
       array(select a.attname::text from pg_catalog.pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid
               and a.attnum > 0 and not a.attisdropped order by a.attnum),
       array(select a.atttypid::int8 from pg_catalog.pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid
               and a.attnum > 0 and not a.attisdropped order by a.attnum)
  from wanted w
  join pg_catalog.pg_type t on t.oid = w.oid
  join pg_catalog.pg_namespace n on n.oid = t.typnamespace
"""

_MULTIRANGE: Final[LiteralString] = (
    "union all select r.rngtypid from pg_catalog.pg_range r where r.rngmultitypid = t.oid"
)
_RANGE_OF_MULTIRANGE: Final[LiteralString] = (
    "coalesce((select r.rngtypid::int8 from pg_catalog.pg_range r where r.rngmultitypid = t.oid), 0)"
)
_TYPES_14: Final[LiteralString] = _TYPES.replace("{multirange}", _MULTIRANGE).replace(
    "{range_of_multirange}", _RANGE_OF_MULTIRANGE
)
_TYPES_13: Final[LiteralString] = _TYPES.replace("{multirange}", "").replace("{range_of_multirange}", "0")

_KINDS: Final[dict[str, TypeKind]] = {
    "b": "base",
    "e": "enum",
    "d": "domain",
    "c": "composite",
    "r": "range",
    "m": "multirange",
    "p": "pseudo",
}


async def load_types(connection: Connection, oids: Iterable[int]) -> dict[int, TypeInfo]:
    """These types and all that they are made of, by oid; built-in ones too. Unknown oids are left out."""
    query = _TYPES_14 if connection.info.server_version >= 140_000 else _TYPES_13
    cursor = await connection.execute(query, {"oids": list(oids)})
    rows = {row[0]: row for row in await cursor.fetchall()}
    made: dict[int, TypeInfo] = {}
    for oid in rows:
        _build(oid, rows, made)
    return made


def _build(oid: int, rows: dict[int, tuple[Any, ...]], made: dict[int, TypeInfo]) -> TypeInfo:
    """One type after its parts; `has_binary` only if all of them have it."""
    if oid in made:
        return made[oid]
    (
        _,
        schema,
        name,
        letter,
        delimiter,
        sends,
        array_of,
        domain_of,
        range_of,
        multirange_of,
        labels,
        *fields,
    ) = rows[oid]
    inner = array_of or domain_of or range_of or multirange_of
    element = _build(inner, rows, made) if inner else None
    parts = tuple(
        (field, _build(field_oid, rows, made)) for field, field_oid in zip(fields[0], fields[1], strict=True)
    )
    made[oid] = TypeInfo(
        oid=oid,
        schema=schema,
        name=name,
        kind="array" if array_of else _KINDS[letter],
        element=element,
        fields=parts,
        labels=tuple(labels),
        delimiter=delimiter,
        has_binary=sends
        and (element is None or element.has_binary)
        and all(part.has_binary for _, part in parts),
    )
    return made[oid]
