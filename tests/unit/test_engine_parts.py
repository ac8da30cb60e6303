"""The engine's small parts, each by itself."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from engine_tools import SETTINGS, USERS, ScriptedBatch, ScriptedServer, ScriptedSource, running, until

from walcast.engine import (
    POLICY,
    Action,
    NotRunning,
    Pipeline,
    PipelineSettings,
    call,
    classify,
    failpoints,
    owned,
    owner,
)
from walcast.engine.backoff import Backoff
from walcast.engine.control import ControlError, ControlServer
from walcast.engine.inbox import Inbox
from walcast.engine.journal import FileJournal
from walcast.engine.ledger import Ledger
from walcast.engine.metrics import METRICS, Metrics
from walcast.engine.statefile import StateFile
from walcast.engine.tables import TableBook
from walcast.engine.tasks import end
from walcast.model import (
    Change,
    Checkpoint,
    ConfigError,
    FatalError,
    Lsn,
    OperatorError,
    Position,
    SinkUnavailable,
    TableId,
    errors,
)
from walcast.testing.faulty import Faults
from walcast.testing.memory import MemorySink, MemoryStore


def at(through: int) -> Checkpoint:
    return Checkpoint(1, Position(Lsn(through - 1), 1), Lsn(through))


# -- policy, backoff


def test_every_error_of_the_model_has_a_line_in_the_policy() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.WalcastError)
        and kind is not errors.WalcastError
    ]
    assert [kind.__name__ for kind in kinds if kind not in POLICY] == []


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (SinkUnavailable("gone"), Action.RETRY),
        (ConnectionResetError(), Action.RETRY),
        (TimeoutError(), Action.RETRY),
        (OSError(errno.ENOSPC, "No space left on device"), Action.OPERATOR),
        (PermissionError(errno.EACCES, "Permission denied"), Action.OPERATOR),
        (OSError(errno.EIO, "Input/output error"), Action.FATAL),
        (KeyError("x"), Action.FATAL),
        (errors.WalcastError("unclassified"), Action.FATAL),
    ],
)
def test_an_error_is_retry_operator_or_fatal_and_always_has_a_remedy(
    error: Exception, action: Action
) -> None:
    verdict = classify(error)
    assert verdict.action is action
    assert verdict.remedy


def test_an_error_brings_its_own_remedy() -> None:
    assert classify(OperatorError("no", hint="do this")).remedy == "do this"


def test_backoff_grows_and_ends() -> None:
    now = 0.0
    backoff = Backoff(1.0, 8.0, 30.0, clock=lambda: now)
    waits = [backoff.next() for _ in range(5)]
    assert all(
        wait is not None and low / 2 <= wait <= low for wait, low in zip(waits, (1, 2, 4, 8, 8), strict=True)
    )
    now = 29.5
    assert (backoff.next() or 9) <= 0.5
    now = 30.0
    assert backoff.next() is None
    backoff.reset()
    assert backoff.next() is not None


# -- ledger, tables, journal


def test_the_slot_waits_for_the_slowest_that_holds_it() -> None:
    ledger = Ledger(["a", "b"])
    ledger.join("a", Lsn(10), at(20))
    assert ledger.confirmable() is None  # b has not said yet where it is
    ledger.join("b", Lsn(10), None)
    assert ledger.confirmable() == Lsn(10)
    ledger.durable("b", at(30))
    assert ledger.confirmable() == Lsn(10)
    ledger.saved("b", at(30))
    assert ledger.confirmable() == Lsn(20)
    ledger.release("a")
    assert ledger.confirmable() == Lsn(30)
    ledger.confirmed = Lsn(30)
    assert ledger.confirmable() is None


def test_a_checkpoint_saved_before_its_data_is_durable_is_a_defect() -> None:
    ledger = Ledger(["a"])
    ledger.join("a", Lsn(10), at(20))
    with pytest.raises(FatalError, match="before its data was durable"):
        ledger.saved("a", at(21))


async def test_the_table_book_survives_and_says_what_is_pending(tmp_path: Path) -> None:
    users, odd = TableId("app", "users"), TableId('a.b"', "c d")
    journal = FileJournal(tmp_path / "j.json")
    book = TableBook(copy=True)
    book.load(journal, await journal.load())
    book.select([users, odd])
    assert book.pending == {users, odd}
    await book.copying(users, Lsn(5))
    await book.done(odd, Lsn(7))
    await book.stop(errors.TableStopped(users, "no", position=Position(Lsn(9), 2), hint="yes"))
    again = TableBook(copy=True)
    again.load(journal := FileJournal(tmp_path / "j.json"), await journal.load())
    again.select([users, odd])
    assert again.pending == set()
    assert again.starts[odd] == Lsn(7)
    assert (again.stopped[users].position, again.stopped[users].reason) == ("0/9#2", "no")
    await again.reset([users])
    assert again.pending == {users}


async def test_a_journal_keeps_the_old_map_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.json"
    journal = FileJournal(path)
    assert await journal.load() == {}
    await asyncio.gather(*(journal.save(f"k{number}", number) for number in range(20)))
    await journal.save("k0", None)
    (path.parent / "j.json.new").write_text('{"torn')  # a crash before the rename
    assert await FileJournal(path).load() == {f"k{number}": number for number in range(1, 20)}
    path.write_text("[]")
    with pytest.raises(OperatorError, match="not a journal"):
        await FileJournal(path).load()


async def test_sinks_that_are_admitted_side_by_side_are_all_noted(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    state = StateFile(tmp_path)
    await state.load()
    await asyncio.gather(*(state.ask_anew(name, None) for name in names))
    assert all(state.wants_all_anew(name) for name in names)

    async def admitted(name: str) -> None:
        await state.know([name])
        await state.anew_done(name)

    await asyncio.gather(*map(admitted, names))
    for found in (state, StateFile(tmp_path)):
        await found.load()
        assert [name for name in names if found.knows(name)] == names
        assert not any(found.wants_all_anew(name) for name in names)


# -- the inbox


def _transactions(count: int, nbytes: int) -> list[ScriptedBatch]:
    found = []
    for number in range(1, count + 1):
        change = Change("insert", Position(Lsn(number * 100), 1), USERS, new={"id": number})
        checkpoint = Checkpoint(1, Position(Lsn(number * 100), 1), Lsn(number * 100 + 50))
        found.append(ScriptedBatch("changes", [USERS], checkpoint, (change,), None, nbytes, 1.0))
    return found


def test_an_inbox_is_bounded_in_bytes_and_joins_what_waits() -> None:
    inbox, session, share = Inbox(1 << 20, TableBook(copy=False)), object(), 1 << 20
    inbox.attach(session, None)
    offered = _transactions(500, 10_000)
    taken = [batch for batch in offered if inbox.offer(session, batch)]
    assert 80 < len(taken) < 105
    assert inbox.held <= share
    given = []
    while len(inbox):
        batch = inbox.take()
        assert batch.nbytes <= share // 4
        given.append(batch)
    assert [change.new for batch in given for change in batch.changes()] == [
        change.new for batch in taken for change in batch.changes()
    ]
    assert len(given) == 4
    assert inbox.held > share * 3 // 4, "what is not durable still counts"
    assert inbox.replay()
    assert len(inbox) == 4
    while len(inbox):
        inbox.take()
    inbox.settled()
    assert inbox.held == 0


def test_a_batch_beyond_the_share_goes_through_alone() -> None:
    inbox, session = Inbox(1 << 20, TableBook(copy=False)), object()
    inbox.attach(session, None)
    small, big, after = (*_transactions(1, 10), *_transactions(3, 4 << 20)[1:])
    assert inbox.offer(session, small)
    assert not inbox.offer(session, big)
    assert inbox.take().nbytes == small.nbytes
    inbox.settled()
    assert inbox.offer(session, big)
    assert not inbox.offer(session, after)
    assert inbox.take().nbytes == big.nbytes
    inbox.settled()
    assert inbox.held == 0


# -- metrics, settings, failpoints


def test_metrics_are_listed_with_their_labels() -> None:
    metrics = Metrics()
    metrics.add("walcast_rows_total", "a", "app.users", "insert", by=3)
    metrics.set("walcast_lag_bytes", "a", to=5)
    for value in (0.001, 0.003, 0.3):
        metrics.histogram("walcast_latency_seconds", "a").observe(value)
    samples = {sample.name: sample for sample in metrics.samples()}
    assert set(samples) <= set(METRICS)
    assert samples["walcast_rows_total"].labels == {"sink": "a", "table": "app.users", "op": "insert"}
    latency = samples["walcast_latency_seconds"]
    assert (latency.observations, dict(latency.buckets)[0.005], dict(latency.buckets)[float("inf")]) == (
        3,
        2,
        3,
    )
    assert metrics.histogram("walcast_latency_seconds", "a").quantile(0.5) == 0.003


def test_settings_refuse_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="budget_bytes"):
        PipelineSettings(budget_bytes=10)
    with pytest.raises(ValueError, match="wal_warning"):
        PipelineSettings(wal_warning=2)


@pytest.mark.parametrize(
    "text", ["write.after", "nowhere=kill", "write.after=melt", "write.after=sleep:x", "a=kill@x"]
)
def test_a_failpoint_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a failpoint"):
        failpoints.configure(text)


async def test_a_failpoint_acts_at_the_passage_asked_for() -> None:
    try:
        failpoints.configure("write.after=raise@2, save.before=sleep:1")
        await failpoints.passed("write.after")
        await failpoints.passed("save.before")
        with pytest.raises(failpoints.FailpointHit):
            await failpoints.passed("write.after")
        await failpoints.passed("write.after")
    finally:
        failpoints.configure(None)
    assert failpoints.active is None


def test_faults_refuse_points_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="no such point"):
        Faults(script={"wriet": {1: "fail"}})


# -- who owns the state directory


async def test_a_second_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    script = "import asyncio, sys; from pathlib import Path; from walcast.engine import owned\n"
    script += "async def main():\n async with owned(Path(sys.argv[1])):\n  print('have', flush=True); sys.stdin.read()\n"
    script += "asyncio.run(main())"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(tmp_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"have\n"
        assert owner(tmp_path) == process.pid
        with pytest.raises(OperatorError, match=str(process.pid)):
            async with owned(tmp_path):
                pass
        spare = asyncio.create_task(_hold(tmp_path))
        given_up = asyncio.create_task(_hold(tmp_path))
        await asyncio.sleep(0.05)
        assert not spare.done()
        given_up.cancel()
        await asyncio.wait([given_up])
    finally:
        process.kill()
        await process.wait()
    await asyncio.wait_for(spare, 5)
    await until(lambda: owner(tmp_path) is None)


async def _hold(state_dir: Path) -> None:
    async with owned(state_dir, wait=True):
        pass


async def test_a_state_directory_that_cannot_be_made_is_an_operator_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot use the state directory"):
        async with owned(tmp_path / "file" / "state"):
            pass


async def test_a_hot_spare_takes_over_and_redoes_nothing(tmp_path: Path) -> None:
    server, store = ScriptedServer(), MemoryStore(record=True)
    first = Pipeline(ScriptedSource(server), {"a": MemorySink(store)}, tmp_path, SETTINGS)
    settings = PipelineSettings(hot_spare=True, serve=False, flush_idle=0.001)
    spare = Pipeline(ScriptedSource(server), {"a": MemorySink(store)}, tmp_path, settings)
    async with running(first):
        await first.wait_for(server.put(1), timeout=5)
        task = asyncio.create_task(spare.run())
        await until(lambda: spare.status().state == "waiting")
    await spare.wait_for(server.put(2), timeout=5)
    spare.stop()
    await task
    assert len(store.changes) == 2
    waiting = Pipeline(ScriptedSource(server), {"a": MemorySink(store)}, tmp_path, settings)
    async with owned(tmp_path):
        task = asyncio.create_task(waiting.run())
        await until(lambda: waiting.status().state == "waiting")
        waiting.stop()
        await asyncio.wait_for(task, 2)


# -- the control socket

Ask = Callable[..., Awaitable[object]]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Pipeline, Path]]:
    server, store = ScriptedServer(), MemoryStore()
    folder = tmp_path / ("deep" * 20) / "state"  # longer than the kernel allows a socket's path to be
    flow = Pipeline(
        ScriptedSource(server), {"a": MemorySink(store)}, folder, PipelineSettings(flush_idle=0.001)
    )
    async with running(flow):
        await flow.wait_for(server.put(1, 5), timeout=5)
        yield flow, folder


async def test_the_control_socket_answers_its_owner_only(served: tuple[Pipeline, Path]) -> None:
    flow, folder = served
    assert stat.S_IMODE(os.stat(folder / "control.sock").st_mode) == 0o600
    status = await call(folder, "status")
    assert isinstance(status, dict)
    assert status["state"] == "running"
    assert status["source"]["identity"]["system_id"] == 7
    assert status["sinks"][0]["checkpoint"]["through"] == str(flow.status().sinks[0].checkpoint.through)  # type: ignore[union-attr]  # it has one
    assert await call(folder, "query", {"sink": "a", "args": list(USERS.table)}) == [{"id": 1, "n": 5}]
    assert await call(folder, "wait", {"lsn": status["source"]["position"], "timeout": 5}) is True
    assert await call(folder, "poke") is True
    assert await call(folder, "reload") is True
    assert await call(folder, "resync", {"sink": "a", "tables": [list(USERS.table)]}) is True
    assert await call(folder, "wait", {"lsn": status["source"]["position"], "timeout": 5}) is True


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("fly", {}, "BadRequest"),
        ("wait", {"lsn": "nonsense"}, "ConfigError"),
        ("wait", {"lsn": "FF/0", "timeout": 0.01}, "TimeoutError"),
        ("query", {"sink": "none"}, "ConfigError"),
        ("resync", {}, "KeyError"),
    ],
)
async def test_a_request_that_cannot_be_met_is_answered_with_the_error(
    served: tuple[Pipeline, Path], method: str, params: dict[str, object], code: str
) -> None:
    with pytest.raises(ControlError) as caught:
        await call(served[1], method, params)
    assert caught.value.code == code
    assert caught.value.hint


async def test_stop_by_the_control_socket_ends_the_pipeline_and_the_socket(
    served: tuple[Pipeline, Path],
) -> None:
    flow, folder = served
    assert await call(folder, "stop") is True
    await until(lambda: flow.status().state == "stopped")
    with pytest.raises(NotRunning):
        await call(folder, "status")


async def test_garbage_on_the_socket_is_answered_and_a_dead_socket_replaced(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "control.sock"))
    dead.close()
    with pytest.raises(NotRunning):
        await call(tmp_path, "status")
    control = ControlServer(tmp_path)
    await control.start()
    try:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        for line in (b"{", b"[]", b"7", b'{"method": "status"}'):
            writer.write(line + b"\n")
            assert json.loads(await reader.readline())["ok"] is False
        writer.close()
        await writer.wait_closed()
    finally:
        await control.stop()


async def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost > 1:
                    raise

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await end(task, None)
    assert task.cancelled()
