"""Values as Python objects, where one holds every value that is not exotic; else the canonical text.

| PostgreSQL | Python |
|---|---|
| bool; int2, int4, int8, oid, xid, cid, xid8; float4, float8 | bool; int; float |
| numeric | Decimal (NaN and infinities too) |
| bytea, uuid | bytes, UUID |
| date, time, timetz, timestamp, timestamptz | date, time, datetime (timestamptz: aware, UTC); str for infinity, BC, 24:00 |
| json, jsonb | what json.loads gives |
| arrays, composites | lists (nested; lower bounds are lost), dicts |
| everything else (interval, money, ranges, network, geometric, text search ...) | str: canonical text |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from walcast.decode.builtin import BUILTIN
from walcast.decode.values import nested
from walcast.decode.values.cursor import F32, F64, I16, I32, I64, U32, U64, utf8, whole
from walcast.decode.values.floats import float4_text
from walcast.decode.values.literals import array_literal, composite_literal
from walcast.model import DecodeError, TypeInfo

Loader = Callable[[bytes], Any]

_MAX_DIGITS = 4000
"""Python refuses to read longer integers (sys.int_info.default_max_str_digits is 4300)."""


def loaders_of(info: TypeInfo, text_of_binary: Callable[[TypeInfo], nested.TextOf]) -> tuple[Loader, Loader]:
    """(from text, from binary) of a type. `text_of_binary` makes canonical text where no shorter way is known."""
    info = BUILTIN.get(info.oid, info)
    if info.kind == "domain" and info.element is not None:
        return loaders_of(info.element, text_of_binary)
    if info.kind == "array" and info.element is not None:
        return _array_loaders(info.element, text_of_binary)
    if info.kind == "composite":
        return _composite_loaders(info, text_of_binary)
    from_str = _FROM_TEXT.get(info.name, str) if info.oid in BUILTIN else str
    text = text_of_binary(info)
    from_binary = _FROM_BINARY.get(info.name) if info.oid in BUILTIN else None
    return (lambda data: from_str(utf8(data))), from_binary or (lambda data: from_str(text(data)))


def _array_loaders(
    element: TypeInfo, text_of_binary: Callable[[TypeInfo], nested.TextOf]
) -> tuple[Loader, Loader]:
    from_text, from_binary = loaders_of(element, text_of_binary)
    delimiter = element.delimiter

    def text(data: bytes) -> Any:
        return array_literal(utf8(data), delimiter, lambda item: from_text(item.encode()))

    def binary(data: bytes) -> Any:
        dimensions, items = nested.array_items(data, lambda _: from_binary)
        for size, _ in reversed(dimensions[1:]):
            items = [items[at : at + size] for at in range(0, len(items), size)]
        return items

    return text, binary


def _composite_loaders(
    info: TypeInfo, text_of_binary: Callable[[TypeInfo], nested.TextOf]
) -> tuple[Loader, Loader]:
    """Dicts; a value from before the type was altered stays text, for nothing says what its fields were called."""
    names = [name for name, _ in info.fields]
    oids = [field.oid for _, field in info.fields]
    whole_text = text_of_binary(info)
    fields = [loaders_of(field, text_of_binary) for _, field in info.fields]

    def text(data: bytes) -> Any:
        items = composite_literal(utf8(data)) if fields else []
        if len(items) != len(fields):
            return utf8(data)
        return {
            name: None if item is None else field[0](item.encode())
            for name, item, field in zip(names, items, fields, strict=True)
        }

    def binary(data: bytes) -> Any:
        items = nested.composite_items(data)
        if [oid for oid, _ in items] != oids:
            return whole_text(data)
        return {
            name: None if item is None else field[1](item)
            for name, (_, item), field in zip(names, items, fields, strict=True)
        }

    return text, binary


def _integer(text: str) -> Any:
    return int(text) if len(text) <= _MAX_DIGITS else Decimal(text)


def _json(text: str) -> Any:
    """Parsed; the text itself where it nests deeper than Python reads."""
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        return text
    except ValueError:
        raise DecodeError("a json value that is not JSON") from None


def _or_text(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """For types some of whose values Python has no object for: those stay text."""

    def load(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            return text

    return load


def _checked(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def load(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, ArithmeticError):
            raise DecodeError("a value that is not of its type") from None

    return load


def _bytea(text: str) -> bytes:
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    raise ValueError


def _iso_date(text: str) -> date:
    if len(text) != 10:
        raise ValueError
    return date.fromisoformat(text)


def _iso_timestamp(text: str) -> datetime:
    if text[10:11] != " ":
        raise ValueError
    return datetime.fromisoformat(text)


def _iso_timestamptz(text: str) -> datetime:
    return _iso_timestamp(text).astimezone(UTC)


def _bool(text: str) -> bool:
    return text == "t"


def _float(text: str) -> float:
    return float(text)


_EPOCH = datetime(2000, 1, 1)
_EPOCH_UTC = datetime(2000, 1, 1, tzinfo=UTC)


def _binary_timestamp(epoch: datetime, text: Callable[[bytes], str]) -> Loader:
    def load(data: bytes) -> Any:
        try:
            return epoch + timedelta(microseconds=whole(I64, data))
        except OverflowError:
            return text(data)

    return load


def _uuid(data: bytes) -> UUID:
    if len(data) != 16:
        raise DecodeError("a uuid is 16 bytes", offset=0)
    return UUID(bytes=data)


_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "bool": _bool,
    **dict.fromkeys(("int2", "int4", "int8", "oid", "xid", "cid", "xid8"), _checked(int)),
    **dict.fromkeys(("float4", "float8"), _checked(_float)),
    "numeric": _checked(Decimal),
    "bytea": _checked(_bytea),
    "uuid": _checked(UUID),
    "date": _or_text(_iso_date),
    "time": _or_text(time.fromisoformat),
    "timetz": _or_text(time.fromisoformat),
    "timestamp": _or_text(_iso_timestamp),
    "timestamptz": _or_text(_iso_timestamptz),
    "json": _json,
    "jsonb": _json,
}

_FROM_BINARY: dict[str, Loader] = {
    "int2": lambda data: whole(I16, data),
    "int4": lambda data: whole(I32, data),
    "int8": lambda data: whole(I64, data),
    **dict.fromkeys(("oid", "xid", "cid"), lambda data: whole(U32, data)),
    "xid8": lambda data: whole(U64, data),
    # A single's shortest text read back is the float that people mean: 0.1, not 0.10000000149011612.
    "float4": lambda data: float(float4_text(whole(F32, data))),
    "float8": lambda data: whole(F64, data),
    "bytea": bytes,
    "uuid": _uuid,
    **dict.fromkeys(("name", "text", "bpchar", "varchar"), utf8),
}
