"""Makes the copy's table able to hold a version of the source's table, or says why it cannot.

A table that Walcast makes has the source's columns by name and type, and a primary key over the row's key. Only the
key is NOT NULL: a column that the source drops, or fills late, must not stop the copy. No other constraint, index
or default is made. A table that is there already is matched by column name; its own columns, indexes and
constraints stay. What follows the source: added columns, with what older rows hold in them; renames that attribute
numbers prove; types that widen. Where older rows' values are not known all rows come again beside the stream; where
that cannot be the table is marked incomplete: it takes nothing but a new snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from psycopg import sql

from walcast.model import Builds, OperatorError, Relation, TableStopped, ValuesMissing
from walcast.sinks.postgres.config import PostgresSinkConfig
from walcast.sinks.postgres.guard import put_up
from walcast.sinks.postgres.session import Session
from walcast.sinks.postgres.store import KnownTable, Store
from walcast.sinks.postgres.target import TargetColumn, TargetTable, load_table
from walcast.sinks.postgres.typemaker import TypeMaker
from walcast.sinks.postgres.widening import fit, survives, widens

_FORMAT = sql.SQL("select json_agg(pg_catalog.format_type(t, m) order by n) from (values {}) as v(n, t, m)")
_ANY_ROW = sql.SQL("select 1 from {} limit 1")
_RESYNC = "then copy the table anew: `walcast resync {}`"


@dataclass(frozen=True, slots=True)
class Binding:
    """A source table's version and the copy's table that holds it.

    `wire` are the oids, at the copy, of the types in which the columns' values come, `written` how SQL writes
    those; `oids` maps the source's types to the copy's, where they differ. `incomplete` says why the table lacks
    values until its next snapshot; empty: it does not.
    """

    relation: Relation
    target: TargetTable
    wire: tuple[int, ...]
    written: tuple[str, ...]
    oids: dict[int, int]
    incomplete: str


class Preparer:
    """Follows the source's schema, in the session's open transaction."""

    def __init__(self, session: Session, store: Store, config: PostgresSinkConfig, builds: Builds) -> None:
        self._session = session
        self._builds = builds
        self._store = store
        self._config = config
        self.types = TypeMaker(session, config)

    def prepare(self, relation: Relation) -> Binding:
        """Raises TableStopped (this table only), ValuesMissing (see `Builds`), OperatorError, StatementFailed."""
        schema = self._config.schemas.get(relation.table.schema, relation.table.schema)
        known = self._store.known(self._session, relation.oid)
        if known is not None and (known.schema, known.name) != (schema, relation.table.name):
            self._rename_table(known, schema, relation.table.name)
        if known is None:
            self._refuse_shared(relation, schema)
        wire, oids = self.types.resolve(relation)
        target = load_table(self._session, schema, relation.table.name)
        incomplete = known.incomplete if known is not None else ""
        if target is None:
            if known is not None:
                incomplete = (
                    f"the copy's table {schema}.{relation.table.name} was gone and was made anew, empty"
                )
            self._create(relation, schema, wire)
        else:
            if target.kind not in ("r", "p"):
                raise TableStopped(
                    relation.table,
                    f"at the copy, {schema}.{relation.table.name} is not a table",
                    hint=f"rename or drop it there, {_RESYNC.format(relation.table.argument)}",
                )
            incomplete = (
                self._follow(relation, target, wire, known) or _retyped(relation, known) or incomplete
            )
        target = load_table(self._session, schema, relation.table.name)
        if target is None:
            raise OperatorError(f"{schema}.{relation.table.name} vanished at the copy", hint="start again")
        self._check(relation, target, wire)
        if incomplete and relation.table in self._builds.building:
            incomplete = ""  # every row comes again
        if incomplete and self._builds.may_build(relation):
            raise ValuesMissing(
                relation.table, incomplete, hint=f"copy it anew: `walcast resync {relation.table.argument}`"
            )
        put_up(self._session, target, self._config.foreign_writes)
        columns = tuple((c.attnum, c.name, c.type.oid, c.typmod) for c in relation.columns)
        learned = KnownTable(schema, relation.table.name, incomplete, columns)
        if learned != known:
            self._store.learn(self._session, relation.oid, learned)
        written = tuple(self._formats([(oid, -1) for oid in wire]))
        return Binding(relation, target, wire, written, oids, incomplete)

    def _refuse_shared(self, relation: Relation, schema: str) -> None:
        """Two pipelines that write one table would each undo what the other did."""
        other = self._store.other_owner(self._session, schema, relation.table.name)
        if other is not None:
            raise TableStopped(
                relation.table,
                f"at the copy, {schema}.{relation.table.name} is kept by {other}",
                hint="map its schema to another one (schemas), or exclude it here; if that pipeline is gone for good, take its rows"
                f" out of walcast.relation, {_RESYNC.format(relation.table.argument)}",
            )

    def _create(self, relation: Relation, schema: str, wire: Sequence[int]) -> None:
        if not self._config.create_tables:
            raise TableStopped(
                relation.table,
                f"the copy has no table {schema}.{relation.table.name}",
                hint=f"create it there, or set create_tables = true; {_RESYNC.format(relation.table.argument)}",
            )
        self.types.make_schema(schema)
        formats = self._formats(
            [(oid, column.typmod) for column, oid in zip(relation.columns, wire, strict=True)]
        )
        parts: list[sql.Composable] = [
            sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(kind))
            for column, kind in zip(relation.columns, formats, strict=True)
        ]
        if relation.key:
            parts.append(
                sql.SQL("primary key ({})").format(_names(relation.columns[n].name for n in relation.key))
            )
        self._session.query(
            sql.SQL("create table {} ({})").format(
                sql.Identifier(schema, relation.table.name), sql.SQL(", ").join(parts)
            )
        )

    def _follow(
        self, relation: Relation, target: TargetTable, wire: Sequence[int], known: KnownTable | None
    ) -> str:
        """Alters the table as far as it is proved and safe. Why it is incomplete now; empty: it is not.

        A table that the sink has not seen before is somebody's own: it fits, or it is refused.
        """
        if not self._config.create_tables or known is None:
            return ""
        renamed = _renames(relation, known, target)
        if renamed:
            self._rename_columns(target, renamed)
        held = {renamed.get(name, name): column for name, column in target.columns.items()}
        for other in _replaced(relation, known):
            if other in held and other not in renamed.values():
                self._put_away(target, held.pop(other), set(held))
        actions: list[sql.Composable] = []
        after: list[sql.Composable] = []
        unknown: list[str] = []
        for column, oid in zip(relation.columns, wire, strict=True):
            have = held.get(column.name)
            name = sql.Identifier(column.name)
            if have is None:
                (kind,) = self._formats([(oid, column.typmod)])
                filled: sql.Composable = sql.SQL("")
                if column.missing is not None:
                    filled = sql.SQL(" default {}").format(sql.Literal(column.missing))
                    after.append(sql.SQL("alter column {} drop default").format(name))
                elif column.unproven:
                    unknown.append(column.name)
                actions.append(sql.SQL("add column {} {}{}").format(name, sql.SQL(kind), filled))
                continue
            old, new = (have.type, have.typmod), (oid, column.typmod)
            if not have.generated and fit(new, old) == "no" and widens(old, new):
                (kind,) = self._formats([new])
                actions.append(sql.SQL("alter column {} type {}").format(name, sql.SQL(kind)))
        actions += self._drops(relation, known, renamed, held)
        for several in filter(None, (actions, after)):
            self._session.query(
                sql.SQL("alter table {} {}").format(target.identifier, sql.SQL(", ").join(several))
            )
        if unknown and self._session.query(_ANY_ROW.format(target.only)):
            return f"column {', '.join(unknown)} was added, and what older rows hold in it is not known"
        return ""

    def _drops(
        self,
        relation: Relation,
        known: KnownTable | None,
        renamed: Mapping[str, str],
        held: Mapping[str, TargetColumn],
    ) -> list[sql.Composable]:
        """What becomes of columns that came from the source and do not any more."""
        gone = {renamed.get(name, name) for _, name, *_ in (known.columns if known else ())} - set(
            relation.names
        )
        actions: list[sql.Composable] = []
        for name in sorted(gone & set(held)):
            if self._config.dropped_columns == "drop":
                actions.append(sql.SQL("drop column {}").format(sql.Identifier(name)))
            elif held[name].not_null:
                actions.append(sql.SQL("alter column {} drop not null").format(sql.Identifier(name)))
        return actions

    def _put_away(self, target: TargetTable, column: TargetColumn, taken: set[str]) -> None:
        """A column that the source dropped, and added another of its name."""
        name = sql.Identifier(column.name)
        if self._config.dropped_columns == "drop":
            self._session.query(sql.SQL("alter table {} drop column {}").format(target.identifier, name))
            return
        kept = (f"{column.name[:48]}_dropped{number or ''}" for number in count())
        free = next(other for other in kept if other not in taken)
        if column.not_null:
            self._session.query(
                sql.SQL("alter table {} alter column {} drop not null").format(target.identifier, name)
            )
        self._session.query(
            sql.SQL("alter table {} rename column {} to {}").format(
                target.identifier, name, sql.Identifier(free)
            )
        )

    def _rename_table(self, known: KnownTable, schema: str, name: str) -> None:
        """The same oid under another name: the source's table was renamed, or moved to another schema."""
        old = load_table(self._session, known.schema, known.name)
        if (
            old is None
            or not self._config.create_tables
            or load_table(self._session, schema, name) is not None
        ):
            return
        self.types.make_schema(schema)
        if known.schema != schema:
            self._session.query(
                sql.SQL("alter table {} set schema {}").format(old.identifier, sql.Identifier(schema))
            )
        if known.name != name:
            self._session.query(
                sql.SQL("alter table {} rename to {}").format(
                    sql.Identifier(schema, known.name), sql.Identifier(name)
                )
            )

    def _rename_columns(self, target: TargetTable, renamed: Mapping[str, str]) -> None:
        """By way of names that nothing has: two columns may have swapped theirs."""
        rename = sql.SQL("alter table {} rename column {} to {}")
        steps = [(old, f"walcast moving {number}") for number, old in enumerate(renamed)]
        steps += [(f"walcast moving {number}", new) for number, new in enumerate(renamed.values())]
        self._session.query(
            *(rename.format(target.identifier, sql.Identifier(a), sql.Identifier(b)) for a, b in steps)
        )

    def _formats(self, types: Sequence[tuple[int, int]]) -> list[str]:
        """Types (oid, typmod) as SQL writes them at the copy."""
        if not types:
            return []
        rows = sql.SQL(", ").join(
            sql.SQL("({}, {}::oid, {})").format(sql.Literal(n), sql.Literal(oid), sql.Literal(typmod))
            for n, (oid, typmod) in enumerate(types)
        )
        return list(self._session.json(_FORMAT.format(rows)))

    def _check(self, relation: Relation, target: TargetTable, wire: Sequence[int]) -> None:
        differences = list(_differences(relation, target, wire))
        if differences:
            raise TableStopped(
                relation.table,
                f"the copy's table {target.schema}.{target.name} differs: {'; '.join(differences)}",
                hint=f"alter or drop it at the copy, {_RESYNC.format(relation.table.argument)}",
            )


