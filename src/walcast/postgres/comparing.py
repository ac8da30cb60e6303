"""A table of a PostgreSQL server for comparison: canonical forms, hashes and sums, computed by the server.

Both the source and a copy in PostgreSQL are read with this. Every session has an empty search_path (see `connect`), so
that nothing planted in a schema is called; types are written by their output functions, never by a cast that somebody
may have defined.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from walcast.model import TypeInfo
from walcast.model.comparing import NULL, SEPARATOR, Digest, Form, Key, Span, by_key
from walcast.postgres.connect import Connection

_SQL = sql.SQL
_COMMA = sql.SQL(", ")
_ARGUMENTS: Final = 90
"""A function takes 100."""
_PIECE: Final = 5000
_TEXTUAL: Final = frozenset(
    {"int2", "int4", "int8", "oid", "xid8", "numeric", "bool", "float4", "float8", "bytea", "uuid", "pg_lsn"}
    | {"date", "time", "timetz", "timestamp", "timestamptz", "interval"}
)
"""Built-in types whose text has neither separator nor null mark, and whose cast to text is the server's own."""
_STRINGS: Final = frozenset({"text", "varchar", "bpchar", "name"})
_NAMED_OIDS: Final = frozenset(
    {"regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype", "regconfig", "regdictionary"}
    | {"regrole", "regnamespace", "regcollation", "regdatabase"}
)
_ORDERED: Final = frozenset(
    {"int2", "int4", "int8", "oid", "uuid", "date", "timestamp", "timestamptz", "numeric", "bytea"}
)
"""Types that every server orders in the same way; text is ordered by its collation."""


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """A column of this side. `sql_type` is what a bound of a span is cast to."""

    name: str
    type: TypeInfo
    sql_type: str


def natural_form(info: TypeInfo) -> Form:
    """The form in which two PostgreSQL servers compare a column."""
    base = info.base
    if base.schema != "pg_catalog" or base.kind != "base":
        return "string" if base.kind == "enum" else "hashed"
    if base.name in _TEXTUAL or base.name in _NAMED_OIDS:
        return "text"
    return "string" if base.name in _STRINGS else "hashed"


def ordered(types: Sequence[TypeInfo]) -> bool:
    """Whether rows with such a key have one order everywhere."""
    return bool(types) and all(
        base.name in _ORDERED and base.schema == "pg_catalog" for base in (info.base for info in types)
    )


