"""Binary to canonical text: numbers, text, bytes, and identifiers of the system."""

from __future__ import annotations

from struct import Struct

from walcast.decode.values.cursor import F32, F64, I16, I32, I64, U16, U32, U64, Cursor, utf8, whole
from walcast.decode.values.floats import float4_text, float8_text
from walcast.model import DecodeError

_NUMERIC = Struct(">hhHH")
_SPECIAL_NUMERIC = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
_TID = Struct(">IH")


def boolean(data: bytes) -> str:
    if len(data) != 1:
        raise DecodeError("a boolean is one byte", offset=0)
    return "t" if data != b"\0" else "f"


def int2(data: bytes) -> str:
    return str(whole(I16, data))


def int4(data: bytes) -> str:
    return str(whole(I32, data))


def int8(data: bytes) -> str:
    return str(whole(I64, data))


def uint4(data: bytes) -> str:
    return str(whole(U32, data))


def uint8(data: bytes) -> str:
    return str(whole(U64, data))


def float4(data: bytes) -> str:
    return float4_text(whole(F32, data))


def float8(data: bytes) -> str:
    return float8_text(whole(F64, data))


def numeric(data: bytes) -> str:
    cursor = Cursor(data)
    count, weight, sign, scale = cursor.unpack(_NUMERIC)
    if sign in _SPECIAL_NUMERIC:
        cursor.end()
        return _SPECIAL_NUMERIC[sign]
    if sign not in (0, 0x4000) or count < 0 or scale > 0x3FFF:
        raise DecodeError("not a numeric", offset=0)
    digits = [cursor.number(I16) for _ in range(count)]
    cursor.end()
    if any(not 0 <= digit < 10_000 for digit in digits):
        raise DecodeError("not a numeric: a digit beyond 9999", offset=8)
    return ("-" if sign else "") + _numeric_text(digits, weight, scale)


def money(data: bytes) -> str:
    """As under lc_monetary = C, with two decimals."""
    cents = whole(I64, data)
    whole_units, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}${whole_units:,}.{rest:02}"


def text(data: bytes) -> str:
    return utf8(data)


def one_byte(data: bytes) -> str:
    """The type "char": a byte; beyond ASCII its octal escape."""
    if len(data) != 1:
        raise DecodeError('a "char" is one byte', offset=0)
    byte = data[0]
    return f"\\{byte:03o}" if byte > 127 else chr(byte) if byte else ""


def bytea(data: bytes) -> str:
    return "\\x" + data.hex()


def bits(data: bytes) -> str:
    cursor = Cursor(data)
    count = cursor.number(I32)
    if count < 0 or (count + 7) // 8 != len(data) - 4:
        raise DecodeError("not a bit string", offset=0)
    return f"{int.from_bytes(data[4:]):0{8 * (len(data) - 4)}b}"[:count] if count else ""


def uuid(data: bytes) -> str:
    if len(data) != 16:
        raise DecodeError("a uuid is 16 bytes", offset=0)
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def versioned_text(data: bytes) -> str:
    """jsonb and jsonpath: a version byte, then text."""
    if data[:1] != b"\x01":
        raise DecodeError("an unknown version of a type's binary form", offset=0)
    return utf8(data[1:])


def tid(data: bytes) -> str:
    cursor = Cursor(data)
    block, offset = cursor.unpack(_TID)
    cursor.end()
    return f"({block},{offset})"


def pg_lsn(data: bytes) -> str:
    lsn = whole(U64, data)
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def snapshot(data: bytes) -> str:
    """pg_snapshot, and txid_snapshot before it."""
    cursor = Cursor(data)
    count = cursor.count(8)
    low, high = cursor.number(U64), cursor.number(U64)
    running = [str(cursor.number(U64)) for _ in range(count)]
    cursor.end()
    return f"{low}:{high}:{','.join(running)}"


def vector(data: bytes) -> str:
    """pgvector's type."""
    cursor = Cursor(data)
    size, _ = cursor.number(U16), cursor.number(U16)
    values = [float4_text(cursor.number(F32)) for _ in range(size)]
    cursor.end()
    return f"[{','.join(values)}]"


def hstore(data: bytes) -> str:
    cursor = Cursor(data)
    pairs = []
    for _ in range(cursor.count(8)):
        key, value = cursor.sized(), cursor.sized()
        if key is None:
            raise DecodeError("an hstore key that is null", offset=cursor.at)
        pairs.append(f"{_hstore_quoted(key)}=>{'NULL' if value is None else _hstore_quoted(value)}")
    cursor.end()
    return ", ".join(pairs)


def _hstore_quoted(piece: bytes) -> str:
    return '"' + utf8(piece).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _numeric_text(digits: list[int], weight: int, scale: int) -> str:
    """The digits are base 10,000; the first counts 10,000 ** weight."""
    whole_part = "".join(f"{digit:04}" for digit in digits[: max(weight + 1, 0)])
    if weight >= 0:
        whole_part = whole_part.ljust(4 * (weight + 1), "0").lstrip("0")
    if not scale:
        return whole_part or "0"
    leading = "0000" * min(max(-weight - 1, 0), scale // 4 + 1)
    fraction = leading + "".join(f"{digit:04}" for digit in digits[max(weight + 1, 0) :])
    return f"{whole_part or '0'}.{fraction[:scale].ljust(scale, '0')}"
