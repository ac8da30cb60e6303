"""Reading array and composite literals: the text form of what holds other values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from walcast.model import DecodeError

_MAX_DIMENSIONS = 6
_PLAIN = re.compile(r'[^,"]+')


def array_literal(text: str, delimiter: str, load: Callable[[str], Any]) -> list[Any]:
    """Nested lists of loaded items. Lower bounds (`[0:1]={...}`) are skipped."""
    start = text.find("=") + 1 if text.startswith("[") else 0
    if text[start : start + 1] != "{":
        raise DecodeError("not an array literal", offset=start)
    stack: list[list[Any]] = []
    at = start
    while at < len(text):
        mark = text[at]
        if mark == "{":
            if len(stack) == _MAX_DIMENSIONS:
                raise DecodeError("an array literal that nests too deep", offset=at)
            stack.append([])
            at += 1
        elif mark == "}":
            done = stack.pop()
            at += 1
            if not stack:
                if at != len(text):
                    raise DecodeError("an array literal goes on after its end", offset=at)
                return done
            stack[-1].append(done)
        elif mark == delimiter:
            at += 1
        elif mark == '"':
            item, at = _quoted(text, at + 1, doubled=False)
            stack[-1].append(load(item))
        else:
            item, at = _bare(text, at, delimiter)
            stack[-1].append(None if item.upper() == "NULL" else load(item))
    raise DecodeError("an array literal without its end", offset=at)


def composite_literal(text: str) -> list[str | None]:
    """The fields of `(a,"b c",)`; None for null."""
    if text[:1] != "(" or text[-1:] != ")":
        raise DecodeError("not a composite literal", offset=0)
    fields: list[str | None] = []
    at, last = 1, len(text) - 1
    while True:
        pieces: list[str] = []
        null = True
        while at < last and text[at] != ",":
            null = False
            if text[at] == '"':
                piece, at = _quoted(text, at + 1, doubled=True)
            else:
                found = _PLAIN.match(text, at, last)
                piece, at = (found[0], found.end()) if found else (text[at], at + 1)
            pieces.append(piece)
        fields.append(None if null else "".join(pieces))
        if at >= last:
            return fields
        at += 1


def _bare(text: str, at: int, delimiter: str) -> tuple[str, int]:
    """An item without quotes, up to the delimiter or the brace."""
    start = at
    while at < len(text) and text[at] != delimiter and text[at] not in '{}"':
        at += 1
    return text[start:at], at


def _quoted(text: str, at: int, *, doubled: bool) -> tuple[str, int]:
    """The text between quotes from `at` on, and the place behind them. `doubled`: a quote may be written twice."""
    pieces: list[str] = []
    start = at
    while at < len(text):
        mark = text[at]
        if mark == "\\" and at + 1 < len(text):
            pieces += (text[start:at], text[at + 1])
            at += 2
            start = at
        elif mark == '"':
            pieces.append(text[start:at])
            if not doubled or text[at + 1 : at + 2] != '"':
                return "".join(pieces), at + 1
            pieces.append('"')
            at += 2
            start = at
        else:
            at += 1
    raise DecodeError("a quoted item without its end", offset=start)
