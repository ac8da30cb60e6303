"""The keys that a fence says may rightly differ, in the forms in which rows are compared."""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack, unpack

from walcast.decode.values import text_of_binary
from walcast.model import RawKey, Relation, Touched, TypeInfo
from walcast.model.comparing import Form, Key

_TEXT = ord("t")


class TouchedKeys:
    """`whole`: every key may."""

    def __init__(self, touched: Touched | None, key: tuple[str, ...], forms: Mapping[str, Form]) -> None:
        self.keys: set[Key] = set()
        self.whole = touched is not None and (touched.whole or not key)
        for relation, raw in touched.keys if touched is not None else ():
            found = _formed(relation, raw, key, forms)
            if found is None:
                self.whole = True
            else:
                self.keys.add(found)

    def __contains__(self, key: object) -> bool:
        return self.whole or key in self.keys


def _formed(relation: Relation, raw: RawKey, key: tuple[str, ...], forms: Mapping[str, Form]) -> Key | None:
    """None when the stream's key is not the one that rows are compared by."""
    columns = [relation.columns[number] for number in relation.key]
    values = {column.name: (column.type, *value) for column, value in zip(columns, raw, strict=True)}
    if set(values) != set(key) or any(value is None for _, _, value in values.values()):
        return None
    return tuple(_form(forms[name], *values[name]) for name in key)


def _form(form: Form, info: TypeInfo, kind: int, value: bytes | None) -> str:
    assert value is not None
    text = value.decode() if kind == _TEXT else text_of_binary(info)(value)
    base = info.base
    if base.schema == "pg_catalog" and base.name == "bool":
        text = "true" if text == "t" else "false"
    if form == "float8":
        number = float(text) if base.name != "float4" else unpack(">f", pack(">f", float(text)))[0]
        return "nan" if number != number else "\\x" + pack(">d", number).hex()
    return f"{len(text)}:{text}" if form == "string" else text


def key_form(form: Form) -> Form:
    """A key is read back: its text, not a hash of it."""
    return "string" if form in ("hashed", "list") else form


def readable(form: Form, text: str) -> str:
    """A form as a person writes the value: for reports."""
    if form == "string":
        return text.partition(":")[2]
    if form == "float8" and text.startswith("\\x"):
        (number,) = unpack(">d", bytes.fromhex(text[2:]))
        return repr(number)
    return text
