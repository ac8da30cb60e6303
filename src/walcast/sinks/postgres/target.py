"""The copy's table as its catalog describes it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from walcast.model import Relation, TypeInfo
from walcast.sinks.postgres.session import Session

_FIRST_ASSIGNED_OID = 10000

_TABLE = sql.SQL("""
select json_build_object(
  'oid', c.oid::bigint, 'kind', c.relkind,
  'referenced', exists (select from pg_catalog.pg_constraint f
      where f.confrelid = c.oid and f.contype = 'f' and f.conrelid <> c.oid),
  'acting', c.relhasrules or exists (select from pg_catalog.pg_trigger g
      where g.tgrelid = c.oid and not g.tgisinternal and g.tgname <> 'walcast_guard'
        and g.tgenabled = any (case current_setting('session_replication_role')
            when 'replica' then '{{R,A}}'::"char"[] else '{{O,A}}'::"char"[] end)),
  'guard', (select pg_catalog.split_part(pg_catalog.encode(g.tgargs, 'escape'), '\\000', 1) from pg_catalog.pg_trigger g
      where g.tgrelid = c.oid and g.tgname = 'walcast_guard'),
  'may_guard', pg_catalog.has_table_privilege(c.oid, 'trigger'),
  'columns', (select json_agg(json_build_object(
        'name', a.attname, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
        'sql', pg_catalog.format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
        'default', a.atthasdef, 'generated', a.attgenerated <> '', 'identity', a.attidentity) order by a.attnum)
      from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
  'keys', (select json_agg(json_build_object('primary', i.indisprimary, 'columns', (
        select json_agg(json_build_array(a.attname, n.nspname, o.oprname) order by k.place)
        from unnest(i.indkey::smallint[], i.indclass::oid[]) with ordinality as k(attnum, opclass, place)
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
        join pg_catalog.pg_opclass p on p.oid = k.opclass
        join pg_catalog.pg_amop m on m.amopfamily = p.opcfamily and m.amopstrategy = 3
          and m.amoplefttype = p.opcintype and m.amoprighttype = p.opcintype
        join pg_catalog.pg_operator o on o.oid = m.amopopr
        join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
        where k.place <= i.indnkeyatts)))
      from pg_catalog.pg_index i
      where i.indrelid = c.oid and i.indisunique and i.indimmediate and i.indisvalid
        and i.indpred is null and i.indexprs is null))
from pg_catalog.pg_class c join pg_catalog.pg_namespace s on s.oid = c.relnamespace
where s.nspname = {} and c.relname = {}
""")
_TYPES = sql.SQL("""
select json_agg(json_build_object('schema', n.nspname, 'name', t.typname, 'oid', t.oid::bigint,
    'array', t.typarray::bigint, 'labels', (select json_agg(e.enumlabel order by e.enumsortorder)
        from pg_catalog.pg_enum e where e.enumtypid = t.oid)))
from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
where (n.nspname, t.typname) in ({})
""")


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of the copy's table. `identity` is a (always), d (by default) or empty."""

    name: str
    type: int
    typmod: int
    sql_type: str
    not_null: bool
    default: bool
    generated: bool
    identity: str


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table of the copy.

    `keys` are its unique, immediate, whole indexes: for each column (name, schema and name of its equality
    operator). `acting`: triggers or rules act on what the sink writes. `guard` is what its own trigger does about
    other writers, `may_guard` whether this role may make one. `referenced`: a foreign key of another
    table points here, so that TRUNCATE would be refused.
    """

    oid: int
    schema: str
    name: str
    kind: str
    referenced: bool
    acting: bool
    guard: str | None
    may_guard: bool
    columns: dict[str, TargetColumn]
    keys: tuple[tuple[tuple[str, str, str], ...], ...]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    @property
    def only(self) -> sql.Composable:
        """The table without those that inherit from it: the stream names each table that a change is of."""
        return self.identifier if self.kind == "p" else sql.SQL("only {}").format(self.identifier)

    def key_over(self, names: frozenset[str]) -> tuple[tuple[str, str, str], ...] | None:
        """The unique index over exactly these columns."""
        return next((key for key in self.keys if frozenset(column[0] for column in key) == names), None)


@dataclass(frozen=True, slots=True)
class TargetType:
    """A type of the copy that is not built in."""

    oid: int
    array: int
    labels: tuple[str, ...]


def load_table(session: Session, schema: str, name: str) -> TargetTable | None:
    """Reads the catalog. None when there is no relation of that name."""
    row = session.json(_TABLE.format(sql.Literal(schema), sql.Literal(name)))
    if row is None:
        return None
    columns = [
        TargetColumn(
            c["name"],
            c["type"],
            c["typmod"],
            c["sql"],
            c["not_null"],
            c["default"],
            c["generated"],
            c["identity"],
        )
        for c in row["columns"] or ()
    ]
    return TargetTable(
        row["oid"],
        schema,
        name,
        row["kind"],
        row["referenced"],
        row["acting"],
        row["guard"],
        row["may_guard"],
        {column.name: column for column in columns},
        tuple(tuple((n, s, o) for n, s, o in key["columns"]) for key in row["keys"] or () if key["columns"]),
    )


def load_types(session: Session, names: set[tuple[str, str]]) -> dict[tuple[str, str], TargetType]:
    """Those of the types (schema, name) that the copy has."""
    if not names:
        return {}
    pairs = sql.SQL(", ").join(
        sql.SQL("({}, {})").format(sql.Literal(schema), sql.Literal(name)) for schema, name in sorted(names)
    )
    rows = session.json(_TYPES.format(pairs)) or ()
    return {
        (row["schema"], row["name"]): TargetType(row["oid"], row["array"], tuple(row["labels"] or ()))
        for row in rows
    }


def built_in(info: TypeInfo) -> bool:
    """A type that has the same oid in every database."""
    return info.oid < _FIRST_ASSIGNED_OID


def user_types(relation: Relation) -> dict[int, TypeInfo]:
    """The types of a relation's columns that are not built in, those they are made of first; no arrays."""
    found: dict[int, TypeInfo] = {}
    for column in relation.columns:
        _collect(column.type, found)
    return found


def _collect(info: TypeInfo, found: dict[int, TypeInfo]) -> None:
    if built_in(info) or info.oid in found:
        return
    if info.element is not None:
        _collect(info.element, found)
    for _, field in info.fields:
        _collect(field, found)
    if info.kind != "array":
        found[info.oid] = info
