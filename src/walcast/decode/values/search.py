"""Binary to canonical text: tsvector and tsquery."""

from __future__ import annotations

from typing import Any

from walcast.decode.values.cursor import I16, U16, Cursor
from walcast.model import DecodeError

_WEIGHTS = ("", "C", "B", "A")
_VALUE, _OPERATOR = 1, 2
_NOT, _AND, _OR, _PHRASE = 1, 2, 3, 4
_PRIORITY = {_NOT: 4, _AND: 2, _OR: 1, _PHRASE: 3}
_LEAF = 5

_Node = tuple[int, int, Any]
"""(priority, operator or 0, text as a nested sequence of strings)."""


def tsvector(data: bytes) -> str:
    cursor = Cursor(data)
    entries = []
    for _ in range(cursor.count(3)):
        lexeme = _quoted(cursor.string())
        positions = [cursor.number(U16) for _ in range(cursor.number(U16))]
        places = ",".join(f"{place & 0x3FFF}{_WEIGHTS[place >> 14]}" for place in positions)
        entries.append(f"{lexeme}:{places}" if places else lexeme)
    cursor.end()
    return " ".join(entries)


def tsquery(data: bytes) -> str:
    """Sent in Polish notation, the right operand first. Read from the end, so that no depth of nesting matters."""
    cursor = Cursor(data)
    tokens = [_token(cursor) for _ in range(cursor.count(2))]
    cursor.end()
    stack: list[_Node] = []
    for token in reversed(tokens):
        if isinstance(token, str):
            stack.append((_LEAF, 0, token))
            continue
        operator, distance = token
        if len(stack) < (1 if operator == _NOT else 2):
            raise DecodeError("a tsquery operator without operands", offset=0)
        stack.append(_combine(operator, distance, stack))
    if len(stack) != min(len(tokens), 1):
        raise DecodeError("a tsquery of several queries", offset=0)
    return _flattened(stack[0][2]) if stack else ""


def _token(cursor: Cursor) -> str | tuple[int, int]:
    (kind,) = cursor.take(1)
    if kind == _VALUE:
        weight, prefix = cursor.take(2)
        text = _quoted(cursor.string())
        if not weight & 0xF and not prefix:
            return text
        letters = "".join(letter for bit, letter in ((8, "A"), (4, "B"), (2, "C"), (1, "D")) if weight & bit)
        return f"{text}:{'*' if prefix else ''}{letters}"
    (operator,) = cursor.take(1)
    if kind != _OPERATOR or operator not in _PRIORITY:
        raise DecodeError("not a tsquery", offset=cursor.at)
    return operator, cursor.number(I16) if operator == _PHRASE else 0


def _combine(operator: int, distance: int, stack: list[_Node]) -> _Node:
    priority = _PRIORITY[operator]
    right = stack.pop()
    if operator == _NOT:
        return priority, operator, ("!", _inside(right, priority, False))
    left = stack.pop()
    sign = {_AND: " & ", _OR: " | "}.get(operator) or (" <-> " if distance == 1 else f" <{distance}> ")
    text = (_inside(left, priority, False), sign, _inside(right, priority, operator == _PHRASE))
    return priority, operator, text


def _inside(node: _Node, parent: int, right_of_phrase: bool) -> Any:
    priority, operator, text = node
    if priority < parent or (operator == _PHRASE and right_of_phrase):
        return ("( ", text, " )")
    return text


def _flattened(text: Any) -> str:
    pieces: list[str] = []
    waiting = [text]
    while waiting:
        piece = waiting.pop()
        if isinstance(piece, str):
            pieces.append(piece)
        else:
            waiting.extend(reversed(piece))
    return "".join(pieces)


def _quoted(lexeme: str) -> str:
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"
