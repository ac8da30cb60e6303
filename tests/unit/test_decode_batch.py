"""What a batch says of itself, and what is left of it for a sink that has some of it; by both decoders."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from walcast.decode import NATIVE, TWIN, IdleBatch, Implementation, StreamBatch
from walcast.model import (
    UNCHANGED,
    Batch,
    Checkpoint,
    ConfigError,
    DecodeError,
    Lsn,
    Part,
    Position,
    TableId,
    TypeChoices,
    ValueRangeError,
)
from walcast.testing import batches as wire
from walcast.testing.batches import INT8, JSONB, NUMERIC, TEXT, TIMESTAMPTZ, Stream, Table, batches_from

USERS = Table(16_400, "app", "users", [("id", INT8, True), ("name", TEXT)])
NOTES = Table(16_401, "app", "notes", [("body", TEXT, True), ("n", NUMERIC, True)], "f")
MONEY = (10 << 16 | 2) + 4

DECODERS = [decoder for decoder in (NATIVE, TWIN) if decoder is not None]


@pytest.fixture(params=DECODERS, ids=lambda decoder: decoder.name)
def decoder(request: pytest.FixtureRequest) -> Implementation:
    found: Implementation = request.param
    return found


@pytest.fixture
def batch(decoder: Implementation) -> StreamBatch:
    """Two transactions over two tables."""
    stream = Stream(USERS, NOTES)
    stream.begin(origin_name="elsewhere")
    stream.insert(USERS, [1, "ann"])
    stream.update(USERS, [1, UNCHANGED])
    stream.insert(NOTES, ["x", "1.50"])
    stream.commit()
    stream.begin()
    stream.update(USERS, [2, "bob"], key=[1, None])
    stream.delete(NOTES, old=["x", "1.50"])
    stream.truncate(NOTES, cascade=True)
    stream.message("hello", b"\x00")
    stream.commit()
    (made,) = stream.batches(implementation=decoder, epoch=3)
    return made


def test_it_is_a_batch_of_whole_transactions_up_to_its_checkpoint(batch: StreamBatch) -> None:
    assert (batch.kind, len(batch), batch.transactions, batch.part) == ("changes", 7, 2, None)
    assert batch.checkpoint == Checkpoint(3, Position(Lsn(0x1200), 4), Lsn(0x1230))
    assert batch.commit_time == 946_684_802.0
    assert batch.nbytes > 0
    users, notes = batch.relations
    assert batch.counts(users) == {"insert": 1, "update": 2, "delete": 0, "truncate": 0, "snapshot": 0}
    assert batch.counts(notes) == {"insert": 1, "update": 0, "delete": 1, "truncate": 1, "snapshot": 0}


def test_changes_carry_python_values_old_keys_and_origins(batch: StreamBatch) -> None:
    first, second, third, moved, deleted, truncated, message = batch.changes()
    assert (first.op, first.new, first.old, first.origin) == (
        "insert",
        {"id": 1, "name": "ann"},
        None,
        "elsewhere",
    )
    assert second.new == {"id": 1, "name": UNCHANGED}
    assert third.relation is batch.relations[1]
    assert (moved.old, moved.new, moved.key) == ({"id": 1}, {"id": 2, "name": "bob"}, (1,))
    assert (moved.position, moved.xid, moved.origin) == (Position(Lsn(0x1200), 1), 702, None)
    assert deleted.new is None
    assert deleted.old == {"body": "x", "n": deleted.row["n"]}
    assert str(deleted.row["n"]) == "1.50"
    assert (truncated.op, truncated.cascade, truncated.restart_identity) == ("truncate", True, False)
    assert message.message is not None
    assert (message.message.prefix, message.message.content, message.relation) == ("hello", b"\x00", None)


def test_a_sink_at_a_checkpoint_gets_only_what_came_after_it(batch: StreamBatch) -> None:
    first = Checkpoint(3, Position(Lsn(0x1100), 3), Lsn(0x1130))
    rest = batch.after(first, {})
    assert rest is not None
    assert {change.xid for change in rest.changes()} == {702}
    assert rest.checkpoint == batch.checkpoint
    assert batch.after(batch.checkpoint, {}) is None
    assert batch.after(None, {}) is batch


def test_a_commit_that_begins_where_an_idle_position_ends_is_not_taken_for_old(batch: StreamBatch) -> None:
    """A keepalive's LSN, or a slot's consistent point, may be the start of the next commit record."""
    for position in (Position(Lsn(0), 0), Position(Lsn(0x1100), 0), Position(Lsn(0x900), 7)):
        rest = batch.after(Checkpoint(3, position, Lsn(0x1100)), {})
        assert rest is not None
        assert len(rest) == 7


def test_another_epoch_decides_before_any_lsn(batch: StreamBatch) -> None:
    far = Position(Lsn(0xFFFF_FFFF), 9)
    assert batch.after(Checkpoint(2, far, Lsn(0xFFFF_FFFF)), {}) is batch
    assert batch.after(Checkpoint(4, Position(Lsn(1), 1), Lsn(2)), {}) is None


def test_changes_before_a_tables_snapshot_are_dropped_for_that_table_alone(batch: StreamBatch) -> None:
    users = TableId("app", "users")
    rest = batch.after(None, {users: Lsn(0x1200)})
    assert rest is not None
    assert [change.op for change in rest.changes() if change.relation is batch.relations[0]] == ["update"]
    assert rest.counts(batch.relations[1]) == batch.counts(batch.relations[1])


def test_a_batch_that_loses_all_its_changes_still_moves_the_checkpoint(decoder: Implementation) -> None:
    stream = Stream(USERS)
    stream.begin()
    stream.insert(USERS, [1, "ann"])
    stream.commit()
    (batch,) = stream.batches(implementation=decoder)
    left = batch.after(None, {TableId("app", "users"): Lsn(0x9999)})
    assert isinstance(left, IdleBatch)
    assert (left.kind, left.checkpoint, len(left), list(left.changes())) == ("idle", batch.checkpoint, 0, [])
    assert left.after(batch.checkpoint, {}) is None


def test_a_sink_sees_every_part_of_a_transaction_or_none(decoder: Implementation) -> None:
    """Parts whose changes were all dropped come empty: a sink that began a transaction must see its last part."""
    stream = Stream(USERS, NOTES)
    stream.begin()
    stream.insert(USERS, [1, "x" * 400])
    stream.insert(NOTES, ["y" * 400, "1"])
    stream.commit()
    parts = stream.batches(implementation=decoder, part_bytes=300)
    assert [part.part and part.part.last for part in parts][-1] is True
    assert all(part.checkpoint is None for part in parts[:-1])
    starts = {TableId("app", "notes"): Lsn(0x9999)}
    left = [part.after(None, starts) for part in parts]
    assert [None if part is None else part.part for part in left] == [
        Part(n, n == len(parts) - 1) for n in range(len(parts))
    ]
    assert {None if part is None else part.kind for part in left} == {"changes"}
    assert left[-1] is not None
    assert left[-1].checkpoint == parts[-1].checkpoint
    assert [part.after(parts[-1].checkpoint, starts) for part in parts] == [None] * len(parts)


def test_a_relation_that_the_batch_does_not_have_is_refused(
    batch: StreamBatch, decoder: Implementation
) -> None:
    (other,) = _one_insert(Table(16_500, "app", "else", USERS.columns), [1, "a"], decoder)
    (foreign,) = other.relations
    assert batch.counts(foreign)["insert"] == 0
    with pytest.raises(ValueError, match=r"app\.else"):
        batch.net(foreign)


def test_arrow_from_the_twin_says_what_to_install_when_pyarrow_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (batch,) = _one_insert(USERS, [1, "a"], TWIN)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError) as raised:
        batch.table(batch.relations[0])
    assert "walcast[arrow]" in (raised.value.hint or "")


def test_narrowing_a_value_that_does_not_fit_fails_loudly(decoder: Implementation) -> None:
    for column, value, choices in (
        (("n", NUMERIC, False, MONEY), "NaN", TypeChoices(numeric="decimal")),
        (("n", NUMERIC), "1" + "0" * 400, TypeChoices(numeric="float")),
        (("t", TIMESTAMPTZ), "infinity", TypeChoices(temporal="native")),
        (("a", 1007), "{{1},{2}}", TypeChoices(arrays="list")),
    ):
        (batch,) = _one_insert(Table(16_400, "s", "t", [("id", INT8, True), column]), [1, value], decoder)
        batch.table(batch.relations[0])
        with pytest.raises(ValueRangeError, match=f"column {column[0]}") as raised:
            batch.table(batch.relations[0], choices)
        assert raised.value.hint
        assert value not in raised.value.message


def test_broken_values_are_named_by_their_fault_not_by_their_bytes(decoder: Implementation) -> None:
    table = Table(16_400, "s", "t", [("id", INT8, True), ("j", JSONB)])
    (batch,) = _one_insert(table, [1, b"\x07secret"], decoder)
    for ask in (lambda: list(batch.changes()), batch.json_lines):
        with pytest.raises(DecodeError) as raised:
            ask()
        assert raised.value.offset == 0
        assert "secret" not in str(raised.value)


def test_an_idle_batch_has_nothing_but_a_checkpoint() -> None:
    checkpoint = Checkpoint(1, Position(Lsn(5), 1), Lsn(9))
    idle: Batch = IdleBatch(checkpoint)
    assert (idle.kind, len(idle), idle.checkpoint, idle.part) == ("idle", 0, checkpoint, None)
    assert (idle.json_lines(), list(idle.raw()), idle.commit_time, idle.transactions) == (b"", [], None, 0)
    assert idle.after(None, {}) is idle
    assert idle.after(Checkpoint(1, Position(Lsn(5), 1), Lsn(8)), {}) is idle
    assert idle.after(checkpoint, {}) is None


def _one_insert(table: Table, row: wire.Row, decoder: Implementation) -> list[StreamBatch]:
    frames = [wire.relation(table), wire.begin(1, 1), wire.insert(table.oid, row), wire.commit(1, 2)]
    return batches_from(frames, implementation=decoder)


def test_it_is_cut_at_a_position_into_two_halves(batch: StreamBatch) -> None:
    head, rest = (
        batch.upto(Lsn(0x1200)),
        batch.after(Checkpoint(3, Position(Lsn(0x1100), 3), Lsn(0x1130)), {}),
    )
    assert head is not None
    assert rest is not None
    assert head.checkpoint == Checkpoint(3, Position(Lsn(0x1100), 3), Lsn(0x1130))
    assert rest.checkpoint == batch.checkpoint
    assert [*head.changes(), *rest.changes()] == list(batch.changes())
    assert (list(head.xids), list(rest.xids), list(batch.xids)) == ([701], [702], [701, 702])
    assert batch.upto(Lsn(0x1100)) is None
    assert batch.upto(Lsn(0x1201)) is batch
    assert rest.upto(Lsn(0x1200)) is None


def test_the_half_before_a_position_keeps_the_checkpoint_of_changes_that_are_dropped(
    batch: StreamBatch,
) -> None:
    without = batch.after(None, {TableId("app", "users"): Lsn(0x1200), TableId("app", "notes"): Lsn(0x1200)})
    assert without is not None
    head = without.upto(Lsn(0x1200))
    assert (head, len(head or ())) == (head, 0)
    assert head is not None
    assert (head.kind, head.checkpoint) == ("idle", Checkpoint(3, Position(Lsn(0x1100), 3), Lsn(0x1130)))


def test_a_part_is_on_one_side_of_a_position_with_its_whole_transaction(decoder: Implementation) -> None:
    stream = Stream(USERS)
    stream.begin()
    for number in range(40):
        stream.insert(USERS, [number, "x" * 20])
    stream.commit()
    parts = stream.batches(implementation=decoder, part_bytes=500)
    assert len(parts) > 2
    for part in parts:
        assert part.upto(Lsn(0x1100)) is None
        assert part.upto(Lsn(0x1101)) is part
        emptied = part.after(None, {TableId("app", "users"): Lsn(0x2000)})
        assert emptied is not None
        assert emptied.upto(Lsn(0x1100)) is None
        assert emptied.upto(Lsn(0x1101)) is emptied
        assert list(part.xids) == [701]


def test_batches_that_follow_each_other_are_joined_into_one(decoder: Implementation) -> None:
    stream = Stream(USERS, NOTES)
    for number in range(3):
        stream.begin(origin_name=f"node {number}")
        stream.insert(NOTES if number else USERS, ["7", number])
        stream.message("prefix", b"content")
        stream.truncate(USERS, NOTES)
        stream.commit()
    catalog = decoder.Catalog([])
    first, *later = [_with(catalog, one) for one in stream.batches(implementation=decoder, batch_bytes=1)]
    idle = IdleBatch(Checkpoint(1, later[-1].checkpoint.position, Lsn(0x9000)))  # type: ignore[union-attr]  # it is there
    joined, count = first.join([*later, idle])
    assert count == 3
    assert (len(joined), joined.transactions, joined.checkpoint) == (12, 3, idle.checkpoint)
    assert list(joined.changes()) == [change for batch in (first, *later) for change in batch.changes()]
    assert joined.commit_time == later[-1].commit_time
    behind, count = idle.join([first, *later])
    assert (count, len(behind), behind.checkpoint) == (3, 12, later[-1].checkpoint)
    rest = joined.after(first.checkpoint, {})
    assert rest is not None
    assert list(rest.changes()) == [change for batch in later for change in batch.changes()]


def test_parts_other_versions_and_other_histories_are_not_joined(decoder: Implementation) -> None:
    catalog = decoder.Catalog([])

    def made(table: Table, epoch: int = 1, part_bytes: int = 1 << 20) -> StreamBatch:
        stream = Stream(table)
        stream.begin()
        for number in range(3):
            stream.insert(table, [str(number)] * len(table.columns))
        stream.commit()
        found = stream.batches(implementation=decoder, epoch=epoch, part_bytes=part_bytes)
        return _with(catalog, found[0], epoch)

    first, same = made(USERS), made(USERS)
    wider = made(Table(USERS.oid, "app", "users", [*USERS.columns, ("more", TEXT)]))
    renamed = made(Table(16_402, "app", "users", USERS.columns))
    part, idle_part = made(USERS, part_bytes=1), IdleBatch(None, Part(1, True))
    for other in (wider, renamed, made(USERS, epoch=2), part, idle_part):
        assert first.join([other]) == (first, 0)
        joined, count = first.join([same, other, same])
        assert (count, len(joined)) in ((1, 6), (0, 3))
    assert part.join([same]) == (part, 0)
    assert first.join([]) == (first, 0)


def _with(catalog: Any, batch: StreamBatch, epoch: int = 1) -> StreamBatch:
    """Batches of one stream share its catalog."""
    given = {"epoch": epoch, "checkpoint": batch.checkpoint, "part": batch.part}
    return StreamBatch(batch.frames, batch.relations, catalog, **given)