class PostgresTable:
    """Implements `walcast.model.comparing.ComparableTable` over a connection whose transaction has a snapshot.

    `source` is the table as SQL names it (`only a.b`), `condition` a row filter, `key` the names of the key's columns.
    One call at a time.
    """

    def __init__(
        self,
        connection: Connection,
        source: sql.Composable,
        columns: Sequence[ComparedColumn],
        key: Sequence[str],
        forms: Mapping[str, Form],
        *,
        condition: sql.Composable | None = None,
    ) -> None:
        self._connection = connection
        self._source = source
        self._columns = {column.name: column for column in columns}
        self._key = tuple(key)
        self._condition = condition
        self._utf8 = connection.info.parameter_status("server_encoding") == "UTF8"
        self.choose(forms)

    def choose(self, forms: Mapping[str, Form]) -> None:
        self._forms = dict(forms)
        self._hash = self._hashed(_row([self.form(name) for name in forms]))

    async def digest(self, span: Span, buckets: int) -> dict[int, Digest]:
        if buckets <= 1:  # without a subquery, so that the server may use several processes
            statement = _SQL(
                "select 0, pg_catalog.count(*), coalesce(pg_catalog.sum({}), 0)::text from {}{}"
            ).format(self._hash, self._source, self._where(span))
        else:
            statement = _SQL(
                "select (h % {})::int4, pg_catalog.count(*), pg_catalog.sum(h)::text from (select {} as h from {}{} offset 0) q"
                " group by 1"
            ).format(sql.Literal(buckets), self._hash, self._source, self._where(span))
        rows = await (await self._connection.execute(statement)).fetchall()
        return {bucket: Digest(count, int(total)) for bucket, count, total in rows if count}

    async def rows(
        self, span: Span, buckets: int, only: Sequence[int]
    ) -> AsyncIterator[Sequence[tuple[Key, int]]]:
        listed = _SQL("select {}{} as h from {}{} offset 0").format(
            self._keys(", "), self._hash, self._source, self._where(span)
        )
        statement = _SQL("select * from ({}) q").format(listed)
        if buckets > 1:
            numbers = _COMMA.join(map(sql.Literal, only))
            statement = _SQL("{} where (h % {})::int4 in ({})").format(
                statement, sql.Literal(buckets), numbers
            )
        async with self._connection.cursor(name="walcast_rows") as cursor:
            await cursor.execute(statement)
            while found := await cursor.fetchmany(_PIECE):
                yield [(tuple(row[:-1]), row[-1]) for row in found]

    async def values(self, keys: Sequence[Key]) -> dict[Key, tuple[str, ...]]:
        if not keys:
            return {}
        forms = _COMMA.join(self.form(name) for name in self._forms)
        statement = _SQL("select {}{} from {}{}").format(
            self._keys(", "), forms, self._source, self._where(Span(), self.among(keys))
        )
        rows = await (await self._connection.execute(statement)).fetchall()
        return by_key(rows, len(self._key))

    async def bound(self, lower: tuple[str, ...] | None, rows: int) -> tuple[str, ...] | None:
        """The key that is `rows` rows after `lower`; None when there are not so many."""
        names = _COMMA.join(sql.Identifier(name) for name in self._key)
        # Under a name of its own: `order by` takes a column of the result for one of the table, and would sort text.
        texts = _COMMA.join(
            _SQL("{} as {}").format(
                _output(sql.Identifier(name), self._columns[name].type),
                sql.Identifier(f"walcast bound {number}"),
            )
            for number, name in enumerate(self._key)
        )
        statement = _SQL("select {} from {}{} order by {} offset {} limit 1").format(
            texts, self._source, self._where(Span(lower)), names, sql.Literal(rows - 1)
        )
        found = await (await self._connection.execute(statement)).fetchone()
        return None if found is None else tuple(found)

    async def raw(
        self, chosen: Sequence[Key] | Span, columns: Sequence[str]
    ) -> list[tuple[Key, tuple[bytes | None, ...]]]:
        """The rows with these keys or of this span, each column as the server's text of it: what the stream would send."""
        names = _COMMA.join(_output(sql.Identifier(name), self._columns[name].type) for name in columns)
        where = self._where(chosen) if isinstance(chosen, Span) else self._where(Span(), self.among(chosen))
        statement = _SQL("select {}{} from {}{}").format(self._keys(", "), names, self._source, where)
        cursor = await self._connection.execute(statement)
        result, width = cursor.pgresult, len(self._key)
        assert result is not None
        found = []
        for number in range(result.ntuples):
            values = [result.get_value(number, place) for place in range(result.nfields)]
            key = tuple((value or b"").decode() for value in values[:width])
            found.append((key, tuple(values[width:])))
        return found

    def form(self, name: str) -> sql.Composable:
        """The expression for a column's form; never null."""
        column, form = sql.Identifier(name), self._forms[name]
        info = self._columns[name].type.base
        if form == "float8":
            bits = _SQL("pg_catalog.float8send({}::pg_catalog.float8)::text").format(column)
            written: sql.Composable = _SQL("case when {}::text = 'NaN' then 'nan' else {} end").format(
                column, bits
            )
        elif form == "list":
            written = _SQL(
                "(select pg_catalog.concat(pg_catalog.count(*), '[', pg_catalog.string_agg(case when x is null"
                " then '~' else pg_catalog.concat(pg_catalog.length({0}), ':', {0}) end, ',' order by n), ']')"
                " from pg_catalog.unnest({1}) with ordinality u(x, n))"
            ).format(_plain(_SQL("x"), info.element.base if info.element else info), column)
        elif form == "hashed":
            written = self._md5(_plain(column, info))
        elif form == "string":
            written = _SQL("pg_catalog.concat(pg_catalog.length({0}), ':', {0})").format(_plain(column, info))
        else:
            written = _plain(column, info)
        return _SQL("case when pg_catalog.num_nulls({}) = 0 then {} else {} end").format(
            column, written, sql.Literal(NULL)
        )

    def among(self, keys: Sequence[Key]) -> sql.Composable:
        """The condition that a row has one of these keys; by the key's index where the form can be read back."""
        readable = [
            self._forms[name] in ("text", "string") and _has_equality(self._columns[name].type)
            for name in self._key
        ]
        tuples = []
        for key in keys:
            values = [
                self._typed(name, unformed(self._forms[name], text)) if known else sql.Literal(text)
                for name, text, known in zip(self._key, key, readable, strict=True)
            ]
            tuples.append(_SQL("({})").format(_COMMA.join(values)))
        names = [
            sql.Identifier(name) if known else self.form(name)
            for name, known in zip(self._key, readable, strict=True)
        ]
        return _SQL("({}) in ({})").format(_COMMA.join(names), _COMMA.join(tuples))

    def _typed(self, name: str, text: str) -> sql.Composable:
        return _SQL("{}::{}").format(sql.Literal(text), _SQL(_trusted(self._columns[name].sql_type)))

    def _where(self, span: Span, more: sql.Composable | None = None) -> sql.Composable:
        conditions: list[sql.Composable] = (
            [] if self._condition is None else [_SQL("({})").format(self._condition)]
        )
        names = _COMMA.join(sql.Identifier(name) for name in self._key)
        for bound, operator in ((span.lower, ">"), (span.upper, "<=")):
            if bound is not None:
                values = _COMMA.join(
                    self._typed(name, text) for name, text in zip(self._key, bound, strict=True)
                )
                conditions.append(_SQL("({}) " + operator + " ({})").format(names, values))
        if more is not None:
            conditions.append(more)
        return _SQL(" where ") + _SQL(" and ").join(conditions) if conditions else _SQL("")

    def _keys(self, after: LiteralString) -> sql.Composable:
        if not self._key:
            return _SQL("")
        return _COMMA.join(self.form(name) for name in self._key) + _SQL(after)

    def _hashed(self, row: sql.Composable) -> sql.Composable:
        return _SQL("('x' || pg_catalog.substr({}, 1, 15))::bit(60)::int8").format(self._md5(row))

    def _md5(self, text: sql.Composable) -> sql.Composable:
        if self._utf8:
            return _SQL("pg_catalog.md5({})").format(text)
        return _SQL("pg_catalog.md5(pg_catalog.convert_to({}, 'UTF8'))").format(text)


