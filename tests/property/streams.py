"""Strategies: streams of frames that a walsender could have sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from tests.property.samples import Sample

from walcast.model import UNCHANGED
from walcast.testing import batches as wire
from walcast.testing.batches import Table, Value

_INT8 = 20
_KEYS = st.integers(1, 6)


@dataclass
class Published:
    """A table, and which keys it has now."""

    table: Table
    kinds: list[Sample]
    live: set[int] = field(default_factory=set)

    @property
    def oid(self) -> int:
        return self.table.oid

    @property
    def full(self) -> bool:
        return self.table.identity == "f"


@dataclass
class Draft:
    """A stream on its way."""

    draw: Any
    samples: list[Sample]
    binary: bool
    tables: list[Published] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    lsn: int = 0x10_0000
    xid: int = 700
    oid: int = 16_400
    announced: dict[tuple[int | None, int], Table] = field(default_factory=dict)
    """By the xid of streamed (sub)transactions: the server announces less often, but again after each that was undone."""
    fresh: int = 100
    """Keys from here on were never used: for what may be undone."""


@st.composite
def streams(draw: st.DrawFn, samples: list[Sample]) -> list[bytes]:
    """Transactions over some tables: changes of every kind, relation changes, logical messages, streamed transactions
    between others with subtransactions that were undone."""
    draft = Draft(draw, samples, draw(st.booleans()))
    for _ in range(draw(st.integers(1, 3))):
        draft.tables.append(_new_table(draft))
    for _ in range(draw(st.integers(1, 6))):
        match draw(st.sampled_from(("plain", "plain", "plain", "streamed", "alter", "message", "keepalive"))):
            case "plain":
                _plain(draft)
            case "streamed":
                _streamed(draft)
            case "alter":
                _alter(draft)
            case "message":
                draft.lsn += 0x40
                content = draw(st.binary(max_size=9))
                draft.frames.append(wire.message("alone", content, transactional=False, lsn=draft.lsn))
            case "keepalive":
                draft.lsn += 0x10
                draft.frames.append(wire.keepalive(draft.lsn, reply=draw(st.booleans())))
    return draft.frames


def _new_table(draft: Draft) -> Published:
    draft.oid += 1
    kinds = draft.draw(st.lists(st.sampled_from(draft.samples), max_size=4))
    identity = draft.draw(st.sampled_from("ddfi"))
    name = draft.draw(st.sampled_from(("t", "Übung", 'q"uote', "t2")))
    return Published(_table(draft.oid, f"{name}_{draft.oid}", kinds, identity), kinds)


def _table(oid: int, name: str, kinds: list[Sample], identity: str) -> Table:
    columns = [("id", _INT8, True)]
    columns += [(f"c{number}", kind.oid, identity == "f", kind.typmod) for number, kind in enumerate(kinds)]
    return Table(oid, "app", name, columns, identity)


def _alter(draft: Draft) -> None:
    """A relation changes: another column, or dropped and created under the same name."""
    draw = draft.draw
    published = draw(st.sampled_from(draft.tables))
    kinds = (
        [*published.kinds, draw(st.sampled_from(draft.samples))]
        if draw(st.booleans())
        else published.kinds[1:]
    )
    oid = published.oid
    if draw(st.booleans()):
        draft.oid += 1
        oid, published.live = draft.oid, set()
    published.kinds = kinds
    published.table = _table(oid, published.table.name, kinds, published.table.identity)


def _plain(draft: Draft) -> None:
    draw = draft.draw
    draft.lsn += 0x100
    draft.xid += 1
    time = draw(st.integers(0, 10**15))
    commit_lsn = draft.lsn
    draft.frames.append(wire.begin(commit_lsn, draft.xid, time))
    if draw(st.integers(0, 4)) == 0:
        draft.frames.append(wire.origin(draw(st.sampled_from(("node_a", "", "ö")))))
    for _ in range(draw(st.integers(0, 8))):
        if draw(st.integers(0, 15)) == 0:
            _alter(draft)
        _change(draft, draw(st.sampled_from(draft.tables)), None, keys=_KEYS)
    draft.lsn += 0x30
    draft.frames.append(wire.commit(commit_lsn, draft.lsn, time))


def _streamed(draft: Draft) -> None:
    """In blocks, with other transactions between them; then committed or undone. It works on rows of its own."""
    draw = draft.draw
    draft.xid += 10
    top = draft.xid
    subxids = list(range(top, top + 1 + draw(st.integers(0, 3))))
    draft.xid = subxids[-1]
    first_key = draft.fresh
    draft.fresh += 1_000
    for block in range(draw(st.integers(1, 3))):
        draft.frames.append(wire.stream_start(top, first=block == 0))
        if block == 0 and draw(st.integers(0, 4)) == 0:
            draft.frames.append(wire.origin("streamed"))
        for _ in range(draw(st.integers(0, 5))):
            subxid = draw(st.sampled_from(subxids))
            published = draw(st.sampled_from(draft.tables))
            base = first_key + 100 * (subxid - top)
            _change(draft, published, subxid, keys=st.integers(base, base + 3))
        draft.frames.append(wire.stream_stop())
        for subxid in subxids[:0:-1]:
            if draw(st.integers(0, 3)) == 0:
                draft.frames.append(wire.stream_abort(top, subxid))
                subxids.remove(subxid)
                _forget(draft, first_key + 100 * (subxid - top), 100)
        if draw(st.booleans()):
            _plain(draft)
    if draw(st.integers(0, 3)) == 0:
        draft.frames.append(wire.stream_abort(top, top))
        _forget(draft, first_key, draft.fresh - first_key)
        return
    draft.lsn += 0x100
    commit_lsn, draft.lsn = draft.lsn, draft.lsn + 0x30
    draft.frames.append(wire.stream_commit(top, commit_lsn, draft.lsn, draw(st.integers(0, 10**15))))


def _forget(draft: Draft, base: int, count: int) -> None:
    for published in draft.tables:
        published.live = {key for key in published.live if not base <= key < base + count}


def _change(draft: Draft, published: Published, xid: int | None, *, keys: st.SearchStrategy[int]) -> None:
    draw = draft.draw
    key = draw(keys)
    kind = draw(st.sampled_from(("row",) * 9 + ("message", "truncate")))
    if kind == "message":
        draft.frames.append(wire.message("pre\tfix", draw(st.binary(max_size=5)), lsn=draft.lsn, xid=xid))
    elif kind == "truncate" and xid is None:
        tables = draw(
            st.lists(st.sampled_from(draft.tables), min_size=1, max_size=2, unique_by=lambda table: table.oid)
        )
        cascade, restart = draw(st.booleans()), draw(st.booleans())
        oids = [table.oid for table in tables]
        for table in tables:
            _announce(draft, table, xid)
        draft.frames.append(wire.truncate(oids, cascade=cascade, restart_identity=restart, xid=xid))
        for table in tables:
            table.live = {key for key in table.live if key >= 100}
    elif key not in published.live:
        _announce(draft, published, xid)
        draft.frames.append(wire.insert(published.oid, _row(draft, published, key), xid))
        published.live.add(key)
    elif draw(st.integers(0, 3)) == 0:
        old = _row(draft, published, key)
        _announce(draft, published, xid)
        draft.frames.append(wire.delete(published.oid, **_identity(published, old), xid=xid))
        published.live.discard(key)
    else:
        _update(draft, published, key, draw(keys), xid)


def _announce(draft: Draft, published: Published, xid: int | None) -> None:
    """Always just before a change of it."""
    if draft.announced.get((xid, published.oid)) != published.table:
        draft.announced[xid, published.oid] = published.table
        draft.frames.append(wire.relation(published.table, xid))


def _update(draft: Draft, published: Published, key: int, other: int, xid: int | None) -> None:
    """Now and then one that changes the key. What was not touched may be unchanged TOAST."""
    _announce(draft, published, xid)
    draw = draft.draw
    moved = other not in published.live and draw(st.integers(0, 5)) == 0
    new = _row(draft, published, other if moved else key)
    new[1:] = [UNCHANGED if draw(st.integers(0, 4)) == 0 else value for value in new[1:]]
    identity: dict[str, Any] = {}
    if moved or published.full:
        identity = _identity(published, _row(draft, published, key))
    draft.frames.append(wire.update(published.oid, new, **identity, xid=xid))
    if moved:
        published.live.discard(key)
        published.live.add(other)


def _identity(published: Published, row: list[Value]) -> dict[str, Any]:
    return {"old": row} if published.full else {"key": [row[0], *([None] * (len(row) - 1))]}


def _row(draft: Draft, published: Published, key: int) -> list[Value]:
    draw = draft.draw
    row: list[Value] = [key.to_bytes(8) if draft.binary else str(key)]
    for kind in published.kinds:
        if draw(st.integers(0, 6)) == 0:
            row.append(None)
            continue
        text, binary = draw(st.sampled_from(kind.values))
        # A type without a binary form is sent as text on a binary connection.
        row.append(binary if draft.binary and draw(st.integers(0, 19)) else text.decode())
    return row
