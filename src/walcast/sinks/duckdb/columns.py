"""Which DuckDB type holds a PostgreSQL column, and the SQL that loads a value into it.

A type is chosen so that every value fits; where DuckDB has none, the column is VARCHAR and holds PostgreSQL's own
text. The few values that still do not fit (NaN in a decimal, a timestamp after 294246, a lone surrogate in json)
fail the cast, loudly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from walcast.model import Column, TypeInfo

_PLAIN: Final = {
    "bool": "BOOLEAN",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "oid": "UINTEGER",
    "xid": "UINTEGER",
    "cid": "UINTEGER",
    "xid8": "UBIGINT",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "bytea": "BLOB",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "time": "TIME",
    "timetz": "TIME WITH TIME ZONE",
    "uuid": "UUID",
    "json": "JSON",
    "jsonb": "JSON",
}
FLOATS: Final = frozenset({"FLOAT", "DOUBLE"})
_ERAS: Final = frozenset({"DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"})
_INFINITE: Final = frozenset({"TIMESTAMP", "TIMESTAMP WITH TIME ZONE"})
_TEMPORAL: Final = frozenset({*_ERAS, "TIME"})

OUT_OF_RANGE: Final = "walcast: this value is out of DuckDB's range"


@dataclass(frozen=True, slots=True)
class ColumnChoices:
    """The types a user chose."""

    numeric: Literal["decimal", "text", "float"] = "decimal"
    json: Literal["json", "text"] = "json"
    arrays: Literal["text", "list"] = "text"


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def duckdb_type(column: Column, choices: ColumnChoices) -> str:
    """The DuckDB type of a column, spelled as DuckDB's catalog spells it."""
    return _type(column.type.base, column.typmod, choices)


def _type(info: TypeInfo, typmod: int, choices: ColumnChoices) -> str:
    if info.kind == "array" and info.element is not None and choices.arrays == "list":
        return _type(info.element.base, typmod, choices) + "[]"
    if info.schema != "pg_catalog" or info.kind != "base":
        return "VARCHAR"
    if info.name == "numeric":
        return _numeric(typmod, choices)
    if info.name in ("json", "jsonb") and choices.json == "text":
        return "VARCHAR"
    return _PLAIN.get(info.name, "VARCHAR")


def _numeric(typmod: int, choices: ColumnChoices) -> str:
    """numeric without a precision, or with one that DuckDB does not have, is text: no digit may go missing."""
    if choices.numeric == "float":
        return "DOUBLE"
    if choices.numeric == "text" or typmod < 4:
        return "VARCHAR"
    precision = (typmod - 4) >> 16 & 0xFFFF
    scale = ((typmod - 4) & 0x7FF ^ 1024) - 1024  # 11 bits, signed since PostgreSQL 15
    if scale < 0 or max(precision, scale) > 38:
        return "VARCHAR"
    # With a digit before the point DuckDB prints 0.5 and not .5; and numeric(3,5) has no digit before it either.
    return f"DECIMAL({min(38, max(precision, scale + 1))},{scale})"


def is_temporal(target: str) -> bool:
    """Whether a column travels faster as native dates and times, and more widely as text."""
    return target.removesuffix("[]") in _TEMPORAL


def loaded(value: str, target: str, native: bool) -> str:
    """The expression that makes `value` (an Arrow column's name) a `target`.

    `native`: dates and times travel as such, not as text. Then DuckDB would read the one microsecond below 2^63
    as infinity. As text, DuckDB ignores a trailing `BC` in timestamps: the era goes where DuckDB looks for it.
    """
    if target.endswith("[]"):
        inner = loaded("x", target.removesuffix("[]"), native)
        return value if inner == "x" else f"cast(list_transform({value}, lambda x: {inner}) as {target})"
    if native and target in _INFINITE:
        return f"cast(if(isinf({value}), error({literal(OUT_OF_RANGE)}), {value}) as {target})"
    if not native and target in _ERAS:
        era = rf"if({value} like '% BC', regexp_replace({value}, '^(\S+)(.*) BC$', '\1 (BC)\2'), {value})"
        return f"cast({era} as {target})"
    return f"cast({value} as {target})"


def from_text(value: str, target: str) -> str:
    """The expression that makes PostgreSQL's text of a value a `target`."""
    if target == "BLOB":
        return f"unhex(substring({value}, 3))"
    return loaded(value, target, native=False)


def exact(value: str, target: str) -> str:
    """An expression that is equal only for identical values: for floats -0 is not 0, and their text tells them apart."""
    return f"cast({value} as varchar)" if target in FLOATS or target.endswith("[]") else value


_STRINGS: Final = frozenset({"text", "varchar"})
_LOOSENED: Final = frozenset({"timestamp", "timestamptz", "time", "timetz", "varbit"})


@dataclass(frozen=True, slots=True)
class SourceType:
    """What a column was at the source: enough to tell what an `alter table ... type` did to the values."""

    oid: int
    name: str
    typmod: int

    @classmethod
    def of(cls, column: Column) -> SourceType:
        info = column.type.base
        name = info.name if info.schema == "pg_catalog" else f"{info.schema}.{info.name}"
        return cls(info.oid, name, column.typmod)


def same_values(old: SourceType, new: SourceType) -> bool:
    """Whether a retyped column whose DuckDB type stays the same kept its values, too.

    PostgreSQL sends nothing for the rows that it rewrote: a shorter timestamp was rounded, a text turned into an
    enum may have been anything.
    """
    if old.oid != new.oid and old.name != new.name:
        return {old.name.removeprefix("_"), new.name.removeprefix("_")} <= _STRINGS
    name = new.name.removeprefix("_")
    if old.typmod == new.typmod or name in _STRINGS:
        return True
    if new.typmod == -1:
        return name != "bpchar"
    if name == "numeric":
        grown = (new.typmod - 4) >> 16 >= (old.typmod - 4) >> 16
        return old.typmod >= 4 and grown and (new.typmod - 4) & 0x7FF == (old.typmod - 4) & 0x7FF
    return name in _LOOSENED and -1 < old.typmod < new.typmod


def follows(old_target: str, old: SourceType, new_target: str, new: SourceType) -> bool:
    """Whether DuckDB can take a column from one type to another and have exactly the values that PostgreSQL has now."""
    if old_target == new_target:
        return same_values(old, new)
    if new_target == "VARCHAR" and old == new:
        return old_target == "JSON" or old_target.startswith("DECIMAL(")
    if old_target in _INTEGERS:
        if new_target == "VARCHAR":
            return new.name in _STRINGS or (new.name, new.typmod) == ("numeric", -1)
        return new_target in _INTEGERS and _INTEGERS.index(new_target) > _INTEGERS.index(old_target)
    if old_target.startswith("DECIMAL("):
        if new_target == "VARCHAR":
            return new.name in _STRINGS or (new.name, new.typmod) == ("numeric", -1)
        precision, scale = _decimal(old_target)
        wider, finer = _decimal(new_target) if new_target.startswith("DECIMAL(") else (0, -1)
        return finer >= scale and wider - finer >= precision - scale
    return (old_target, new_target, new.name) == ("FLOAT", "DOUBLE", "float8")


_INTEGERS: Final = ("SMALLINT", "INTEGER", "BIGINT")


def _decimal(target: str) -> tuple[int, int]:
    precision, scale = target[len("DECIMAL(") : -1].split(",")
    return int(precision), int(scale)
