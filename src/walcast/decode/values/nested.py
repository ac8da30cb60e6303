"""Binary to canonical text: arrays, composites, ranges and multiranges, over the text of what they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from walcast.decode.values.cursor import I32, U32, Cursor
from walcast.model import DecodeError

T = TypeVar("T")
TextOf = Callable[[bytes], str]

_MAX_DIMENSIONS = 6
_ITEM_QUOTED = re.compile(r'[\\"{} \t\n\r\v\f]')
_FIELD_QUOTED = re.compile(r'[\\"(), \t\n\r\v\f]')
_BOUND_QUOTED = re.compile(r'[\\"()\[\], \t\n\r\v\f]')
_EMPTY, _LOWER_INCLUSIVE, _UPPER_INCLUSIVE, _NO_LOWER, _NO_UPPER = 1, 2, 4, 8, 16


def array(element_type: Callable[[int], TextOf], delimiter: str) -> TextOf:
    """`element_type` gives what reads the items, by the oid that the value itself names."""

    def text(data: bytes) -> str:
        dimensions, items = array_items(data, element_type)
        if not dimensions:
            return "{}"
        pieces = iter(["NULL" if item is None else _item(item, delimiter) for item in items])
        bounds = ""
        if any(lower != 1 for _, lower in dimensions):
            bounds = "".join(f"[{lower}:{lower + size - 1}]" for size, lower in dimensions) + "="
        return bounds + _braces([size for size, _ in dimensions], pieces, delimiter)

    return text


def array_items(
    data: bytes, element_type: Callable[[int], Callable[[bytes], T]]
) -> tuple[list[tuple[int, int]], list[T | None]]:
    """An array's dimensions as (size, lower bound), and its items row by row."""
    cursor = Cursor(data)
    count, flags, oid = cursor.number(I32), cursor.number(I32), cursor.number(U32)
    if not 0 <= count <= _MAX_DIMENSIONS or flags not in (0, 1):
        raise DecodeError("not an array", offset=0)
    dimensions = [(cursor.number(I32), cursor.number(I32)) for _ in range(count)]
    total = 1 if count else 0
    for size, lower in dimensions:
        total *= size
        if size < 0 or lower + size >= 1 << 31 or total * 4 > len(data):
            raise DecodeError("an array counts more items than it has", offset=12)
    element = element_type(oid)
    items: list[T | None] = []
    for _ in range(total):
        piece = cursor.sized()
        items.append(None if piece is None else element(piece))
    cursor.end()
    return (dimensions if total else []), items


def vector(element: TextOf) -> TextOf:
    """int2vector and oidvector: sent as arrays, printed with spaces."""

    def text(data: bytes) -> str:
        _, items = array_items(data, lambda _: element)
        return " ".join(item for item in items if item is not None)

    return text


def composite(field_type: Callable[[int], TextOf]) -> TextOf:
    """`field_type` gives what reads a type, by the oid that the value itself names: it may be older than the catalog."""

    def text(data: bytes) -> str:
        items = composite_items(data)
        values = ["" if item is None else _field(field_type(oid)(item)) for oid, item in items]
        return f"({','.join(values)})"

    return text


def composite_items(data: bytes) -> list[tuple[int, bytes | None]]:
    """(type oid, value) of each field."""
    cursor = Cursor(data)
    items = [(cursor.number(U32), cursor.sized()) for _ in range(cursor.count(8))]
    cursor.end()
    return items


def range_of(bound: TextOf) -> TextOf:
    def text(data: bytes) -> str:
        cursor = Cursor(data)
        (flags,) = cursor.take(1)
        if flags & _EMPTY:
            cursor.end()
            return "empty"
        lower = "" if flags & _NO_LOWER else _bound(cursor, bound)
        upper = "" if flags & _NO_UPPER else _bound(cursor, bound)
        cursor.end()
        opening = "[" if flags & _LOWER_INCLUSIVE else "("
        return f"{opening}{lower},{upper}{']' if flags & _UPPER_INCLUSIVE else ')'}"

    return text


def multirange(range_text: TextOf) -> TextOf:
    def text(data: bytes) -> str:
        cursor = Cursor(data)
        ranges = []
        for _ in range(cursor.count(5)):
            piece = cursor.sized()
            if piece is None:
                raise DecodeError("a multirange that holds null", offset=cursor.at)
            ranges.append(range_text(piece))
        cursor.end()
        return "{" + ",".join(ranges) + "}"

    return text


def _braces(sizes: list[int], pieces: Iterator[str], delimiter: str) -> str:
    if len(sizes) == 1:
        inner = [next(pieces) for _ in range(sizes[0])]
    else:
        inner = [_braces(sizes[1:], pieces, delimiter) for _ in range(sizes[0])]
    return "{" + delimiter.join(inner) + "}"


def _item(item: str, delimiter: str) -> str:
    if item and item.upper() != "NULL" and delimiter not in item and not _ITEM_QUOTED.search(item):
        return item
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _field(value: str) -> str:
    if value and not _FIELD_QUOTED.search(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '""') + '"'


def _bound(cursor: Cursor, bound: TextOf) -> str:
    piece = cursor.sized()
    if piece is None:
        raise DecodeError("a range whose bound is null", offset=cursor.at)
    value = bound(piece)
    if value and not _BOUND_QUOTED.search(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '""') + '"'
