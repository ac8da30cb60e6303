"""Where a pipeline may begin, one rule at a time: on the pure rules, and on the pipeline where files take part."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from engine_tools import SETTINGS, USERS, ScriptedServer, ScriptedSource, running

from walcast.engine import Pipeline, PipelineSettings, adopt_slot, request_resync
from walcast.engine.ahead import ReadAhead
from walcast.engine.history import History, Record, admit, epoch_of
from walcast.model import (
    Checkpoint,
    Fenced,
    Lsn,
    OperatorError,
    Position,
    Sink,
    SlotLost,
    SlotState,
    SourceIdentity,
    WalcastError,
)
from walcast.testing.memory import MemorySink, MemoryStore

HERE = SourceIdentity(7, 1, 180000, "db")
SLOT = SlotState("slot", Lsn(100), Lsn(90), None, "reserved", None, 0)
FAR = Lsn(1 << 40)
HISTORY = History(7, 1, 1, 1, Lsn(50))
PROMOTED = replace(HERE, timeline=2)


def at(through: int, epoch: int = 1) -> Checkpoint:
    return Checkpoint(epoch, Position(Lsn(through - 1), 1), Lsn(through))


def judged(
    record: Record, identity: SourceIdentity = HERE, **asked: object
) -> tuple[Checkpoint | None, bool]:
    settings: dict[str, object] = {"left_at": None, "anew": False, "resnapshot": False} | asked
    epoch = 1 if identity == HERE else 2
    admission = admit(record, identity, epoch, SLOT, FAR, **settings)  # type: ignore[arg-type]  # as above
    return admission.checkpoint, admission.fresh


def test_a_new_sink_begins_at_the_slot() -> None:
    admission = admit(Record("a", None, None), HERE, 1, SLOT, FAR, left_at=None, anew=False, resnapshot=False)
    assert (admission.checkpoint, admission.fresh, admission.floor) == (None, True, Lsn(100))


def test_a_sink_goes_on_where_it_was() -> None:
    assert judged(Record("a", at(120), HISTORY)) == (at(120), False)
    assert judged(Record("a", at(100), HISTORY)) == (at(100), False)


@pytest.mark.parametrize(
    "record",
    [
        Record("a", None, HISTORY),  # it had begun, and the slot has moved since
        Record("a", None, None, known=True),  # its whole state is gone
        Record("a", at(120), None),  # the journal is gone: which tables had stopped?
        Record("a", at(40), HISTORY),  # older than its own beginning: of a copy before this one
    ],
)
def test_a_missing_checkpoint_is_never_a_fresh_start(record: Record) -> None:
    with pytest.raises(OperatorError, match="checkpoint of sink a is missing") as caught:
        judged(record)
    assert "walcast resync --all --sink a" in str(caught.value.hint)


def test_a_slot_past_the_checkpoint_has_lost_changes() -> None:
    with pytest.raises(SlotLost, match="past sink a"):
        judged(Record("a", at(99), HISTORY))


def test_asked_to_copy_anew_everything_is_taken_and_a_good_checkpoint_kept() -> None:
    assert judged(Record("a", at(99), HISTORY), anew=True) == (None, True)
    assert judged(Record("a", None, None, known=True), anew=True) == (None, True)
    assert judged(Record("a", at(120), HISTORY), anew=True) == (at(120), True)


def test_another_system_is_another_history() -> None:
    record, other = Record("a", at(120), HISTORY), replace(HERE, system_id=8)
    with pytest.raises(OperatorError, match="another history"):
        judged(record, other)
    assert judged(record, other, resnapshot=True) == (None, True)


def test_a_promoted_standby_is_followed_when_it_holds_all_that_the_copy_holds() -> None:
    record = Record("a", at(120), HISTORY)
    assert judged(record, PROMOTED, left_at=Lsn(120)) == (at(120, epoch=2), False)
    with pytest.raises(OperatorError, match="another history"):
        judged(record, PROMOTED, left_at=Lsn(119))
    with pytest.raises(OperatorError, match="another history"):
        judged(record, PROMOTED, left_at=None)


@pytest.mark.parametrize(
    ("shown", "left_at", "doubted"), [(None, 120, False), (120, 120, False), (121, 120, True)]
)
def test_what_read_past_the_end_of_a_history_is_in_doubt(
    shown: int | None, left_at: int, doubted: bool
) -> None:
    record = Record("a", at(120), HISTORY, shown=None if shown is None else Lsn(shown))
    admission = admit(record, PROMOTED, 2, SLOT, FAR, left_at=Lsn(left_at), anew=False, resnapshot=False)
    assert (admission.doubted, admission.checkpoint) == (doubted, at(120, epoch=2))


async def test_how_far_the_source_was_shown_is_kept_before_it_is_used(tmp_path: Path) -> None:
    async def opened(identity: SourceIdentity) -> ReadAhead:
        ahead = ReadAhead(tmp_path / "shown.json", identity)
        await ahead.load()
        return ahead

    first = await opened(HERE)
    assert not first.known
    await first.note(Lsn(120))
    killed = (await opened(HERE)).shown(7, 1)
    assert killed is not None, "durable at once"
    assert killed > 120, "and seldom: it runs ahead of the true end"
    await first.close()
    again = await opened(HERE)
    assert again.shown(7, 1) == Lsn(120)
    assert again.shown(8, 1) is None
    assert again.shown(7, 2) is None, "the next history was taken up with this in sight"
    promoted = await opened(PROMOTED)
    await promoted.note(Lsn(110))
    await promoted.doubt(True)
    await promoted.close()
    last = await opened(PROMOTED)
    assert (last.shown(7, 2), last.shown(7, 1), last.doubted) == (Lsn(110), Lsn(110), True)
    await last.doubt(False)
    assert not (await opened(PROMOTED)).doubted


def test_checkpoints_of_an_earlier_epoch_count_after_a_promotion_but_not_after_a_new_copy() -> None:
    promoted = replace(HISTORY, timeline=2, epoch=2)
    assert judged(Record("a", at(120), promoted), PROMOTED) == (at(120, epoch=2), False)
    copied = replace(promoted, since=2, floor=Lsn(100))
    with pytest.raises(OperatorError, match="missing"):
        admit(
            Record("a", at(120), copied),
            PROMOTED,
            2,
            replace(SLOT, confirmed=Lsn(110)),
            FAR,
            left_at=None,
            anew=False,
            resnapshot=False,
        )


def test_a_source_whose_positions_went_back_is_refused_or_copied_anew() -> None:
    record, settings = Record("a", at(120), HISTORY), {"left_at": None, "anew": False, "resnapshot": False}
    assert admit(record, HERE, 1, SLOT, Lsn(120), **settings).checkpoint == at(120)  # type: ignore[arg-type]  # as above
    with pytest.raises(OperatorError, match="restored to an earlier state"):
        admit(record, HERE, 1, SLOT, Lsn(119), **settings)  # type: ignore[arg-type]  # as above
    for asked in ("anew", "resnapshot"):
        admission = admit(record, HERE, 2, SLOT, Lsn(119), **settings | {asked: True})  # type: ignore[arg-type]  # as above
        assert (admission.checkpoint, admission.fresh, admission.history.since) == (None, True, 2)


def test_the_epoch_rises_with_the_history() -> None:
    assert epoch_of(HERE, [], []) == 1
    assert epoch_of(HERE, [HISTORY], []) == 1
    assert epoch_of(PROMOTED, [HISTORY], []) == 2
    assert epoch_of(PROMOTED, [HISTORY, replace(HISTORY, timeline=2, epoch=2)], []) == 2
    assert epoch_of(HERE, [HISTORY, replace(HISTORY, timeline=2, epoch=2)], []) == 3
    assert epoch_of(HERE, [], [at(5, epoch=4)]) == 4


# -- the same on the pipeline


@pytest.fixture
async def server(tmp_path: Path) -> ScriptedServer:
    """One that a pipeline with the sink `a` has followed for a while."""
    made = ScriptedServer()
    made.put(1)
    await follow(made, tmp_path, a=MemorySink(STORES.setdefault(tmp_path, MemoryStore(record=True))))
    return made


STORES: dict[Path, MemoryStore] = {}


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return STORES[tmp_path]


async def follow(
    server: ScriptedServer, state_dir: Path, settings: PipelineSettings = SETTINGS, **sinks: Sink
) -> Pipeline:
    """Runs until everything, and one row more, is there."""
    flow = Pipeline(ScriptedSource(server), sinks, state_dir, settings)
    async with running(flow):
        await flow.wait_for(server.put(len(server.wal) + 1), timeout=5)
    return flow


async def refused(server: ScriptedServer, state_dir: Path, sink: Sink) -> WalcastError:
    with pytest.raises(WalcastError) as caught:
        await Pipeline(ScriptedSource(server), {"a": sink}, state_dir, SETTINGS).run()
    return caught.value


async def test_the_slot_gone_beside_checkpoints_is_an_error_until_all_is_copied_anew(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    server.confirmed = None
    error = await refused(server, tmp_path, MemorySink(store))
    assert isinstance(error, SlotLost)
    assert "resync" in str(error.hint)
    assert server.confirmed is None
    await request_resync(tmp_path, "a")
    await follow(server, tmp_path, a=MemorySink(store))
    assert store.rows(USERS.table) == server.expected()


async def test_a_slot_made_anew_further_on_is_an_error(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    server.confirmed = server.put(10)
    assert isinstance(await refused(server, tmp_path, MemorySink(store)), SlotLost)


async def test_an_emptied_target_is_an_error_until_it_is_copied_anew(
    server: ScriptedServer, tmp_path: Path
) -> None:
    empty = MemoryStore()
    error = await refused(server, tmp_path, MemorySink(empty))
    assert "checkpoint of sink a is missing" in error.message
    await request_resync(tmp_path, "a")
    await follow(server, tmp_path, a=MemorySink(empty))
    assert empty.rows(USERS.table) == server.expected()


async def test_a_lost_state_directory_does_no_harm_to_a_sink_with_its_own_journal(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    await follow(server, tmp_path / "other", a=MemorySink(store))
    assert len(store.changes) == 2


async def test_a_slot_of_unknown_origin_is_adopted_only_when_that_was_asked_for(tmp_path: Path) -> None:
    server = ScriptedServer(confirmed=Lsn(900))
    server.put(1)
    assert "no checkpoint belongs to it" in (await refused(server, tmp_path, MemorySink())).message
    store = MemoryStore()
    await follow(server, tmp_path, replace(SETTINGS, adopt_slot=True), a=MemorySink(store))
    assert store.rows(USERS.table) == server.expected()


async def test_a_slot_made_by_command_for_this_state_directory_is_followed(tmp_path: Path) -> None:
    server, store = ScriptedServer(confirmed=Lsn(1000)), MemoryStore()
    await adopt_slot(tmp_path)
    await follow(server, tmp_path, a=MemorySink(store))
    assert store.rows(USERS.table) == server.expected()


async def test_a_promoted_standby_raises_the_epoch_and_is_followed(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    server.timeline, server.ended = 2, {1: server.at}
    flow = await follow(server, tmp_path, a=MemorySink(store))
    assert flow.status().source.epoch == 2
    assert store.checkpoint is not None
    assert store.checkpoint.epoch == 2
    assert len(store.changes) == 2
    assert store.rows(USERS.table) == server.expected()


async def test_a_promotion_while_running_is_followed(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    source = ScriptedSource(server)
    flow = Pipeline(source, {"a": MemorySink(store)}, tmp_path, SETTINGS)
    async with running(flow):
        await flow.wait_for(server.put(10), timeout=5)
        server.timeline, server.ended = 2, {1: server.at}
        source.fail()
        await flow.wait_for(server.put(11), timeout=5)
        assert flow.status().source.epoch == 2
    assert store.rows(USERS.table) == server.expected()
    assert len(store.changes) == 3


async def test_another_system_is_refused_or_copied_anew_as_the_settings_say(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    other = ScriptedServer(system_id=8)
    other.put(5)
    assert "another history" in (await refused(other, tmp_path, MemorySink(store))).message
    other.confirmed = Lsn(1000)
    assert "another history" in (await refused(other, tmp_path, MemorySink(store))).message
    flow = await follow(other, tmp_path, replace(SETTINGS, new_history="resnapshot"), a=MemorySink(store))
    assert store.rows(USERS.table) == other.expected()
    assert flow.status().source.epoch == 2


async def test_a_second_writer_is_fenced_by_the_target_and_stops(
    server: ScriptedServer, store: MemoryStore, tmp_path: Path
) -> None:
    flow = Pipeline(ScriptedSource(server), {"a": MemorySink(store)}, tmp_path, SETTINGS)
    task = asyncio.create_task(flow.run())
    await flow.wait_for(server.put(10), timeout=5)
    store.checkpoint = at(1 << 30)
    server.put(11)
    with pytest.raises(Fenced):
        await task
