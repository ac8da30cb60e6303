"""Reading a value's binary form, with every length checked."""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from walcast.model import DecodeError

I16: Final = Struct(">h")
I32: Final = Struct(">i")
I64: Final = Struct(">q")
U16: Final = Struct(">H")
U32: Final = Struct(">I")
U64: Final = Struct(">Q")
F32: Final = Struct(">f")
F64: Final = Struct(">d")


class Cursor:
    """A place in a value's bytes. Every read beyond the end raises DecodeError with the offset."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def number(self, layout: Struct) -> Any:
        return layout.unpack(self.take(layout.size))[0]

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise DecodeError("a value ends too early", offset=self.at)
        self.at += size
        return self.data[self.at - size : self.at]

    def sized(self) -> bytes | None:
        """Bytes behind their 32-bit length; None when the length is -1."""
        size = self.number(I32)
        return None if size == -1 else self.take(size)

    def count(self, each: int) -> int:
        """A 32-bit number of items of at least `each` bytes, checked against what is left."""
        start = self.at
        count: int = self.number(I32)
        if count < 0 or count * each > len(self.data) - self.at:
            raise DecodeError("a value counts more items than it has", offset=start)
        return count

    def string(self) -> str:
        """Text up to a zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise DecodeError("text without its end", offset=self.at)
        piece = self.take(end - self.at)
        self.at += 1
        return utf8(piece)

    def end(self) -> None:
        """Raises unless all was read."""
        if self.at != len(self.data):
            raise DecodeError("a value goes on after its end", offset=self.at)


def whole(layout: Struct, data: bytes) -> Any:
    """The number that is all of `data`."""
    if len(data) != layout.size:
        raise DecodeError(f"a value of {len(data)} bytes where {layout.size} belong", offset=0)
    return layout.unpack(data)[0]


def utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(
            "text that is not UTF-8",
            offset=error.start,
            hint="a database with the encoding SQL_ASCII does not check what it stores; convert the column's "
            "values, or leave it out by a column list",
        ) from None
