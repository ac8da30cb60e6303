"""Changes as lines of JSON (docs/reference/jsonl.md)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable

from walcast.decode.twin.catalog import PyCatalog
from walcast.decode.twin.index import Entry, Logical, Relation, Truncated, Tuple
from walcast.decode.values.temporal import date_text, time_text

_OPERATIONS = {
    b"I": "insert",
    b"U": "update",
    b"D": "delete",
    b"T": "truncate",
    b"M": "message",
    b"R": "snapshot",
}
_DAYS_TO_2000 = 10_957
_UNCHANGED = ord("u")
_AS_NUMBER = frozenset({20, 21, 23, 26, 700, 701})
"""But NaN and infinity are strings."""
_AS_JSON = frozenset({114, 3802})
_BOOL = 16


def json_lines(
    relations: list[Relation], entries: Iterable[Entry], catalog: PyCatalog, keys: list[list[int]]
) -> bytes:
    writers = [_Writer(relation, catalog, key) for relation, key in zip(relations, keys, strict=True)]
    lines = [_line(entry, writers) for entry in entries]
    return "".join(lines).encode()


def _line(entry: Entry, writers: list[_Writer]) -> str:
    pieces = [f'"op":"{_OPERATIONS[entry.op]}"']
    writer = writers[entry.relation] if entry.relation >= 0 else None
    if writer is not None:
        pieces.append(writer.table)
    lsn = entry.transaction.commit_lsn
    pieces.append(f'"lsn":"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}","ordinal":{entry.ordinal}')
    if entry.op != b"R":
        pieces.append(f'"xid":{entry.transaction.xid},"ts":"{_timestamp(entry.transaction.commit_time)}"')
        if entry.transaction.origin is not None:
            pieces.append(f'"origin":{_string(entry.transaction.origin)}')
    if isinstance(entry.detail, Logical):
        content = base64.b64encode(entry.detail.content).decode()
        transactional = "true" if entry.detail.transactional else "false"
        pieces.append(
            f'"prefix":{_string(entry.detail.prefix)},"content":"{content}","transactional":{transactional}'
        )
    elif isinstance(entry.detail, Truncated):
        pieces.append(
            f'"cascade":{"true" if entry.detail.cascade else "false"},'
            f'"restart_identity":{"true" if entry.detail.restart_identity else "false"}'
        )
    elif writer is not None:
        pieces += writer.row(entry)
    return "{" + ",".join(pieces) + "}\n"


class _Writer:
    """Writes the rows of one relation."""

    def __init__(self, relation: Relation, catalog: PyCatalog, key: list[int]) -> None:
        self.table = f'"schema":{_string(relation.schema)},"table":{_string(relation.name)}'
        self._catalog = catalog
        self._key = sorted(key)
        self._names = [_string(column.name) for column in relation.columns]
        self._types = [catalog.type(column.type_oid).base.oid for column in relation.columns]

    def row(self, entry: Entry) -> list[str]:
        pieces = []
        everything = range(len(self._names))
        if self._key:
            before = entry.old if entry.old_kind else entry.new
            pieces.append(f'"key":{self._object(before, self._key)}')
        if entry.op != b"D":
            pieces.append(f'"new":{self._object(entry.new, everything)}')
        if entry.old_kind == b"O":
            pieces.append(f'"old":{self._object(entry.old, everything)}')
        unchanged = [self._names[at] for at, kind in enumerate(entry.new.kinds) if kind == _UNCHANGED]
        if unchanged:
            pieces.append(f'"unchanged":[{",".join(unchanged)}]')
        return pieces

    def _object(self, row: Tuple, columns: Iterable[int]) -> str:
        pairs = [
            f"{self._names[at]}:{self._value(at, row.kinds[at], row.values[at])}"
            for at in columns
            if row.kinds[at] != _UNCHANGED
        ]
        return "{" + ",".join(pairs) + "}"

    def _value(self, at: int, kind: int, value: bytes | None) -> str:
        if value is None:
            return "null"
        base = self._types[at]
        text = self._catalog.text(base, kind, value)
        if base == _BOOL:
            return "true" if text == "t" else "false"
        if base in _AS_NUMBER and "0" <= text[-1:] <= "9":
            return text
        if base in _AS_JSON:
            return text.replace("\n", " ").replace("\r", " ")
        return _string(text)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _timestamp(micros: int) -> str:
    days, rest = divmod(micros, 86_400_000_000)
    date, time = date_text(days - _DAYS_TO_2000).removesuffix(" BC"), time_text(rest)
    return f"{date}T{time[:8]}.{time[9:]:0<6}Z"