def _differences(relation: Relation, target: TargetTable, wire: Sequence[int]) -> list[str]:
    found = []
    for column, oid in zip(relation.columns, wire, strict=True):
        have = target.columns.get(column.name)
        if have is None:
            found.append(f"column {column.name} is missing")
        elif not have.generated and fit((oid, column.typmod), (have.type, have.typmod)) == "no":
            found.append(
                f"column {column.name} is {have.sql_type}, not {column.sql_type or column.type.name}"
            )
    for name, own in target.columns.items():
        filled = own.default or own.generated or own.identity
        if name not in relation.names and own.not_null and not filled:
            found.append(f"its own column {name} is not null and has no default")
    key = frozenset(relation.columns[n].name for n in relation.key)
    if key and target.key_over(key) is None:
        found.append(f"it has no primary key or unique index over ({', '.join(sorted(key))})")
    return found


def _renames(relation: Relation, known: KnownTable | None, target: TargetTable) -> dict[str, str]:
    """Old name -> new name, of columns whose attribute number the catalog knew before and knows now."""
    before = {attnum: name for attnum, name, *_ in (known.columns if known else ()) if attnum is not None}
    pairs = {
        before[column.attnum]: column.name
        for column in relation.columns
        if column.attnum in before and before[column.attnum] != column.name
    }
    moving = {old: new for old, new in pairs.items() if old in target.columns}
    return {old: new for old, new in moving.items() if new not in target.columns or new in moving}


def _replaced(relation: Relation, known: KnownTable) -> list[str]:
    """Columns that had other attribute numbers before: they were dropped, and others were added under their names."""
    before = {name: attnum for attnum, name, *_ in known.columns if attnum is not None}
    return [
        column.name
        for column in relation.columns
        if column.attnum is not None and before.get(column.name, column.attnum) != column.attnum
    ]


def _retyped(relation: Relation, known: KnownTable | None) -> str:
    """Why rows from before hold other values than the source's do now; empty: they do not."""
    before: dict[object, tuple[int, int]] = {
        name: (oid, typmod) for _, name, oid, typmod in (known.columns if known else ())
    }
    before |= {attnum: (oid, typmod) for attnum, _, oid, typmod in (known.columns if known else ()) if attnum}
    for column in relation.columns:
        old = before.get(column.attnum) or before.get(column.name)
        if old is not None and not survives(old, (column.type.oid, column.typmod)):
            return f"column {column.name} changed its type"
    return ""


def _names(names: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))
