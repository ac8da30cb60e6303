"""The copy as it is at one moment, to be compared with its source: DuckDB writes the forms and sums the hashes.

A column is compared in the type that the copy holds it in: text in VARCHAR as PostgreSQL's own text, numbers in DECIMAL
and dates by the text that both print the same, floats by their bits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import duckdb

from walcast.model import Column, Relation, TableId
from walcast.model.comparing import NULL, SEPARATOR, Digest, Form, Key, Span, by_key
from walcast.sinks.duckdb.columns import from_text, literal, quoted
from walcast.sinks.duckdb.faults import translated
from walcast.sinks.duckdb.store import Store

_PIECE: Final = 5000
_FLOATS: Final = frozenset({"FLOAT", "DOUBLE"})
_STRINGS: Final = frozenset({"VARCHAR", "JSON"})
_ORDERED: Final = frozenset(
    {
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "UINTEGER",
        "UUID",
        "DATE",
        "TIMESTAMP",
        "TIMESTAMP WITH TIME ZONE",
        "BLOB",
    }
)
_TARGET: Final = """select target_schema, target_table from _walcast.tables
    where pipeline = ? and sink = ? and source_schema = ? and source_table = ?"""
_COLUMNS: Final = """select column_name, data_type from duckdb_columns()
    where database_name = current_database() and lower(schema_name) = lower(?) and lower(table_name) = lower(?)"""
_BITS: Final = "create_sort_key({c}, 'ASC NULLS LAST')"
"""The bits of a float, in an order that compares as bytes: a mark, then the sign turned; all turned when it is negative."""


def form_of(target: str) -> Form | None:
    """How a column of this DuckDB type is compared; None: it cannot be."""
    if target.endswith("[]"):
        inner = form_of(target.removesuffix("[]"))
        return "list" if inner in ("text", "string") else None
    if target in _STRINGS:
        return "string"
    return "float8" if target in _FLOATS else "text"


def written(column: str, target: str, form: Form) -> str:
    """The expression of a column's form; `column` is an expression. Never null."""
    if form == "float8":
        text = _bits(f"cast({column} as double)")
    elif form == "list":
        inner = target.removesuffix("[]")
        element = f"coalesce(length({_text('x', inner)}) || ':' || {_text('x', inner)}, '~')"
        text = f"len({column}) || '[' || array_to_string(list_transform({column}, lambda x: {element}), ',') || ']'"
    elif form == "string":
        plain = _text(column, target)
        text = f"length({plain}) || ':' || {plain}"
    else:
        text = _text(column, target)
    return f"coalesce({text}, {literal(NULL)})"


def _text(value: str, target: str) -> str:
    """PostgreSQL's text of a value."""
    if target == "BLOB":
        return f"('\\x' || lower(hex({value})))"
    text = f"cast({value} as varchar)"
    if target == "TIMESTAMP WITH TIME ZONE":
        utc = f"cast(({value}) at time zone 'UTC' as varchar) || '+00'"
        text = f"if(isinf({value}), {text}, {utc})"
    if target in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        return f"if({text} like '% (BC)%', replace({text}, ' (BC)', '') || ' BC', {text})"
    return text


def _bits(value: str) -> str:
    digits = f"lower(substr(hex({_BITS.format(c=value)}), 3))"
    turned = f"translate({digits}, '0123456789abcdef', 'fedcba9876543210')"
    kept = f"translate(left({digits}, 1), '89abcdef', '01234567') || substr({digits}, 2)"
    return (
        f"case when isnan({value}) then 'nan'"
        f" when isinf({value}) then if({value} < 0, '\\xfff0000000000000', '\\x7ff0000000000000')"
        f" when {value} = 0 then if(cast({value} as varchar) like '-%', '\\x8', '\\x0') || '000000000000000'"
        f" when {value} > 0 then '\\x' || {kept} when {value} < 0 then '\\x' || {turned} end"
    )


