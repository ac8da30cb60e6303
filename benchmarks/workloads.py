"""Tables and what is done to them: the backlogs that are replicated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psycopg import sql

_COLUMNS = "id bigint primary key, customer integer, amount float8, at timestamptz, note text"
_VALUES = "select n, n % 1000, n / 3.0, '2026-01-01'::timestamptz + n * interval '1 s', 'note ' || n"


@dataclass(frozen=True, slots=True)
class Workload:
    """`setup` makes and fills the table, before the slot; `work` is what is replicated, and says how many changes."""

    table: str
    setup: tuple[str, ...]
    work: Callable[[Any], int]


def one_transaction(table: str, rows: int) -> Workload:
    """All rows in one insert."""
    return Workload(table, (create(table),), _once(fill(table, rows), rows))


def inserts(table: str, rows: int) -> Workload:
    """New rows, 1,000 in a transaction."""
    thousand = f"{_insert(table)} {_VALUES} from generate_series(i * 1000 - 999, i * 1000) n"
    return Workload(table, (create(table),), _each(rows, 1000, thousand))


def one_row_transactions(table: str, rows: int) -> Workload:
    """Each row in a transaction of its own."""
    return Workload(
        table, (create(table),), _each(rows, 1, f"{_insert(table)} {_VALUES} from (select i as n)")
    )


def wide_rows(table: str, rows: int) -> Workload:
    """Rows of 1.2 KB that are not moved out of line, in one insert."""
    wide = f"{_insert(table)} select n, n % 1000, n / 3.0, now(), {_wide()} from generate_series(1, {rows}) n"
    return Workload(table, (create(table),), _once(wide, rows))


def updates(table: str, rows: int) -> Workload:
    """Every row updated once, 100 in a transaction."""
    change = f"update {table} set amount = amount + 1, note = note || '.' where {_hundred()}"
    return Workload(table, (create(table), fill(table, rows)), _each(rows, 100, change))


def deletes(table: str, rows: int) -> Workload:
    """Every row deleted, 100 in a transaction."""
    change = f"delete from {table} where {_hundred()}"
    return Workload(table, (create(table), fill(table, rows)), _each(rows, 100, change))


def create(table: str) -> str:
    return f"create table {table} ({_COLUMNS})"


def fill(table: str, rows: int) -> str:
    return f"{_insert(table)} {_VALUES} from generate_series(1, {rows}) n"


def fill_wide(table: str, rows: int) -> str:
    return f"{_insert(table)} select n, n % 1000, n / 3.0, now(), {_wide()} from generate_series(1, {rows}) n"


def _insert(table: str) -> str:
    return f"insert into {table}"


def _hundred() -> str:
    return "id between i * 100 - 99 and i * 100"


def _wide() -> str:
    return "repeat(md5(n::text), 36)"


def _once(statement: str, rows: int) -> Callable[[Any], int]:
    def work(connection: Any) -> int:
        connection.execute(statement)
        return rows

    return work


def _each(rows: int, by: int, statement: str) -> Callable[[Any], int]:
    """The statement for i = 1, 2, ..., each committed without waiting for the disk."""

    def work(connection: Any) -> int:
        connection.execute("set synchronous_commit = off")
        loop = "do $$ begin for i in 1..{} loop {}; commit; end loop; end $$"
        connection.execute(sql.SQL(loop).format(sql.Literal(rows // by), sql.SQL(statement)))
        connection.execute("set synchronous_commit = on")
        return rows

    return work
