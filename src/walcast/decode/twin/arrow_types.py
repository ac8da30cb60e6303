"""Which Arrow type each type becomes, and how its values are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from walcast.decode.twin.catalog import PyCatalog
from walcast.decode.values.cursor import F32, F64, I16, I32, I64, U32, U64, utf8, whole
from walcast.decode.values.literals import array_literal
from walcast.decode.values.nested import array_items
from walcast.decode.values.temporal import day_of, microseconds_of
from walcast.model import DecodeError, TypeInfo, ValueRangeError

Load = Callable[[int, bytes], Any]
"""The kind of a value (t or b) and its bytes to what pyarrow takes for it."""

_TEXT = ord("t")
_DAYS_TO_2000 = 10_957
_MICROS_TO_2000 = _DAYS_TO_2000 * 86_400_000_000
_DAY = 86_400_000_000
_MOST_DIGITS = 38
_EXACT = Context(prec=200_000)
_TIME_HINT = "let dates and times travel as text: infinity and 24:00 have no place in Arrow's types"
_NUMERIC_HINT = "let numeric travel as text: NaN, infinities and more digits have no place there"


@dataclass(frozen=True, slots=True)
class Reading:
    """`type` is the Arrow type; the values are built as `storage` and cast, where Python's range is smaller."""

    type: Any
    load: Load
    storage: Any


def reading(pa: Any, catalog: PyCatalog, oid: int, typmod: int, choices: tuple[str, str, str]) -> Reading:
    """How a column of this type becomes Arrow under these choices (numeric, temporal, arrays)."""
    numeric, temporal, arrays = choices
    if numeric not in ("text", "decimal", "float") or temporal not in ("text", "native"):
        raise ValueError(f"unknown choice: {choices}")
    if arrays not in ("text", "list"):
        raise ValueError(f"unknown choice: {choices}")
    info = catalog.type(oid).base
    if info.kind == "array" and info.element is not None and arrays == "list":
        # Arrays of domains over arrays stay text inside.
        item = reading(pa, catalog, info.element.oid, typmod, (numeric, temporal, "text"))
        storage = pa.list_(pa.field("item", item.storage))
        return Reading(pa.list_(pa.field("item", item.type)), _list_loader(info.element, item.load), storage)
    found = _narrowed(pa, info.oid, typmod, numeric, temporal) or _plain(pa, info.oid)
    if found is None:
        oid = info.oid
        return Reading(pa.string(), lambda kind, value: catalog.text(oid, kind, value), pa.string())
    return found


def _plain(pa: Any, oid: int) -> Reading | None:
    """Types whose Arrow type holds every value."""
    if oid == 17:
        return Reading(pa.binary(), _bytea, pa.binary())
    numbers: dict[int, tuple[Any, Any]] = {
        20: (pa.int64(), I64),
        21: (pa.int16(), I16),
        23: (pa.int32(), I32),
        26: (pa.uint32(), U32),
        28: (pa.uint32(), U32),
        29: (pa.uint32(), U32),
        5069: (pa.uint64(), U64),
        700: (pa.float32(), F32),
        701: (pa.float64(), F64),
    }
    if oid == 16:
        return Reading(pa.bool_(), _boolean, pa.bool_())
    if oid not in numbers:
        return None
    arrow, layout = numbers[oid]
    parse: Callable[[str], Any] = float if oid in (700, 701) else int

    def load(kind: int, value: bytes) -> Any:
        return _parsed(parse, value) if kind == _TEXT else whole(layout, value)

    return Reading(arrow, load, arrow)


def _narrowed(pa: Any, oid: int, typmod: int, numeric: str, temporal: str) -> Reading | None:
    """Types whose Arrow type holds most values: only when a choice says so."""
    if oid == 1700 and numeric == "float":
        return Reading(pa.float64(), _numeric_float, pa.float64())
    if oid == 1700 and numeric == "decimal":
        shape = _decimal_shape(typmod)
        if shape is None:
            return None
        arrow = pa.decimal128(*shape)
        return Reading(arrow, _decimal_loader(*shape), arrow)
    if temporal == "native":
        match oid:
            case 1082:
                return Reading(pa.date32(), _date, pa.int32())
            case 1083:
                return Reading(pa.time64("us"), _time, pa.int64())
            case 1114:
                return Reading(pa.timestamp("us"), _timestamp, pa.int64())
            case 1184:
                return Reading(pa.timestamp("us", "UTC"), _timestamp, pa.int64())
    return None