class DuckDBView:
    """Implements `walcast.model.comparing.CopyView`: one read transaction, over a connection of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._tables: dict[TableId, CopiedDuckDBTable] = {}

    async def open(self, relations: Sequence[Relation]) -> None:
        await self.store.beside(self._open, relations)
        self.store.views.add(self)

    async def table(self, relation: Relation) -> CopiedDuckDBTable | None:
        return self._tables.get(relation.table)

    async def close(self) -> None:
        self.store.views.discard(self)
        await self.store.beside(self.end)

    def end(self) -> None:
        """Ends the transaction; whatever reads in it fails."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()

    def interrupt(self) -> None:
        if self._cursor is not None:
            self._cursor.interrupt()

    def fetch(self, statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
        return self.execute(statement, parameters).fetchall()

    def execute(self, statement: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        with translated(self.store.path):
            if self._cursor is None:
                raise duckdb.InterruptException("the view was closed")
            return self._cursor.execute(statement, parameters)

    def _open(self, relations: Sequence[Relation]) -> None:
        self._cursor = self.store.cursor()
        self.execute("set TimeZone = 'UTC'")
        self.execute("begin transaction read only")
        for relation in relations:  # the first read takes the snapshot
            for schema, name in self.fetch(_TARGET, [*self.store.owner, *relation.table]):
                types = dict(self.fetch(_COLUMNS, [schema, name]))
                self._tables[relation.table] = CopiedDuckDBTable(
                    self, f"{quoted(schema)}.{quoted(name)}", relation, types
                )


class CopiedDuckDBTable:
    """Implements `walcast.model.comparing.CopiedTable`."""

    def __init__(self, view: DuckDBView, name: str, relation: Relation, types: Mapping[str, str]) -> None:
        self._view = view
        self._name = name
        self._types = types
        self._key = [relation.columns[number] for number in relation.key]
        self.forms: dict[str, Form] = {}
        for column in relation.columns:
            form = form_of(types[column.name]) if column.name in types else None
            if form is not None:
                self.forms[column.name] = form
        self.ordered = bool(self._key) and all(
            self._target(column) in _ORDERED or self._target(column).startswith("DECIMAL(")
            for column in self._key
        )
        self.choose(self.forms)

    def choose(self, forms: Mapping[str, Form]) -> None:
        self._chosen = dict(forms)
        row = f"concat_ws({literal(SEPARATOR)}, {', '.join(self._form(name) for name in forms)})"
        self._hash = f"cast('0x' || substr(md5({row}), 1, 15) as bigint)"

    async def digest(self, span: Span, buckets: int) -> dict[int, Digest]:
        statement = (
            f"select h % {buckets}, count(*), cast(sum(h) as varchar) from"
            f" (select {self._hash} as h from {self._name}{self._where(span)}) group by 1"
        )
        rows = await self._view.store.beside(self._view.fetch, statement)
        return {bucket: Digest(count, int(total)) for bucket, count, total in rows}

    async def rows(
        self, span: Span, buckets: int, only: Sequence[int]
    ) -> AsyncIterator[Sequence[tuple[Key, int]]]:
        keys = "".join(f"{self._form(column.name)}, " for column in self._key)
        numbers = ", ".join(map(str, only))
        statement = (
            f"select * from (select {keys}{self._hash} as h from {self._name}{self._where(span)})"
            f" where h % {buckets} in ({numbers})"
        )
        beside = self._view.store.beside
        result = await beside(self._view.execute, statement)
        while found := await beside(result.fetchmany, _PIECE):
            yield [(tuple(row[:-1]), row[-1]) for row in found]

    async def values(self, keys: Sequence[Key]) -> dict[Key, tuple[str, ...]]:
        if not keys:
            return {}
        listed = ", ".join(self._form(column.name) for column in self._key)
        wanted = ", ".join("(" + ", ".join(map(literal, key)) + ")" for key in keys)
        forms = ", ".join(self._form(name) for name in self._chosen)
        statement = f"select {listed}, {forms} from {self._name} where ({listed}) in ({wanted})"
        rows = await self._view.store.beside(self._view.fetch, statement)
        return by_key(rows, len(self._key))

    def _target(self, column: Column) -> str:
        return self._types.get(column.name, "")

    def _form(self, name: str) -> str:
        return written(quoted(name), self._types[name], self._chosen[name])

    def _where(self, span: Span) -> str:
        conditions = [
            self._beyond(bound, operator, last)
            for bound, operator, last in ((span.lower, ">", ">"), (span.upper, "<", "<="))
            if bound is not None
        ]
        return f" where {' and '.join(conditions)}" if conditions else ""

    def _beyond(self, bound: tuple[str, ...], operator: str, last: str) -> str:
        """A comparison of keys, column by column: so DuckDB skips what its statistics rule out."""
        column, *_ = self._key[len(self._key) - len(bound) :]
        name, value = quoted(column.name), from_text(literal(bound[0]), self._target(column))
        if len(bound) == 1:
            return f"{name} {last} {value}"
        rest = self._beyond(bound[1:], operator, last)
        return f"({name} {operator} {value} or ({name} = {value} and {rest}))"
