"""The types of a stream, by oid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from walcast.decode.builtin import BUILTIN
from walcast.decode.frames import TypeTuple
from walcast.decode.values import has_binary, text_of_binary
from walcast.decode.values.cursor import utf8
from walcast.model import TypeInfo, TypeKind

_TEXT = ord("t")
_KINDS = frozenset(get_args(TypeKind))


class PyCatalog:
    """See `walcast.decode.frames.Catalog`. Extension types are known by name: hstore, vector, citext."""

    def __init__(self, types: Sequence[TypeTuple]) -> None:
        for _, _, kind, *_ in types:
            if kind not in _KINDS:
                raise ValueError(f"unknown kind of type: {kind}")
        self._tuples = {item[0]: item for item in types}
        self._types: dict[int, TypeInfo] = dict(BUILTIN)
        self._texts: dict[int, Callable[[bytes], str]] = {}

    def has_binary(self, oid: int) -> bool:
        return has_binary(self.type(oid))

    def type(self, oid: int) -> TypeInfo:
        """The type; one that nobody described is a base type that can only be read as text."""
        known = self._types.get(oid)
        if known is None:
            known = self._types[oid] = self._resolved(oid)
        return known

    def text(self, oid: int, kind: int, value: bytes) -> str:
        """The value's canonical text. `kind` is t or b."""
        if kind == _TEXT:
            return utf8(value)
        read = self._texts.get(oid)
        if read is None:
            read = self._texts[oid] = text_of_binary(self.type(oid))
        return read(value)

    def _resolved(self, oid: int) -> TypeInfo:
        # While it is being resolved it stands for itself as unreadable, so that a cycle ends.
        self._types[oid] = TypeInfo(oid, "", f"type {oid}", has_binary=False)
        if oid not in self._tuples:
            return self._types[oid]
        _, name, kind, element, fields, delimiter = self._tuples[oid]
        return TypeInfo(
            oid,
            "",
            name,
            kind,  # type: ignore[arg-type]  # checked when the catalog was made
            self.type(element) if element else None,
            tuple((field, self.type(field_oid)) for field, field_oid in fields),
            delimiter=delimiter,
        )
