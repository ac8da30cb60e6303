"""Rows that a target can never take: what a sink says of them, and how they are kept.

A sink that meets one raises `RowsRefused`. What becomes of the row is the sink's policy: the table stops, or the row is
set aside as a dead letter, or it is skipped. Behind a row that was set aside wait all later changes of its key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from walcast.model.batch import Batch, RawChange
from walcast.model.change import UNCHANGED, Change
from walcast.model.errors import OperatorError
from walcast.model.lsn import Lsn, Position
from walcast.model.relation import Column, Relation, TableId, TypeInfo

RowPolicy = Literal["stop", "set_aside", "skip"]
"""stop: the table stops, until it is copied anew. set_aside: the row is kept as a dead letter, its key waits. skip: the
row is left out and its position is logged."""

RefusalKind = Literal["data", "integrity", "handler", "behind"]
"""data: the target cannot hold a value. integrity: a constraint of the target refuses the row. handler: a function keeps
failing. behind: nothing is wrong with it but that an earlier change of its key was set aside."""

Rest = Literal["undone", "done", "lost"]

LIMIT: Final = 1000
"""Dead letters of one sink, by default: more than so many are no longer single rows that do not fit."""

_LONGEST: Final = 400


@dataclass(frozen=True, slots=True)
class RowPolicies:
    """What a sink does with rows that can never be applied. `limit`: beyond so many dead letters the table stops."""

    data: RowPolicy = "stop"
    integrity: RowPolicy = "stop"
    handler: RowPolicy = "stop"
    limit: int = LIMIT

    def of(self, kind: RefusalKind) -> RowPolicy:
        policies: dict[RefusalKind, RowPolicy] = {
            "data": self.data,
            "integrity": self.integrity,
            "handler": self.handler,
        }
        return policies.get(kind, "set_aside")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One change of a batch that cannot be applied. `place` counts from 0 in the order of `Batch.raw`; `code` is a SQLSTATE
    or the name of an exception; `message` never holds a cell's value; `by` is the handler that refused it."""

    place: int
    kind: RefusalKind
    code: str
    message: str
    by: str = ""
    attempts: int = 1


class RowsRefused(OperatorError):
    """The target refuses rows of `batch`. `rest` says what became of the batch's other rows: they are `undone` and may be
    written again; `done`, so that nothing is to be written again; or `lost` together with all that was accepted before."""

    def __init__(self, batch: Batch, refusals: Sequence[Refusal], rest: Rest = "undone") -> None:
        super().__init__(
            f"the target refuses {len(refusals)} rows", hint="see `walcast dead list`, or the sink's log"
        )
        self.batch = batch
        self.refusals = tuple(refusals)
        self.rest = rest


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A change that was set aside. `number` counts up within one sink, in the order in which letters of a key have to be
    applied. `keys` are the row's key before and after it, as text. Times are Unix seconds.

    `raw` has the values as the server sent them; its `relation` means nothing here.
    """

    number: int
    relation: Relation
    raw: RawChange
    keys: tuple[str, ...]
    kind: RefusalKind
    code: str
    message: str
    by: str
    attempts: int
    since: float
    tried: float

    @property
    def table(self) -> TableId:
        return self.relation.table

    @property
    def position(self) -> Position:
        return Position(Lsn(self.raw.commit_lsn), self.raw.ordinal)

    def as_json(self) -> dict[str, Any]:
        """JSON values, for `of`."""
        raw = self.raw
        relation = asdict(self.relation)
        return {
            "number": self.number,
            "relation": relation,
            "op": raw.op.decode(),
            "commit_lsn": str(Lsn(raw.commit_lsn)),
            "ordinal": raw.ordinal,
            "xid": raw.xid,
            "commit_time": raw.commit_time,
            "new": _coded(raw.kinds, raw.values),
            "old_kind": raw.old_kind.decode(),
            "old": _coded(raw.old_kinds, raw.old_values),
            "keys": list(self.keys),
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "by": self.by,
            "attempts": self.attempts,
            "since": self.since,
            "tried": self.tried,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> DeadLetter:
        """Raises KeyError, ValueError or TypeError when it is not one."""
        kinds, values = _decoded(value["new"])
        old_kinds, old_values = _decoded(value["old"])
        if value["kind"] not in get_args(RefusalKind):
            raise ValueError(f"no kind {value['kind']!r}")
        raw = RawChange(
            value["op"].encode(),
            0,
            int(Lsn.parse(value["commit_lsn"])),
            value["ordinal"],
            value["xid"],
            value["commit_time"],
            kinds,
            values,
            value["old_kind"].encode(),
            old_kinds,
            old_values,
            (),
        )
        kept = ("number", "kind", "code", "message", "by", "attempts", "since", "tried")
        return cls(
            relation=_relation(value["relation"]),
            raw=raw,
            keys=tuple(value["keys"]),
            **{name: value[name] for name in kept},
        )


def row_keys(change: Change) -> tuple[str, str]:
    """The row's key before a change and after it, as text; of a table without a key its whole row."""
    relation = change.relation
    assert relation is not None
    names = [column.name for column in relation.columns if column.key] or list(relation.names)
    new, old = change.new or {}, change.old
    before = [(old if old is not None else new).get(name) for name in names]
    if change.new is None:
        after = before
    else:
        after = [
            kept if (value := new.get(name)) is UNCHANGED else value
            for name, kept in zip(names, before, strict=True)
        ]
    return key_text(before), key_text(after)


def key_text(values: Sequence[object]) -> str:
    """A key's values (as `Change` has them) as text: equal keys, equal texts."""
    text = json.dumps([None if value is None else _text(value) for value in values], ensure_ascii=False)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]}... {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def _text(value: object) -> str:
    if isinstance(value, Decimal):  # 1.0 is the key 1.00, too
        return str(value.normalize())
    return value.hex() if isinstance(value, bytes) else str(value)


def _coded(kinds: bytes, values: Sequence[bytes | None]) -> list[str]:
    """A value as its kind and base64."""
    return [
        chr(kind) + ("" if value is None else base64.b64encode(value).decode())
        for kind, value in zip(kinds, values, strict=True)
    ]


def _decoded(coded: Sequence[str]) -> tuple[bytes, tuple[bytes | None, ...]]:
    kinds = "".join(item[0] for item in coded).encode()
    return kinds, tuple(base64.b64decode(item[1:]) if item[0] in "tb" else None for item in coded)


def _relation(value: Mapping[str, Any]) -> Relation:
    columns = tuple(Column(**{**column, "type": _type(column["type"])}) for column in value["columns"])
    return Relation(value["oid"], TableId(*value["table"]), columns, value["identity"])


def _type(value: Mapping[str, Any]) -> TypeInfo:
    element = value["element"]
    return TypeInfo(
        **{
            **value,
            "element": None if element is None else _type(element),
            "fields": tuple((name, _type(part)) for name, part in value["fields"]),
            "labels": tuple(value["labels"]),
        }
    )
