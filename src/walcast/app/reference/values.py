"""Which Arrow, Python and JSON type each PostgreSQL type becomes: asked of the decoder, type by type."""

from __future__ import annotations

import json
from typing import Any, Final

from walcast.app.reference.pages import NOTE, table
from walcast.decode import Catalog, snapshot_frames
from walcast.decode.builtin import BUILTIN
from walcast.decode.values import loaders
from walcast.model import TypeInfo

_SAMPLES: Final = {
    "bool": "t",
    **dict.fromkeys(("int2", "int4", "int8", "oid", "xid", "cid", "xid8"), "1"),
    **dict.fromkeys(("float4", "float8", "numeric"), "1.5"),
    "bytea": "\\x00",
    "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "date": "2024-02-29",
    "time": "12:34:56",
    "timetz": "12:34:56+00",
    "timestamp": "2024-02-29 12:34:56",
    "timestamptz": "2024-02-29 12:34:56+00",
    **dict.fromkeys(("json", "jsonb"), "{}"),
}
"""A value that is not exotic, where any text would not do."""
_MADE: Final = (
    ("an enum", TypeInfo(100_001, "shop", "mood", "enum", labels=("x",)), "x"),
    ("a domain over int4", TypeInfo(100_002, "shop", "year", "domain", BUILTIN[23]), "1"),
    (
        "a composite type",
        TypeInfo(100_003, "shop", "pair", "composite", fields=(("a", BUILTIN[23]), ("b", BUILTIN[25]))),
        "(1,x)",
    ),
    ("a range, a multirange", BUILTIN[3904], "[1,5)"),
    ("an array of int4", BUILTIN[1007], "{1,2}"),
    ("a type of an extension, without its binary form", TypeInfo(100_004, "shop", "odd"), "x"),
)
_NUMERIC: Final = (10 << 16 | 2) + 4
"""The typmod of numeric(10,2)."""
_TEXT: Final = ("text", "text", "text")
_NARROW: Final = {
    'numeric = "decimal"': ("decimal", "text", "text"),
    'numeric = "float"': ("float", "text", "text"),
    'temporal = "native"': ("text", "native", "text"),
    'arrays = "list"': ("text", "text", "list"),
}


def types() -> str:
    """The page."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for info in sorted(BUILTIN.values(), key=lambda found: found.oid):
        if info.kind == "base":
            groups.setdefault(_becomes(info, _SAMPLES.get(info.name, "x")), []).append(f"`{info.name}`")
    rows = [(", ".join(names), *becomes) for becomes, names in groups.items()]
    rows += [(name, *_becomes(info, sample)) for name, info, sample in _MADE]
    text_only = ", ".join(f"`{i.name}`" for i in BUILTIN.values() if i.kind == "base" and not i.has_binary)
    return "".join(
        [
            "# Types\n\n",
            NOTE,
            "From PostgreSQL to PostgreSQL every type is exact: the server's own bytes pass through. Elsewhere a value is "
            "native where the target's type holds every value that PostgreSQL can have, and else its canonical text: what "
            "PostgreSQL prints with ISO dates in UTC, the interval style `postgres`, shortest floats and bytea in hex.\n\n",
            table(("PostgreSQL", "Arrow", "Arrow, narrowed", "Python", "JSON"), rows),
            "\nNarrowed: what a sink's settings or `walcast.TypeChoices` ask for. A value outside then fails loudly "
            "(`ValueRangeError`) instead of being changed: NaN and infinity in a decimal, infinity and 24:00 in dates and "
            "times, an array with several dimensions or another lower bound in a list. `numeric` is a decimal where its "
            "precision is declared and at most 38.\n\n"
            "Python: dates and times that Python has no object for (infinity, BC, 24:00) are `str`; `timestamp` is naive, "
            "`timestamptz` aware and in UTC; `json` is what `json.loads` gives; arrays are nested lists, without their lower bounds. JSON: NaN and infinity are "
            "strings. A domain is what its base type is.\n\n"
            f"Without a binary form that can be read: {text_only}, and types of extensions other than `hstore`, `vector` and "
            "`citext`. A published column of such a type makes the connection use text, with a notice.\n\n"
            "## Columns of an Arrow table\n\n",
            table(
                ("Column", "Arrow", "What it is"),
                [
                    (f"`{field.name}`", f"`{_arrow(field.type)}`", _ROLES[field.name])
                    for field in _own_fields()
                ],
            ),
            "\nThen the relation's columns. Each field's metadata has `pg.type_oid` and `pg.typmod`.\n",
        ]
    )


_ROLES: Final = {
    "_op": "I insert, U update, D delete, T truncate, R read by a snapshot",
    "_commit_lsn": "where the transaction's commit record starts",
    "_ordinal": "the change's place in its transaction, from 1; 0 in a snapshot",
    "_xid": "the transaction's number",
    "_commit_time": "when it committed; null in a snapshot",
    "_unchanged": "numbers (from 0) of columns that an update did not touch and the server did not send (TOAST)",
    "_old": "the row before, as far as the replica identity has it; null when it was not sent",
}


def _becomes(info: TypeInfo, sample: str) -> tuple[str, str, str, str]:
    plain = _arrow(_column(info, _TEXT))
    narrowed = [f"`{found}` with `{choice}`" for choice, found in _narrowed(info, plain)]
    value = loaders(info)[0](sample.encode())
    return f"`{plain}`", "; ".join(narrowed) or "-", f"`{type(value).__name__}`", _json(info, sample)


def _narrowed(info: TypeInfo, plain: str) -> list[tuple[str, str]]:
    found = [(choice, _arrow(_column(info, chosen))) for choice, chosen in _NARROW.items()]
    return [(choice, kind) for choice, kind in found if kind != plain]


def _frames(info: TypeInfo, rows: list[bytes]) -> Any:
    typmod = _NUMERIC if info.name == "numeric" else -1
    return snapshot_frames((1, "shop", "t", "d", [("c", info.oid, typmod, True)]), rows, "text", 1)


def _catalog() -> Any:
    made = [info for _, info, _ in _MADE if info.oid not in BUILTIN]
    return Catalog(
        [
            (
                info.oid,
                info.name,
                info.kind,
                info.element.oid if info.element else 0,
                [(name, field.oid) for name, field in info.fields],
                info.delimiter,
            )
            for info in made
        ]
    )


def _column(info: TypeInfo, choices: tuple[str, str, str]) -> Any:
    return _schema(info, choices).field("c").type


def _own_fields() -> list[Any]:
    return [field for field in _schema(BUILTIN[23], _TEXT) if field.name in _ROLES]


def _schema(info: TypeInfo, choices: tuple[str, str, str]) -> Any:
    import pyarrow

    return pyarrow.table(_frames(info, []).arrow(0, _catalog(), *choices)).schema


def _arrow(kind: Any) -> str:
    """pyarrow's name, without the fields of a struct."""
    return "struct" if str(kind).startswith("struct") else str(kind)


def _json(info: TypeInfo, sample: str) -> str:
    row = sample.replace("\\", "\\\\").encode() + b"\n"
    line = json.loads(_frames(info, [row]).json_lines(_catalog(), [[0]]))
    value = line["new"]["c"]
    kinds = {bool: "true, false", int: "number", float: "number", str: "string"}
    return kinds.get(type(value), "as it is")