def _decimal_shape(typmod: int) -> tuple[int, int] | None:
    """Precision and scale of numeric(p,s). A scale below zero or above the precision becomes one that all readers know."""
    if typmod < 4:
        return None
    precision = (typmod - 4) >> 16 & 0xFFFF
    scale = ((typmod - 4) & 0x7FF ^ 1024) - 1024
    precision, scale = max(precision, scale) - min(scale, 0), max(scale, 0)
    return (precision, scale) if precision <= _MOST_DIGITS else None


def _decimal_loader(precision: int, scale: int) -> Load:
    limit = Decimal(10) ** (precision - scale)

    def load(kind: int, value: bytes) -> Decimal:
        number = _numeric(kind, value)
        if not number.is_finite() or abs(number) >= limit or -_exponent(number.normalize(_EXACT)) > scale:
            raise ValueRangeError(
                f"a numeric that decimal({precision},{scale}) cannot hold", hint=_NUMERIC_HINT
            )
        return number.normalize(_EXACT) if number else Decimal(0)

    return load


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _numeric(kind: int, value: bytes) -> Decimal:
    if kind == _TEXT:
        return Decimal(_parsed(Decimal, value))
    from walcast.decode.values.scalars import numeric

    return Decimal(numeric(value))


def _numeric_float(kind: int, value: bytes) -> float:
    number = _numeric(kind, value)
    found = float(number)
    if math.isinf(found) and number.is_finite():
        raise ValueRangeError("a numeric that a float cannot hold", hint=_NUMERIC_HINT)
    return found


def _list_loader(element: TypeInfo, item: Load) -> Load:
    def load(kind: int, value: bytes) -> list[Any]:
        if kind == _TEXT:
            text = utf8(value)
            if text.startswith("["):
                raise _not_a_list()
            items = array_literal(text, element.delimiter, lambda piece: (piece.encode(),))
            if any(isinstance(piece, list) for piece in items):
                raise _not_a_list()
            return [None if piece is None else item(_TEXT, piece[0]) for piece in items]
        dimensions, pieces = array_items(value, lambda _: bytes)
        if dimensions and (len(dimensions) > 1 or dimensions[0][1] != 1):
            raise _not_a_list()
        return [None if piece is None else item(ord("b"), piece) for piece in pieces]

    return load


def _not_a_list() -> ValueRangeError:
    return ValueRangeError(
        "an array with more than one dimension, or one that does not begin at 1",
        hint="let arrays travel as text",
    )


def _boolean(kind: int, value: bytes) -> bool:
    if kind != _TEXT and len(value) == 1:
        return value != b"\0"
    if kind == _TEXT and value in (b"t", b"f"):
        return value == b"t"
    raise DecodeError("not a boolean", offset=0)


def _bytea(kind: int, value: bytes) -> bytes:
    if kind != _TEXT:
        return value
    if not value.startswith(b"\\x"):
        raise DecodeError("not a bytea in hex", offset=0)
    return bytes(_parsed(bytes.fromhex, value[2:]))


def _date(kind: int, value: bytes) -> int:
    days: int | None = day_of(utf8(value)) if kind == _TEXT else whole(I32, value)
    if days is None or days in (2**31 - 1, -(2**31)):
        raise ValueRangeError("an infinite date or timestamp", hint=_TIME_HINT)
    if days + _DAYS_TO_2000 >= 2**31:
        raise ValueRangeError("a date or timestamp beyond Arrow's range", hint=_TIME_HINT)
    return days + _DAYS_TO_2000


def _timestamp(kind: int, value: bytes) -> int:
    micros: int | None
    if kind == _TEXT:
        # A fraction stands between the seconds and the zone, or the era.
        date, _, clock = utf8(value).partition(" ")
        clock, era = clock.removesuffix(" BC"), " BC" if clock.endswith(" BC") else ""
        days = day_of(date + era)
        micros = None if days is None else days * _DAY + microseconds_of(clock.removesuffix("+00"))
    else:
        micros = whole(I64, value)
    if micros is None or micros in (2**63 - 1, -(2**63)):
        raise ValueRangeError("an infinite date or timestamp", hint=_TIME_HINT)
    if micros + _MICROS_TO_2000 >= 2**63:
        raise ValueRangeError("a date or timestamp beyond Arrow's range", hint=_TIME_HINT)
    return micros + _MICROS_TO_2000


def _time(kind: int, value: bytes) -> int:
    micros: int = microseconds_of(utf8(value)) if kind == _TEXT else whole(I64, value)
    if micros == _DAY:
        raise ValueRangeError("the time 24:00:00", hint=_TIME_HINT)
    if not 0 <= micros < _DAY:
        raise DecodeError("a time of day out of range", offset=0)
    return micros


def _parsed(parse: Callable[[str], Any], value: bytes) -> Any:
    try:
        return parse(utf8(value))
    except (ValueError, ArithmeticError):
        raise DecodeError("text that is not of its column's type", offset=0) from None