def _has_equality(info: TypeInfo) -> bool:
    """Whether `=` is the server's own: an extension's type brings one that no empty search_path finds."""
    return info.base.schema == "pg_catalog" or info.base.kind == "enum"


def unformed(form: Form, text: str) -> str:
    """PostgreSQL's text of a value, from its form `text` or `string`."""
    return text.partition(":")[2] if form == "string" else text


def _plain(column: sql.Composable, info: TypeInfo) -> sql.Composable:
    """The text that stands in a form."""
    if info.schema == "pg_catalog" and info.name in _TEXTUAL and info.kind == "base":
        return _SQL("{}::text").format(column)  # true and false, not t and f
    return _output(column, info)


def _output(column: sql.Composable, info: TypeInfo) -> sql.Composable:
    """What the type's output function makes of a value; null of null. A cast would strip a `char`, and may be
    somebody's own; the name of an oid is another in each database."""
    base = info.base
    builtin = base.schema == "pg_catalog" and base.kind == "base"
    if builtin and base.name in _NAMED_OIDS:
        return _SQL("{}::pg_catalog.oid::text").format(column)
    if (builtin and base.name in ("text", "varchar")) or (builtin and base.name in _TEXTUAL - {"bool"}):
        return _SQL("{}::text").format(column)
    return _SQL("case when pg_catalog.num_nulls({0}) = 0 then pg_catalog.concat({0}) end").format(column)


def _row(forms: Sequence[sql.Composable]) -> sql.Composable:
    """One text of all forms."""
    while len(forms) > _ARGUMENTS:
        forms = [_joined(forms[at : at + _ARGUMENTS]) for at in range(0, len(forms), _ARGUMENTS)]
    return _joined(forms)


def _joined(forms: Sequence[sql.Composable]) -> sql.Composable:
    return _SQL("pg_catalog.concat_ws({}, {})").format(sql.Literal(SEPARATOR), _COMMA.join(forms))


def _trusted(sql_type: str) -> Any:
    """The server's own name of a type, from its catalog (format_type with an empty search_path qualifies it)."""
    return sql_type


def explained(error: psycopg.Error) -> str:
    """The server's message without the values that it may quote."""
    return error.diag.message_primary or type(error).__name__
