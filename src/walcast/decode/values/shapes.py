"""Binary to canonical text: geometric and network types."""

from __future__ import annotations

from struct import Struct

from walcast.decode.values.cursor import F64, Cursor
from walcast.decode.values.floats import float8_text
from walcast.model import DecodeError

_POINT = Struct(">dd")
_IPV4, _IPV6 = 2, 3


def point(data: bytes) -> str:
    cursor = Cursor(data)
    found = _point(cursor)
    cursor.end()
    return found


def lseg(data: bytes) -> str:
    return f"[{_pair(data)}]"


def box(data: bytes) -> str:
    return _pair(data)


def line(data: bytes) -> str:
    cursor = Cursor(data)
    numbers = [float8_text(cursor.number(F64)) for _ in range(3)]
    cursor.end()
    return "{" + ",".join(numbers) + "}"


def circle(data: bytes) -> str:
    cursor = Cursor(data)
    center, radius = _point(cursor), float8_text(cursor.number(F64))
    cursor.end()
    return f"<{center},{radius}>"


def path(data: bytes) -> str:
    cursor = Cursor(data)
    closed = cursor.take(1) != b"\0"
    points = _points(cursor)
    return f"({points})" if closed else f"[{points}]"


def polygon(data: bytes) -> str:
    return f"({_points(Cursor(data))})"


def inet(data: bytes) -> str:
    return _address(data, always_bits=False)


def cidr(data: bytes) -> str:
    return _address(data, always_bits=True)


def macaddr(data: bytes) -> str:
    return _hardware_address(data, 6)


def macaddr8(data: bytes) -> str:
    return _hardware_address(data, 8)


def _pair(data: bytes) -> str:
    cursor = Cursor(data)
    found = f"{_point(cursor)},{_point(cursor)}"
    cursor.end()
    return found


def _point(cursor: Cursor) -> str:
    x, y = cursor.unpack(_POINT)
    return f"({float8_text(x)},{float8_text(y)})"


def _points(cursor: Cursor) -> str:
    points = [_point(cursor) for _ in range(cursor.count(_POINT.size))]
    cursor.end()
    return ",".join(points)


def _hardware_address(data: bytes, size: int) -> str:
    if len(data) != size:
        raise DecodeError(f"a hardware address of {len(data)} bytes", offset=0)
    return data.hex(":")


def _address(data: bytes, *, always_bits: bool) -> str:
    if len(data) < 4:
        raise DecodeError("not a network address", offset=0)
    family, bits, _, size = data[:4]
    address = data[4:]
    full = {_IPV4: 4, _IPV6: 16}.get(family)
    if full is None or size != full or len(address) != full or bits > 8 * full:
        raise DecodeError("not a network address", offset=0)
    text = ".".join(map(str, address)) if family == _IPV4 else _ipv6(address)
    return f"{text}/{bits}" if always_bits or bits != 8 * full else text


def _ipv6(address: bytes) -> str:
    """The longest run of zeros (the first of equals, two or more) becomes `::`; mapped IPv4 is printed as such."""
    words = [int.from_bytes(address[at : at + 2]) for at in range(0, 16, 2)]
    start, length = _longest_zeros(words)
    mapped = start == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF))
    tail = ".".join(map(str, address[12:])) if mapped else ""
    pieces = [f"{word:x}" for word in words[: 6 if mapped else 8]] + ([tail] if mapped else [])
    if length < 2:
        return ":".join(pieces)
    end = min(start + length, len(pieces) - (1 if mapped else 0))
    return ":".join(pieces[:start]) + "::" + ":".join(pieces[end:])


def _longest_zeros(words: list[int]) -> tuple[int, int]:
    best, run = (-1, 0), 0
    for number, word in enumerate(words):
        run = 0 if word else run + 1
        if run > best[1]:
            best = (number - run + 1, run)
    return best
