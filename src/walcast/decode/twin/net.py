"""A batch's changes of one relation, collapsed to the last state of each key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walcast.decode.frames import NetTuple
from walcast.decode.twin.index import Entry, Relation, Truncated, Tuple
from walcast.decode.twin.rowset import PyRowSet

_NULL, _UNCHANGED = ord("n"), ord("u")
_Key = tuple[tuple[int, bytes | None], ...]


def net(relation: Relation, entries: Sequence[Entry], key: list[int]) -> NetTuple:
    """See `walcast.model.NetChanges`."""
    truncates = [entry.detail for entry in entries if isinstance(entry.detail, Truncated)]
    # What came before the last truncate is gone.
    tail = entries[max((at + 1 for at, entry in enumerate(entries) if entry.op == b"T"), default=0) :]
    truncated = (
        bool(truncates),
        any(detail.cascade for detail in truncates),
        any(detail.restart_identity for detail in truncates),
    )
    if not key and entries and all(entry.op == b"I" for entry in entries):
        return *truncated, False, None, [([], True, PyRowSet(relation, [entry.new for entry in entries]))]
    # New rows need no key: nothing to collapse.
    if all(entry.op in (b"I", b"R") for entry in tail) and (key or len(tail) == len(entries)):
        rows = PyRowSet(relation, [entry.new for entry in tail])
        return *truncated, False, None, [([], True, rows)] if tail else []
    collapsing = _Collapsing(relation, key)
    if not key or not all(collapsing.take(entry) for entry in tail):
        return *truncated, True, None, []
    # After a truncate there is nothing that could be deleted.
    gone = [found for found, row in collapsing.rows.items() if row.last is None and not truncates]
    deleted = [_only_key(found, key, len(relation.columns)) for found in gone]
    groups: dict[tuple[tuple[int, ...], bool], list[Tuple]] = {}
    for row in collapsing.rows.values():
        if row.last is not None:
            unchanged = tuple(number for number, kind in enumerate(row.last.kinds) if kind == _UNCHANGED)
            groups.setdefault((unchanged, row.fresh), []).append(row.last)
    return (
        *truncated,
        False,
        PyRowSet(relation, deleted) if deleted else None,
        [(list(unchanged), fresh, PyRowSet(relation, rows)) for (unchanged, fresh), rows in groups.items()],
    )


@dataclass(slots=True)
class _Row:
    """A key's last state: None when it was deleted. `fresh`: the batch inserted it first."""

    last: Tuple | None
    fresh: bool


class _Collapsing:
    def __init__(self, relation: Relation, key: list[int]) -> None:
        self._columns = relation.columns
        self._key = key
        self.rows: dict[_Key, _Row] = {}

    def take(self, entry: Entry) -> bool:
        """False when the change changes a key, or does not say which row it means."""
        old = self._key_of(entry.old, None) if entry.old_kind else None
        found = old if entry.op == b"D" else self._key_of(entry.new, old)
        if found is None or (old is not None and old != found):
            return False
        row = self.rows.setdefault(found, _Row(None, entry.op == b"I"))
        row.last = None if entry.op == b"D" else self._complete(entry, row.last)
        return True

    def _complete(self, entry: Entry, before: Tuple | None) -> Tuple:
        """The new row, with what it left unchanged taken from its old row, or from the row before."""
        new = entry.new
        for other in (entry.old if entry.old_kind else None, before):
            if other is None or _UNCHANGED not in new.kinds:
                continue
            sent = [other is before or entry.old_kind == b"O" or column.key for column in self._columns]
            take = [kind == _UNCHANGED and there for kind, there in zip(new.kinds, sent, strict=True)]
            new = Tuple(
                bytes(
                    theirs if taken else ours
                    for taken, ours, theirs in zip(take, new.kinds, other.kinds, strict=True)
                ),
                tuple(
                    theirs if taken else ours
                    for taken, ours, theirs in zip(take, new.values, other.values, strict=True)
                ),
            )
        return new

    def _key_of(self, row: Tuple, old: _Key | None) -> _Key | None:
        """The key's values. An unchanged one is the old one's; None when that was not sent."""
        found = []
        for place, number in enumerate(self._key):
            kind = row.kinds[number]
            if kind == _UNCHANGED:
                if old is None:
                    return None
                found.append(old[place])
            else:
                found.append((kind, row.values[number]))
        return tuple(found)


def _only_key(found: _Key, key: list[int], width: int) -> Tuple:
    kinds = bytearray([_NULL]) * width
    values: list[bytes | None] = [None] * width
    for number, (kind, value) in zip(key, found, strict=True):
        kinds[number], values[number] = kind, value
    return Tuple(bytes(kinds), tuple(values))
