"""The handler sink beyond the conformance suite: routing, order, concurrency, errors, loading."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sink_tools import CONTEXT, put

from walcast.model import (
    ArrowTable,
    Change,
    ConfigError,
    Durability,
    OperatorError,
    RetryableError,
    RowsRefused,
)
from walcast.sinks.handlers import Handlers, HandlerSink, HandlerSinkConfig
from walcast.testing.batches import INT4, INT8
from walcast.testing.conformance import Col, Tab, World
from walcast.testing.conformance.scenarios import NOTES, USERS, everyday

ITEMS = Tab("items", (Col("id", INT4, key=True), Col("name"), Col("n", INT8)))


def sink(handlers: Handlers | str, **settings: Any) -> HandlerSink:
    return HandlerSink(HandlerSinkConfig(handlers, **settings), CONTEXT)


def inserted(count: int) -> World:
    world = World()
    world.table(ITEMS)
    with world.transaction():
        for number in range(count):
            world.insert(ITEMS, id=str(number), n="0")
    return world


class TestRouting:
    async def test_by_table_and_operation(self) -> None:
        handlers, seen = Handlers(), dict[str, list[str]]()

        def note(name: str, change: Change) -> None:
            seen.setdefault(name, []).append(change.op)

        @handlers.on("app.users", "insert", "delete")
        async def one(change: Change) -> None:
            note("one", change)

        @handlers.on("notes")
        def plain(change: Change) -> None:
            note("plain", change)

        @handlers.on("other.*")
        async def never(change: Change) -> None:
            note("never", change)

        @handlers.on()
        async def everything(change: Change) -> None:
            note("everything", change)

        world = everyday()
        with world.transaction():
            world.message("prefix", b"content")
            world.truncate(NOTES)
        async with sink(handlers) as opened:
            assert await put(opened, *world.batches()) is Durability.DURABLE
        told = [event.op for event in world.events]
        assert seen["one"] == [
            e.op for e in world.events if e.table == USERS.id and e.op in ("insert", "delete")
        ]
        assert seen["plain"] == [e.op for e in world.events if e.table == NOTES.id]
        assert sorted(seen["everything"]) == sorted(told)
        assert "never" not in seen

    async def test_batches_and_arrow(self) -> None:
        handlers, lists, tables = Handlers(), list[list[Change]](), list[Any]()

        @handlers.batch("app.users")
        async def some(changes: list[Change]) -> None:
            lists.append(changes)

        @handlers.arrow("app.notes")
        def arrow(table: ArrowTable) -> None:
            tables.append(table)

        world = everyday()
        async with sink(handlers) as opened:
            await put(opened, *world.batches())
        (changes,) = lists
        assert [c.op for c in changes] == [e.op for e in world.events if e.table == USERS.id]
        assert hasattr(tables[0], "__arrow_c_stream__")

    async def test_what_nobody_wants_is_not_decoded(self) -> None:
        handlers = Handlers()
        handlers.on("app.nothing")(lambda change: None)
        (batch,) = everyday().batches()
        batch.changes = lambda: pytest.fail("decoded")  # type: ignore[method-assign]  # to see that it is not called
        async with sink(handlers) as opened:
            await put(opened, batch)

    def test_a_wrong_operation_names_the_nearest(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'insert'"):
            Handlers().on("users", "inserted")


class TestOrder:
    async def test_changes_of_a_row_follow_each_other_also_when_its_key_changes(self) -> None:
        world = inserted(30)
        first = world.batches()
        with world.transaction():
            for turn in range(1, 6):
                for number in range(30):
                    where = {"id": str(number + 100 * (turn - 1))}
                    world.update(ITEMS, where, id=str(number + 100 * turn), n=str(turn))
        handlers, running, seen = Handlers(), set[int](), dict[int, list[int]]()

        @handlers.on("app.items", "update")
        async def check(change: Change) -> None:
            row = change.row["id"] % 100
            assert row not in running
            running.add(row)
            await asyncio.sleep(0.001)
            running.discard(row)
            seen.setdefault(row, []).append(change.row["n"])

        async with sink(handlers, concurrency=8) as opened:
            await put(opened, *first, *world.batches())
        assert seen == {row: [1, 2, 3, 4, 5] for row in range(30)}

    @pytest.mark.parametrize("plain", [False, True])
    async def test_rows_run_beside_each_other_within_the_limit(self, plain: bool) -> None:
        handlers, lock = Handlers(), threading.Lock()
        now = most = 0

        def step(by: int) -> None:
            nonlocal now, most
            with lock:
                now += by
                most = max(most, now)

        def blocking(change: Change) -> None:
            step(1)
            time.sleep(0.01)
            step(-1)

        async def waiting(change: Change) -> None:
            step(1)
            await asyncio.sleep(0.01)
            step(-1)

        handlers.on()(blocking if plain else waiting)
        async with sink(handlers, concurrency=4) as opened:
            await put(opened, *inserted(20).batches())
        assert most == 4

    async def test_a_truncate_waits_for_all_and_all_wait_for_it(self) -> None:
        world = inserted(10)
        with world.transaction():
            world.truncate(ITEMS)
            world.insert(ITEMS, id="1")
        handlers, seen = Handlers(), list[str]()

        @handlers.on()
        async def note(change: Change) -> None:
            if change.op == "insert" and change.position.ordinal < 5:
                await asyncio.sleep(0.005)
            seen.append(change.op)

        async with sink(handlers) as opened:
            await put(opened, *world.batches())
        assert seen == ["insert"] * 10 + ["truncate", "insert"]

    async def test_rows_without_a_key_go_one_by_one(self) -> None:
        table = replace(ITEMS, identity="n", columns=(Col("n", INT8),), oid=17000)
        world = World()
        world.table(table)
        with world.transaction():
            for number in range(10):
                world.insert(table, n=str(number))
        handlers, seen = Handlers(), list[int]()

        @handlers.on()
        async def note(change: Change) -> None:
            await asyncio.sleep(0.001 * (10 - change.row["n"]) / 10)
            seen.append(change.row["n"])

        async with sink(handlers) as opened:
            await put(opened, *world.batches())
        assert seen == list(range(10))

    async def test_a_change_is_handled_within_milliseconds(self) -> None:
        handlers, waits = Handlers(), list[float]()
        handlers.on()(lambda change: None)
        batches = [inserted(1).batches()[0] for _ in range(50)]
        async with sink(handlers) as opened:
            for batch in batches:
                start = time.perf_counter()
                await put(opened, batch)
                waits.append(time.perf_counter() - start)
        assert sorted(waits)[len(waits) // 2] < 0.005  # a plain function in a thread, on a busy machine


class TestErrors:
    async def test_a_failed_handler_is_tried_again(self) -> None:
        handlers, tries = Handlers(), list[int]()

        @handlers.on()
        async def twice(change: Change) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise RuntimeError("not yet")

        async with sink(handlers, backoff=0.001) as opened:
            await put(opened, *inserted(1).batches())
        assert len(tries) == 3

    async def test_then_the_sink_stops_and_tells_no_values(self) -> None:
        handlers = Handlers()

        @handlers.on()
        async def broken(change: Change) -> None:
            raise RuntimeError(f"secret {change.row}")

        async with sink(handlers, retries=1, backoff=0.001) as opened:
            with pytest.raises(OperatorError) as error:
                await put(opened, *inserted(1).batches())
        assert (
            "broken failed 2 times with RuntimeError at table app.items position 0/1100#1"
            in error.value.message
        )
        assert "secret" not in error.value.message
        assert "skip" in (error.value.hint or "")

    @pytest.mark.parametrize("policy", ["skip", "set_aside"])
    async def test_or_it_goes_on_without_the_change(self, policy: Any) -> None:
        handlers, seen = Handlers(), list[int]()

        @handlers.on()
        def odd(change: Change) -> None:
            if change.row["id"] % 2:
                raise ValueError("odd")
            seen.append(change.row["id"])

        async with sink(handlers, retries=0, on_error=policy) as opened:
            with pytest.raises(RowsRefused) as error:
                await put(opened, *inserted(6).batches())
        assert sorted(seen) == [0, 2, 4]
        assert (error.value.rest, sorted(one.place for one in error.value.refusals)) == ("done", [1, 3, 5])

    async def test_of_a_list_each_change_is_tried_alone(self) -> None:
        handlers, seen = Handlers(), list[list[int]]()

        @handlers.batch("*")
        def odd(changes: list[Change]) -> None:
            if any(change.row["id"] % 2 for change in changes):
                raise ValueError("odd")
            seen.append([change.row["id"] for change in changes])

        async with sink(handlers, retries=0, on_error="set_aside") as opened:
            with pytest.raises(RowsRefused) as error:
                await put(opened, *inserted(6).batches())
        assert seen == [[0], [2], [4]]
        assert [one.place for one in error.value.refusals] == [1, 3, 5]

    async def test_what_has_no_row_stops_it(self) -> None:
        handlers, stream = Handlers(), inserted(1)

        @handlers.on("*", "message")
        def broken(change: Change) -> None:
            raise ValueError

        with stream.transaction():
            stream.message("p", b"content")
        async with sink(handlers, retries=0, on_error="set_aside") as opened:
            with pytest.raises(OperatorError, match="ValueError"):
                await put(opened, *stream.batches())

    async def test_the_pipeline_retries_what_asks_for_it(self) -> None:
        handlers = Handlers()

        @handlers.on()
        async def later(change: Change) -> None:
            raise RetryableError("the other side is restarting")

        async with sink(handlers) as opened:
            with pytest.raises(RetryableError):
                await put(opened, *inserted(3).batches())

    async def test_a_handler_that_takes_too_long(self) -> None:
        handlers, plain, release = Handlers(), Handlers(), threading.Event()

        @handlers.on()
        async def slow(change: Change) -> None:
            await asyncio.sleep(60)

        @plain.on()
        def stuck(change: Change) -> None:
            release.wait(60)

        async with sink(handlers, timeout=0.01, retries=1, backoff=0.001) as opened:
            with pytest.raises(OperatorError, match="TimeoutError"):
                await put(opened, *inserted(1).batches())
        async with sink(plain, timeout=0.01) as opened:
            with pytest.raises(OperatorError, match="has not returned within"):
                await put(opened, *inserted(1).batches())
        release.set()


class TestLoading:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "modules", dict(sys.modules))
        (tmp_path / "app_changes.py").write_text(
            "from walcast.sinks.handlers import Handlers\n"
            "handlers = Handlers()\nempty = Handlers()\nnumber = 5\nseen = []\n"
            "@handlers.on('*')\nasync def note(change):\n    seen.append(change)\n"
            "def plain(change):\n    seen.append(change)\n"
        )
        (tmp_path / "app_broken.py").write_text("1 / 0\n")
        (tmp_path / "app_needs.py").write_text("import a_module_that_is_not_there\n")
        return tmp_path

    @pytest.mark.parametrize("target", ["app_changes:handlers", "app_changes:plain"])
    async def test_from_the_working_directory(self, target: str) -> None:
        async with sink(target) as opened:
            await put(opened, *inserted(2).batches())
        assert len(sys.modules["app_changes"].seen) == 2

    @pytest.mark.parametrize(
        ("target", "message", "hint"),
        [
            ("app_changes", "does not name handlers", "module:attribute"),
            ("app_chnges:handlers", "there is no module 'app_chnges'", "PYTHONPATH"),
            ("app_changes:handler", "no attribute 'handler'", "did you mean 'handlers'"),
            ("app_changes:number", "is a int, not Handlers", "walcast.Handlers"),
            ("app_changes:empty", "has no handlers", "@handlers.on"),
            ("app_broken:handlers", "importing app_broken failed: ZeroDivisionError", None),
            ("app_needs:handlers", "imports 'a_module_that_is_not_there'", None),
        ],
    )
    async def test_mistakes_are_named(self, target: str, message: str, hint: str | None) -> None:
        with pytest.raises(ConfigError) as error:
            async with sink(target):
                pass
        assert message in error.value.message
        assert hint is None or hint in (error.value.hint or "")
