"""What the fuzzer damages: a correct stream and a correct snapshot, with values of types whose binary form has parts."""

from __future__ import annotations

import random
from struct import pack
from typing import Any, Literal

from walcast.model import UNCHANGED
from walcast.testing import batches as wire
from walcast.testing.batches import Table, Value

_PAIR, _MOOD = 20_001, 20_002
GIVEN_TYPES: list[Any] = [
    (_PAIR, "pair", "composite", 0, [("a", 23), ("b", 25)], ","),
    (_MOOD, "mood", "enum", 0, [], ","),
    (20_003, "hstore", "base", 0, [], ","),
]
KEYS = [0]

_ARRAY = pack(">iiI", 1, 1, 23) + pack(">ii", 2, 1) + pack(">ii", 4, 7) + pack(">i", -1)
_MATRIX = pack(">iiI", 2, 0, 25) + pack(">iiii", 2, 0, 1, 1) + pack(">i1s", 1, b"a") + pack(">i0s", 0, b"")
# (type oid, typmod, text, binary)
_VALUES: list[tuple[int, int, str, bytes]] = [
    (16, -1, "t", b"\x01"),
    (17, -1, "\\x00ff", b"\x00\xff"),
    (25, -1, "it's \"x\"\n", b"it's \"x\"\n"),
    (700, -1, "0.1", pack(">f", 0.1)),
    (701, -1, "-1e+300", pack(">d", -1e300)),
    (1700, -1, "12345678.9", pack(">hhHHhhh", 3, 1, 0, 1, 1234, 5678, 9000)),
    (1700, (10 << 16 | 2) + 4, "12.50", pack(">hhHHhh", 2, 0, 0, 2, 12, 5000)),
    (1007, -1, "{7,NULL}", _ARRAY),
    (1009, -1, '{{a},{""}}', _MATRIX),
    (1082, -1, "2024-02-29", pack(">i", 8_825)),
    (1083, -1, "12:34:56.7", pack(">q", 45_296_700_000)),
    (1184, -1, "2024-02-29 00:00:00+00", pack(">q", 762_480_000_000_000)),
    (1186, -1, "1 mon -2 days", pack(">qii", 0, -2, 1)),
    (1560, -1, "101", pack(">i", 3) + b"\xa0"),
    (869, -1, "10.0.0.1/8", bytes((2, 8, 0, 4, 10, 0, 0, 1))),
    (602, -1, "((1,2),(3,4))", pack(">bi4d", 1, 2, 1, 2, 3, 4)),
    (3614, -1, "'a':1A 'b'", pack(">i", 2) + b"a\0" + pack(">HH", 1, 0xC001) + b"b\0" + pack(">H", 0)),
    (3615, -1, "'a' & !'b'", pack(">i", 4) + b"\x02\x02\x02\x01\x01\0\0b\0\x01\x00\x00a\0"),
    (3904, -1, "[1,5)", b"\x02" + pack(">iiii", 4, 1, 4, 5)),
    (4451, -1, "{[1,5)}", pack(">ii", 1, 17) + b"\x02" + pack(">iiii", 4, 1, 4, 5)),
    (3802, -1, '{"a": [1, 2]}', b'\x01{"a": [1, 2]}'),
    (5038, -1, "1:9:3", pack(">iqqq", 1, 1, 9, 3)),
    (_PAIR, -1, "(7,x)", pack(">iIiiIi", 2, 23, 4, 7, 25, 1) + b"x"),
    (_MOOD, -1, "ok", b"ok"),
    (20_003, -1, '"k"=>NULL', pack(">ii", 1, 1) + b"k" + pack(">i", -1)),
]  # fmt: skip

_TABLE = Table(
    16_400,
    "app",
    "wide",
    [
        ("id", wire.INT8, True),
        *((f"c{n}", oid, False, typmod) for n, (oid, typmod, _, _) in enumerate(_VALUES)),
    ],
)
_OTHER = Table(16_401, "app", "narrow", [("id", wire.INT8, True), ("v", wire.TEXT, True)], "f")
RELATION: Any = (_TABLE.oid, _TABLE.schema, _TABLE.name, "d", _TABLE.column_tuples())


def frames(draw: random.Random) -> list[bytes]:
    """Transactions with every kind of message, and one that is streamed between them."""
    binary = draw.random() < 0.7
    first, second = _row(1, binary), _row(2, binary)
    changed: list[Value] = [second[0], *(UNCHANGED if draw.random() < 0.2 else value for value in second[1:])]
    key: list[Value] = [first[0], *([None] * len(_VALUES))]
    top = 900
    return [
        wire.relation(_TABLE),
        wire.begin(0x1000, 800, 10**15),
        wire.origin("node"),
        wire.insert(_TABLE.oid, first),
        wire.update(_TABLE.oid, changed, key=key),
        wire.message("prefix", b"content", lsn=0x1000),
        wire.commit(0x1000, 0x1030, 10**15),
        wire.keepalive(0x1040),
        wire.stream_start(top, first=True),
        wire.relation(_TABLE, top + 1),
        wire.insert(_TABLE.oid, first, top + 1),
        wire.insert(_TABLE.oid, second, top),
        wire.stream_stop(),
        wire.relation(_OTHER),
        wire.begin(0x1100, 801, 10**15),
        wire.insert(_OTHER.oid, [first[0], "x"]),
        wire.update(_OTHER.oid, [first[0], "y"], old=[first[0], "x"]),
        wire.delete(_OTHER.oid, old=[first[0], "y"]),
        wire.truncate([_TABLE.oid, _OTHER.oid], cascade=True),
        wire.commit(0x1100, 0x1130, 10**15),
        wire.message("alone", b"", transactional=False, lsn=0x1140),
        wire.stream_abort(top, top + 1),
        wire.stream_start(top, first=False),
        wire.relation(_TABLE, top),
        wire.delete(_TABLE.oid, key=[second[0], *([None] * len(_VALUES))], xid=top),
        wire.stream_stop(),
        wire.stream_commit(top, 0x1200, 0x1230, 10**15),
    ]


def copies() -> list[tuple[Literal["binary", "text"], bytes]]:
    """COPY of two rows, in both formats."""
    rows = [_row(1, True), _row(2, True)]
    packed = b"".join(
        pack(">h", len(row))
        + b"".join(pack(">i", len(value)) + value for value in row if isinstance(value, bytes))
        for row in rows
    )
    text = b"".join(
        "\t".join(_escaped(str(value)) for value in _row(number, False)).encode() + b"\n" for number in (1, 2)
    )
    return [
        ("binary", b"PGCOPY\n\xff\r\n\0" + bytes(8) + packed + b"\xff\xff"),
        ("binary", packed),
        ("text", text),
    ]


def _row(key: int, binary: bool) -> list[Value]:
    values: list[Value] = [value if binary else text for _, _, text, value in _VALUES]
    return [key.to_bytes(8) if binary else str(key), *values]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
