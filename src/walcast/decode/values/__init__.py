"""Values by type: from the server's binary or text form to canonical text and to Python.

Canonical text is PostgreSQL's output under the settings of our connections (ISO dates in UTC, IntervalStyle
postgres, shortest floats, bytea in hex, lc_monetary C), the same byte for byte from either form.
"""

from __future__ import annotations

from functools import partial

from walcast.decode.builtin import BUILTIN
from walcast.decode.values import nested, scalars, search, shapes, temporal
from walcast.decode.values.nested import TextOf
from walcast.decode.values.python import Loader, loaders_of
from walcast.model import DecodeError, TypeInfo

__all__ = ["Loader", "TextOf", "has_binary", "loaders", "text_of_binary"]

_NAMED: dict[str, TextOf] = {
    "bool": scalars.boolean,
    "bytea": scalars.bytea,
    "char": scalars.one_byte,
    "int2": scalars.int2,
    "int4": scalars.int4,
    "int8": scalars.int8,
    "int2vector": nested.vector(scalars.int2),
    "oidvector": nested.vector(scalars.uint4),
    "oid": scalars.uint4,
    "xid": scalars.uint4,
    "cid": scalars.uint4,
    "xid8": scalars.uint8,
    "float4": scalars.float4,
    "float8": scalars.float8,
    "numeric": scalars.numeric,
    "money": scalars.money,
    "bit": scalars.bits,
    "varbit": scalars.bits,
    "uuid": scalars.uuid,
    "jsonb": scalars.versioned_text,
    "jsonpath": scalars.versioned_text,
    "tid": scalars.tid,
    "pg_lsn": scalars.pg_lsn,
    "pg_snapshot": scalars.snapshot,
    "txid_snapshot": scalars.snapshot,
    "date": temporal.date,
    "time": temporal.time,
    "timetz": temporal.timetz,
    "timestamp": temporal.timestamp,
    "timestamptz": temporal.timestamptz,
    "interval": temporal.interval,
    "point": shapes.point,
    "lseg": shapes.lseg,
    "box": shapes.box,
    "line": shapes.line,
    "circle": shapes.circle,
    "path": shapes.path,
    "polygon": shapes.polygon,
    "inet": shapes.inet,
    "cidr": shapes.cidr,
    "macaddr": shapes.macaddr,
    "macaddr8": shapes.macaddr8,
    "tsvector": search.tsvector,
    "tsquery": search.tsquery,
    **dict.fromkeys(
        ("name", "text", "json", "xml", "pg_node_tree", "bpchar", "varchar", "refcursor"), scalars.text
    ),
}

_EXTENSIONS: dict[str, TextOf] = {
    "hstore": scalars.hstore,
    "vector": scalars.vector,
    "citext": scalars.text,
}


def loaders(info: TypeInfo) -> tuple[Loader, Loader]:
    """Python values of this type: (from text, from binary)."""
    return loaders_of(_known(info), text_of_binary)


def text_of_binary(info: TypeInfo) -> TextOf:
    """Canonical text from the binary form. What it returns raises DecodeError on bytes that are not that form, or when
    nothing here knows it (see `has_binary`)."""
    found = _text_of(_known(info))
    return found if found is not None else _unreadable(info)


def has_binary(info: TypeInfo) -> bool:
    """Whether the binary form of this type, and of all that it holds, can be read here."""
    return _text_of(_known(info)) is not None


def _known(info: TypeInfo) -> TypeInfo:
    return BUILTIN.get(info.oid, info)


def _text_of(info: TypeInfo) -> TextOf | None:
    if not info.has_binary:
        return None
    if info.kind == "base":
        return _NAMED.get(info.name) if info.oid in BUILTIN else _EXTENSIONS.get(info.name)
    if info.kind == "enum":
        return scalars.text
    if info.kind == "composite":
        fields = {field.oid: _text_of(_known(field)) for _, field in info.fields}
        known = {oid: text for oid, text in fields.items() if text is not None}
        return nested.composite(partial(_field, known)) if len(known) == len(fields) else None
    element = None if info.element is None else _text_of(_known(info.element))
    if info.element is None or element is None:
        return None
    if info.kind == "array":
        return nested.array(partial(_item, element), info.element.delimiter)
    if info.kind == "range":
        return nested.range_of(element)
    if info.kind == "multirange":
        return nested.multirange(element)
    return element if info.kind == "domain" else None


def _item(declared: TextOf, oid: int) -> TextOf:
    return (_text_of(BUILTIN[oid]) if oid in BUILTIN else None) or declared


def _field(known: dict[int, TextOf], oid: int) -> TextOf:
    found = known.get(oid) or (_text_of(BUILTIN[oid]) if oid in BUILTIN else None)
    if found is None:
        raise DecodeError(f"a composite value with a field of an unknown type (oid {oid})", offset=0)
    return found


def _unreadable(info: TypeInfo) -> TextOf:
    def text(data: bytes) -> str:
        raise DecodeError(
            f"the binary form of type {info.name} (oid {info.oid}) is not known",
            hint='let the connection send text: set `format = "text"` for the source',
        )

    return text
