"""The built-in types by oid, so that no catalog is needed to read them.

The numbers are fixed by PostgreSQL's pg_type.dat and have never been reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from walcast.decode.frames import TypeTuple
from walcast.model import TypeInfo

_FIRST_NOT_FIXED: Final = 10_000
"""Oids below are the same in every PostgreSQL (FirstGenbkiObjectId): decoders know those types."""

_BASE = """
16 bool 1000, 17 bytea 1001, 18 char 1002, 19 name 1003, 20 int8 1016, 21 int2 1005, 22 int2vector 1006,
23 int4 1007, 24 regproc 1008, 25 text 1009, 26 oid 1028, 27 tid 1010, 28 xid 1011, 29 cid 1012,
30 oidvector 1013, 114 json 199, 142 xml 143, 194 pg_node_tree 0, 600 point 1017, 601 lseg 1018, 602 path 1019,
603 box 1020, 604 polygon 1027, 628 line 629, 650 cidr 651, 700 float4 1021, 701 float8 1022, 718 circle 719,
774 macaddr8 775, 790 money 791, 829 macaddr 1040, 869 inet 1041, 1033 aclitem 1034, 1042 bpchar 1014,
1043 varchar 1015, 1082 date 1182, 1083 time 1183, 1114 timestamp 1115, 1184 timestamptz 1185,
1186 interval 1187, 1266 timetz 1270, 1560 bit 1561, 1562 varbit 1563, 1700 numeric 1231, 1790 refcursor 2201,
2202 regprocedure 2207, 2203 regoper 2208, 2204 regoperator 2209, 2205 regclass 2210, 2206 regtype 2211,
2950 uuid 2951, 2970 txid_snapshot 2949, 3220 pg_lsn 3221, 3361 pg_ndistinct 0, 3402 pg_dependencies 0,
3614 tsvector 3643, 3615 tsquery 3645, 3642 gtsvector 3644, 3734 regconfig 3735, 3769 regdictionary 3770,
3802 jsonb 3807, 4072 jsonpath 4073, 4089 regnamespace 4090, 4096 regrole 4097, 4191 regcollation 4192,
4600 pg_brin_bloom_summary 0, 4601 pg_brin_minmax_multi_summary 0, 5017 pg_mcv_list 0, 5038 pg_snapshot 5039,
5069 xid8 271
"""

# (range, array, subtype, multirange, array)
_RANGES = (
    ("int4", 3904, 3905, 23, 4451, 6150),
    ("num", 3906, 3907, 1700, 4532, 6151),
    ("ts", 3908, 3909, 1114, 4533, 6152),
    ("tstz", 3910, 3911, 1184, 4534, 6153),
    ("date", 3912, 3913, 1082, 4535, 6155),
    ("int8", 3926, 3927, 20, 4536, 6157),
)

# aclitem and gtsvector have no send function. The others send what only the server can turn into text: statistics
# and summaries; and the oid of an object, where the text is its name.
_TEXT_ONLY = """
aclitem gtsvector pg_ndistinct pg_dependencies pg_mcv_list pg_brin_bloom_summary pg_brin_minmax_multi_summary
regproc regprocedure regoper regoperator regclass regtype regconfig regdictionary regnamespace regrole regcollation
"""


def _build() -> dict[int, TypeInfo]:
    types: dict[int, TypeInfo] = {}
    text_only = frozenset(_TEXT_ONLY.split())

    def add(info: TypeInfo, array: int) -> TypeInfo:
        types[info.oid] = info
        if array:
            types[array] = TypeInfo(
                array,
                "pg_catalog",
                "_" + info.name,
                "array",
                info,
                delimiter=info.delimiter,
                has_binary=info.has_binary,
            )
        return info

    for item in _BASE.split(","):
        oid, name, array = item.split()
        delimiter = ";" if name == "box" else ","
        binary = name not in text_only
        add(TypeInfo(int(oid), "pg_catalog", name, delimiter=delimiter, has_binary=binary), int(array))
    for name, range_oid, array_oid, subtype, multi, multi_array in _RANGES:
        range_type = TypeInfo(range_oid, "pg_catalog", f"{name}range", "range", types[subtype])
        add(range_type, array_oid)
        add(TypeInfo(multi, "pg_catalog", f"{name}multirange", "multirange", range_type), multi_array)
    return types


BUILTIN: Final = _build()


def type_tuples(types: Iterable[TypeInfo]) -> list[TypeTuple]:
    """The types that a decoder has to be told of, with all that they are made of."""
    return [
        (
            info.oid,
            info.name,
            info.kind,
            info.element.oid if info.element is not None else 0,
            [(name, part.oid) for name, part in info.fields],
            info.delimiter,
        )
        for info in {info.oid: info for whole in types for info in _parts(whole)}.values()
        if info.oid >= _FIRST_NOT_FIXED
    ]


def _parts(info: TypeInfo) -> Iterator[TypeInfo]:
    yield info
    if info.element is not None:
        yield from _parts(info.element)
    for _, part in info.fields:
        yield from _parts(part)
