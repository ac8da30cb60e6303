"""The statements that apply a table's changes: straight COPY, staged by COPY, and one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from psycopg import sql

from walcast.sinks.postgres.adapters import Adapter, adapters
from walcast.sinks.postgres.ddl import Binding
from walcast.sinks.postgres.session import Prepared
from walcast.sinks.postgres.widening import fit

_SQL = sql.SQL
_COMMA, _AND = sql.SQL(", "), sql.SQL(" and ")

# Types whose `=` holds for identical values only. Of all others the text is compared: 1.0 is not 1.00, and json has no `=`.
_EXACT = frozenset(
    (16, 17, 18, 19, 20, 21, 23, 26, 28, 29, 829, 774, 1082, 1083, 1114, 1184, 1266, 2950, 3220, 5069)
)
_COLLATED = frozenset((25, 1043))
_STAGES = {"stage": "walcast_stage", "mask": "walcast_mask", "keys": "walcast_keys", "hold": "walcast_hold"}
_MANY = 4000
Stage = Literal["stage", "mask", "keys", "hold"]


class Plan:
    """One version of one table. `number` is unique within the connection: it names statements and temporary tables."""

    def __init__(self, binding: Binding, number: int, version: int, role: str) -> None:
        self.binding = binding
        self.relation = binding.relation
        self.target = binding.target
        self.prefix = f"walcast_{number}_"
        self.key = self.relation.key
        held = [self.target.columns[name] for name in self.relation.names]
        self.columns = tuple(n for n, column in enumerate(held) if not column.generated)
        self.adapters: dict[int, Adapter] = adapters(binding, version)
        """Columns whose bytes are not what the copy's receive function takes."""
        fits = [
            fit((oid, source.typmod), (column.type, column.typmod))
            for source, oid, column in zip(self.relation.columns, binding.wire, held, strict=True)
        ]
        self.straight = all(fits[n] == "same" for n in self.columns)
        """COPY BINARY goes into the table as it comes."""
        self._always = always = {n for n in self.columns if held[n].identity == "a"}
        self.moves = bool(always)
        """Identity columns that UPDATE may not set: the row is taken out and put in again."""
        self.one_by_one = self.target.acting or bool(self.key and always - set(self.key))
        """Changes are applied singly, in commit order."""
        self.real = self.target.acting
        """Triggers or rules act: an update has to be an update."""
        self.displaceable = role == "replica" and bool(self.key) and not self.one_by_one
        """Rows may be taken out and put in again without anything noticing."""
        self.staged: set[Stage] = set()
        self.doubts = 0
        """How often straight COPY met a row that was there."""
        self._number = number
        self._held = held
        self._made: dict[object, Prepared] = {}
        self._left: dict[Stage, int] = {}

    def lacks(self, unchanged: Iterable[int]) -> bool:
        """Whether columns that were not sent are among those that the copy writes."""
        return not set(unchanged).isdisjoint(self.columns)

    # -- bulk ---------------------------------------------------------------------------------------------------

    def truncate(self, restart_identity: bool) -> Prepared:
        """Empties the table; row by row when a foreign key would refuse TRUNCATE."""
        if self.target.referenced:
            text = _SQL("delete from {}").format(self.target.only)
        else:
            restart = " restart identity" if restart_identity else ""
            text = _SQL("truncate {}" + restart).format(self.target.only)
        return Prepared(f"{self.prefix}truncate{restart_identity:d}", text.as_bytes(), (), True)

    def copy_in(self, columns: Iterable[int], format: str) -> bytes:
        """COPY into the table itself."""
        return _copy(self.target.identifier, [self.relation.columns[n].name for n in columns], format)

    def copy_stage(self, stage: Stage, columns: Iterable[int], format: str) -> bytes:
        return _copy(self._stage(stage), [f"c{n}" for n in columns], format)

    def create_stage(self, stage: Stage) -> bytes:
        """The temporary table. It keeps its rows at commit: `on commit delete rows` would truncate every stage of the
        session at every commit, at half a millisecond each."""
        if stage == "hold":
            shape: sql.Composable = _SQL("like {}").format(self.target.identifier)
        else:
            numbers = self.key if stage == "keys" else self.columns
            shape = _COMMA.join(
                _SQL("{} {}").format(_column(n), _SQL(self.binding.written[n])) for n in numbers
            )
        text = "create temporary table if not exists {} ({})"
        return _SQL(text).format(self._stage(stage), shape).as_bytes()

    def drop_stages(self) -> list[bytes]:
        return [_SQL("drop table if exists {}").format(self._stage(s)).as_bytes() for s in self.staged]

    def clear(self, stage: Stage, rows: int) -> bytes | None:
        """Empties a stage that is to take `rows` rows; None: it is empty.

        DELETE is quick for few rows but leaves them in the file; TRUNCATE costs milliseconds and makes a new one. What
        a rollback brings back is counted, too.
        """
        left = self._left.get(stage, 0)
        how = "truncate {}" if left > _MANY else "delete from {}"
        self._left[stage] = rows + (left if left <= _MANY else 0)
        return _SQL(how).format(self._stage(stage)).as_bytes() if left else None

    def upsert(self) -> Prepared:
        """The stage's rows, inserted or put over those that are there."""
        return self._make(
            "upsert",
            lambda: _SQL("insert into {} ({}) overriding system value select {} from {}{}").format(
                self.target.identifier,
                self._names(self.columns),
                _COMMA.join(map(_column, self.columns)),
                self._stage("stage"),
                self._conflict(),
            ),
        )

    def update(self, known: tuple[int, ...], into: Literal["table", "hold"] = "table") -> Prepared:
        """Sets the known columns of rows that are there, from `mask` (when some columns were not sent) or `stage`."""
        stage: Stage = "stage" if known == self.columns else "mask"
        target = self.target.only if into == "table" else self._stage("hold")
        return self._make(
            ("update", known, into),
            lambda: _SQL("update {} t set {} from {} s where {}").format(
                target,
                _COMMA.join(
                    _SQL("{} = s.{}").format(self._name(n), _column(n)) for n in self._settable(known)
                ),
                self._stage(stage),
                self._joined(),
            ),
        )

    def delete(self) -> Prepared:
        return self._make(
            "delete",
            lambda: _SQL("delete from {} t using {} s where {}").format(
                self.target.only, self._stage("keys"), self._joined()
            ),
        )

    def take_out(self, stage: Literal["stage", "mask"]) -> Prepared:
        """Moves the stage's rows from the table to `hold`."""
        text = "with gone as (delete from {} t using {} s where {} returning t.*) insert into {} select * from gone"
        return self._make(
            ("take_out", stage),
            lambda: _SQL(text).format(
                self.target.only, self._stage(stage), self._joined(), self._stage("hold")
            ),
        )

    def put_back(self) -> Prepared:
        own = _COMMA.join(sql.Identifier(c.name) for c in self.target.columns.values() if not c.generated)
        return self._make(
            "put_back",
            lambda: _SQL("insert into {} ({}) overriding system value select {} from {}").format(
                self.target.identifier, own, own, self._stage("hold")
            ),
        )

    def put_new(self) -> Prepared:
        """The stage's rows that were not in the table."""
        text = "insert into {} ({}) overriding system value select {} from {} s where not exists (select from {} t where {})"
        return self._make(
            "put_new",
            lambda: _SQL(text).format(
                self.target.identifier,
                self._names(self.columns),
                _COMMA.join(map(_column, self.columns)),
                self._stage("stage"),
                self._stage("hold"),
                self._joined(),
            ),
        )

    # -- one row at a time --------------------------------------------------------------------------------------

    def insert_row(self, upsert: bool) -> Prepared:
        """Parameters: the values of `columns`."""
        return self._make(
            ("insert", upsert),
            lambda: _SQL("insert into {} ({}) overriding system value values ({}){}").format(
                self.target.identifier,
                self._names(self.columns),
                _parameters(len(self.columns)),
                self._conflict() if upsert else _SQL(""),
            ),
            self.columns,
        )

    def update_row(self, known: tuple[int, ...]) -> Prepared:
        """Parameters: the values of the `known` columns, then the old key's."""
        return self._make(
            ("update_row", known),
            lambda: self._changing(known, self._keyed(len(known))),
            (*known, *self.key),
        )

    def delete_row(self) -> Prepared:
        """Parameters: the key's values."""
        return self._make(
            "delete_row",
            lambda: _SQL("delete from {} t where {}").format(self.target.only, self._keyed(0)),
            self.key,
        )

    def update_same(self, known: tuple[int, ...], nulls: tuple[int, ...]) -> Prepared:
        """One row that equals the old one in every column. Parameters: the `known` columns, then the old row's not null."""
        matched = tuple(n for n in self.columns if n not in nulls)
        return self._make(
            ("update_same", known, nulls),
            lambda: self._changing(known, self._same(len(known), nulls)),
            (*known, *matched),
        )

    def delete_same(self, nulls: tuple[int, ...]) -> Prepared:
        matched = tuple(n for n in self.columns if n not in nulls)
        return self._make(
            ("delete_same", nulls),
            lambda: _SQL("delete from {} t where {}").format(self.target.only, self._same(0, nulls)),
            matched,
        )

    def _changing(self, known: tuple[int, ...], where: sql.Composable) -> sql.Composable:
        """An update; or, where UPDATE may not set an identity column, out and in again in one statement."""
        if not self.moves:
            if not known:
                return _SQL("select 1 from {} t where {}").format(self.target.identifier, where)
            assignments = _COMMA.join(
                _SQL("{} = {}").format(self._name(n), _SQL(f"${place}")) for place, n in enumerate(known, 1)
            )
            return _SQL("update {} t set {} where {}").format(self.target.only, assignments, where)
        given = {self.relation.columns[n].name: place for place, n in enumerate(known, 1)}
        own = [column.name for column in self.target.columns.values() if not column.generated]
        return _SQL(
            "with gone as (delete from {} t where {} returning t.*)"
            " insert into {} ({}) overriding system value select {} from gone"
        ).format(
            self.target.only,
            where,
            self.target.identifier,
            _COMMA.join(map(sql.Identifier, own)),
            _COMMA.join(_SQL(f"${given[name]}") if name in given else sql.Identifier(name) for name in own),
        )

    def _keyed(self, before: int) -> sql.Composable:
        return _AND.join(self._equal(n, _SQL(f"${place}")) for place, n in enumerate(self.key, before + 1))

    def _same(self, before: int, nulls: tuple[int, ...]) -> sql.Composable:
        tests: list[sql.Composable] = []
        place = before
        for n in self.columns:
            column = _SQL("m.{}").format(self._name(n))
            if n in nulls:
                tests.append(_SQL("{} is not distinct from null").format(column))
                continue
            place += 1
            tests.append(self._identical(n, column, self._cast(n, _SQL(f"${place}"))))
        address = _SQL("ctid") if self.target.kind == "r" else _SQL("tableoid, ctid")
        shape = "({}) = (select {} from {} m where {} limit 1)"
        return _SQL(shape).format(
            address, address, self.target.only, _AND.join(tests) if tests else _SQL("true")
        )

    def _identical(self, n: int, column: sql.Composable, value: sql.Composable) -> sql.Composable:
        kind = self._held[n].type
        if kind in _EXACT:
            return _SQL("{} operator(pg_catalog.=) {}").format(column, value)
        if kind in _COLLATED:
            return _SQL('{} operator(pg_catalog.=) {} collate "C"').format(column, value)
        return _SQL('{}::text operator(pg_catalog.=) {}::text collate "C"').format(column, value)

    # -- pieces -------------------------------------------------------------------------------------------------

    def _make(
        self, key: object, build: Callable[[], sql.Composable], numbers: Sequence[int] = ()
    ) -> Prepared:
        made = self._made.get(key)
        if made is None:
            types = tuple(self.binding.wire[n] for n in numbers)
            made = Prepared(f"{self.prefix}{len(self._made)}", build().as_bytes(), types)
            self._made[key] = made
        return made

    def _stage(self, stage: Stage) -> sql.Identifier:
        return sql.Identifier("pg_temp", f"{_STAGES[stage]}_{self._number}")

    def _name(self, n: int) -> sql.Identifier:
        return sql.Identifier(self.relation.columns[n].name)

    def _names(self, numbers: Iterable[int]) -> sql.Composable:
        return _COMMA.join(map(self._name, numbers))

    def _settable(self, known: Iterable[int]) -> list[int]:
        return [n for n in known if n in self.columns and n not in self.key and n not in self._always]

    def _conflict(self) -> sql.Composable:
        """Where the key is there already, the other columns are set."""
        if not self.key:
            return _SQL("")
        rest = _COMMA.join(
            _SQL("{} = excluded.{}").format(self._name(n), self._name(n))
            for n in self._settable(self.columns)
        )
        action = _SQL("update set {}").format(rest) if self._settable(self.columns) else _SQL("nothing")
        return _SQL(" on conflict ({}) do {}").format(self._names(self.key), action)

    def _joined(self) -> sql.Composable:
        return _AND.join(self._equal(n, _SQL("s.{}").format(_column(n))) for n in self.key)

    def _equal(self, n: int, value: sql.Composable) -> sql.Composable:
        """By the operator of the unique index: an extension's type has its own, and no search_path finds it."""
        name = self.relation.columns[n].name
        index = self.target.key_over(frozenset(self.relation.columns[k].name for k in self.key)) or ()
        schema, operator = next(((s, o) for c, s, o in index if c == name), ("pg_catalog", "="))
        return _SQL("t.{} operator({}.{}) {}").format(
            self._name(n), sql.Identifier(schema), _SQL(operator), self._cast(n, value)
        )

    def _cast(self, n: int, value: sql.Composable) -> sql.Composable:
        if self.binding.wire[n] == self._held[n].type:
            return value
        return _SQL("{}::{}").format(value, _SQL(self._held[n].sql_type))


def _copy(table: sql.Composable, names: Iterable[str], format: str) -> bytes:
    columns = _COMMA.join(map(sql.Identifier, names))
    return _SQL("copy {} ({}) from stdin (format {})").format(table, columns, _SQL(format)).as_bytes()


def _column(n: int) -> sql.Identifier:
    return sql.Identifier(f"c{n}")


def _parameters(count: int) -> sql.Composable:
    return _COMMA.join(_SQL(f"${n}") for n in range(1, count + 1))
