"""The DuckDB sink beyond the conformance suite: files, schemas, readers, and what it refuses."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from sink_tools import CONTEXT, files_up_to, kept, put

from walcast import decode
from walcast.decode import StreamBatch
from walcast.decode.builtin import BUILTIN
from walcast.model import OperatorError, Relation, RetryableError, TableId, TableStopped
from walcast.sinks.duckdb import DuckDBSink, DuckDBSinkConfig
from walcast.testing.batches import INT4, INT8, NUMERIC, TEXT
from walcast.testing.conformance import Col, Tab, World
from walcast.testing.conformance.world import changed

ITEMS = Tab("items", (Col("id", INT4, key=True), Col("name"), Col("size", INT4)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "copy.duckdb"


def sink(path: Path, **settings: object) -> DuckDBSink:
    return DuckDBSink(DuckDBSinkConfig(path, **settings), CONTEXT)  # type: ignore[arg-type]  # as each test says


def read(path: Path, statement: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path)) as connection:
        return connection.execute(statement).fetchall()


def filled(rows: int = 3) -> World:
    world = World()
    world.table(ITEMS)
    with world.transaction():
        for number in range(rows):
            world.insert(ITEMS, id=str(number), name=f"item {number}", size="1")
    return world


class TestFiles:
    async def test_a_file_that_another_process_has_open(self, path: Path) -> None:
        path.parent.mkdir()
        script = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.read()"
        with subprocess.Popen(  # noqa: ASYNC220  # it only starts
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            with pytest.raises(OperatorError, match="open in another process") as error:
                async with sink(path):
                    pass
            other.communicate()
        assert "one writer" in (error.value.hint or "")
        async with sink(path):
            pass

    async def test_a_file_that_is_not_duckdb(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"something else " * 1000)
        with pytest.raises(OperatorError, match="damaged, or is not"):
            async with sink(path):
                pass
        assert path.read_bytes().startswith(b"something else")

    async def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OperatorError, match="cannot be used"):
            async with sink(tmp_path / "file" / "copy.duckdb"):
                pass

    async def test_a_full_disk_loses_nothing(self, path: Path) -> None:
        world = filled()
        first = world.batches()
        with world.transaction():
            for number in range(3, 3000):
                world.insert(ITEMS, id=str(number), name=str(hash(str(number))) * 20, size="2")
        more = world.batches()
        async with sink(path) as opened:
            await kept(opened, first)
            before = await opened.checkpoint()
            with files_up_to(path.stat().st_size + 4096), pytest.raises(OperatorError, match="disk is full"):
                await kept(opened, more)
        async with sink(path) as opened:
            assert await opened.checkpoint() == before
            await kept(opened, more)
            assert await opened.count(ITEMS.id) == 3000

    async def test_a_transaction_far_beyond_the_memory_limit(self, path: Path) -> None:
        world = World()
        world.table(ITEMS)
        with world.transaction():
            for number in range(20_000):
                world.insert(ITEMS, id=str(number), name=str(hash(str(number))) * 60, size="2")
        async with sink(path, memory_limit=20 << 20, threads=1) as opened:
            await kept(opened, world.batches(part_bytes=2 << 20))
            assert await opened.count(ITEMS.id) == 20_000


class TestReaders:
    async def test_queries_see_what_is_committed_and_change_nothing(self, path: Path) -> None:
        world = filled()
        with world.transaction():
            for number in range(10, 200):
                world.insert(ITEMS, id=str(number))
        async with sink(path) as opened:
            first, *parts, last = world.batches(part_bytes=2000, batch_bytes=1)
            await kept(opened, [first])
            await put(opened, *parts)
            question = "select count(*) as n, max(name) from app.items -- a comment"
            assert await opened.query(question) == (["n", 'max("name")'], [("3", "item 2")])
            await kept(opened, [last])
            assert (await opened.query("select id from app.items order by id desc limit 2;"))[1] == [
                ("199",),
                ("198",),
            ]
            for refused in (
                "delete from app.items",
                "select 1; drop table app.items",
                "copy app.items to '/tmp/nowhere.csv'",
                "select * from nowhere",
                "select * from statement",
                "not SQL",
            ):
                with pytest.raises(OperatorError):
                    await opened.query(refused)
            assert await opened.count(ITEMS.id) == 193
            assert await opened.count(TableId("app", "unknown")) == 0

    async def test_the_journal_is_durable_beside_an_open_transaction(self, path: Path) -> None:
        world = filled(500)
        parts = world.batches(part_bytes=2000)
        async with sink(path) as opened:
            await put(opened, parts[0])
            await opened.journal().save("table", {"state": "done"})
            await opened.journal().save("gone", 1)
            await opened.journal().save("gone", None)
        async with sink(path) as opened:
            assert await opened.journal().load() == {"table": {"state": "done"}}
            assert await opened.count(ITEMS.id) == 0

    async def test_a_part_without_the_ones_before_it(self, path: Path) -> None:
        parts = filled(500).batches(part_bytes=2000)
        async with sink(path) as opened:
            with pytest.raises(RetryableError):
                await put(opened, parts[1])


class TestTables:
    async def test_one_schema_for_all(self, path: Path) -> None:
        async with sink(path, schema="lake") as opened:
            await kept(opened, filled().batches())
        assert read(path, "select count(*) from lake.items") == [(3,)]

    async def test_names_that_differ_in_case_only(self, path: Path) -> None:
        world = World()
        world.table(ITEMS)
        other = world.table(replace(ITEMS, name="Items", oid=17000))
        columns = world.table(replace(ITEMS, name="twice", oid=17001, columns=(Col("a"), Col("A"))))
        async with sink(path) as opened:
            await opened.prepare(ITEMS.relation())
            for table in (other, columns):
                with pytest.raises(TableStopped, match=r"ignore case|already holds"):
                    await opened.prepare(table.relation())

    async def test_two_sinks_in_one_file_keep_apart(self, path: Path) -> None:
        second = replace(CONTEXT, sink="second")
        async with sink(path) as opened:
            await kept(opened, filled().batches())
        async with DuckDBSink(DuckDBSinkConfig(path), second) as opened:
            assert await opened.checkpoint() is None
            with pytest.raises(TableStopped, match="already holds"):
                await opened.prepare(ITEMS.relation())
        async with DuckDBSink(DuckDBSinkConfig(path, schema="other"), second) as opened:
            await kept(opened, filled(5).batches())
        assert read(path, "select (select count(*) from app.items), (select count(*) from other.items)") == [
            (3, 5)
        ]

    async def test_a_table_that_was_there_before(self, path: Path) -> None:
        path.parent.mkdir()
        read(path, "create schema app")
        read(path, "create table app.items as select 1 as id, 'mine' as name, 2 as size")
        async with sink(path) as opened:
            with pytest.raises(TableStopped, match="not this pipeline's"):
                await opened.prepare(ITEMS.relation())
        read(path, "delete from app.items")
        async with sink(path) as opened:
            await kept(opened, filled().batches())
            assert await opened.count(ITEMS.id) == 3

    async def test_a_table_that_was_there_before_with_other_columns(self, path: Path) -> None:
        path.parent.mkdir()
        read(path, "create schema app")
        read(path, "create table app.items (id int, name varchar, size double)")
        async with sink(path) as opened:
            with pytest.raises(TableStopped, match=r"'size' is DOUBLE where INTEGER is needed"):
                await opened.prepare(ITEMS.relation())

    async def test_floats_without_a_key_are_told_apart_by_their_bits(self, path: Path) -> None:
        table = Tab("floats", (Col("x", 701),), identity="f", oid=18000)
        world = World(binary=False)
        world.table(table)
        with world.transaction():
            for value in ("0", "-0", "NaN", "NaN", "0"):
                world.insert(table, x=value)
        first = world.batches()
        with world.transaction():
            world.delete(table, {"x": "-0"})
            world.update(table, {"x": "NaN"}, x="1")
        async with sink(path) as opened:
            await kept(opened, [*first, *world.batches()])
        found = sorted(str(row[0]) for row in read(path, "select cast(x as varchar) from app.floats"))
        assert found == ["0.0", "0.0", "1.0", "nan"]

    async def test_zeros_with_a_key_change_their_sign(self, path: Path) -> None:
        table = Tab("floats", (Col("id", INT4, key=True), Col("x", 701), Col("y", 700)), oid=18000)
        world = World(binary=False)
        world.table(table)
        with world.transaction():
            for number in range(4):
                world.insert(table, id=str(number), x="-0" if number % 2 else "0", y="0")
        first = world.batches()
        with world.transaction():
            for number in range(3):
                world.update(table, {"id": str(number)}, x="0" if number % 2 else "-0")
        async with sink(path) as opened:
            await kept(opened, [*first, *world.batches()])
        found = read(path, "select cast(x as varchar), cast(y as varchar) from app.floats order by id")
        assert found == [("-0.0", "0.0"), ("0.0", "0.0"), ("-0.0", "0.0"), ("-0.0", "0.0")]

    async def test_some_of_many_equal_rows_go_again_and_again(self, path: Path) -> None:
        """DuckDB 2.0 crashed, or lost rows, where some of them were deleted by their rowid."""
        table = Tab("plain", (Col("line"), Col("n", INT4)), identity="f", oid=18000)
        chance, rows = random.Random(1), Counter[tuple[str, str]]()
        world = World()
        world.table(table)
        async with sink(path) as opened:
            for _ in range(40):
                with world.transaction():
                    for _ in range(chance.randint(1, 40)):
                        line, n = f"l{chance.randint(0, 9)}", str(chance.randint(0, 5))
                        if rows[line, n]:
                            for _ in range(chance.randint(1, rows[line, n])):
                                world.update(table, {"line": line, "n": n}, n=str(int(n) + 1))
                                rows[line, n] -= 1
                                rows[line, str(int(n) + 1)] += 1
                        world.insert(table, line=line, n="0")
                        rows[line, "0"] += 1
                await kept(opened, world.batches())
        found = read(path, "select line, cast(n as varchar), count(*) from app.plain group by all")
        assert {(line, n): count for line, n, count in found} == {key: n for key, n in rows.items() if n}


class TestSchemas:
    """`changed` gives the columns their attribute numbers: id 1, name 2, size 3."""

    @pytest.mark.parametrize(
        ("after", "why"),
        [
            (
                changed(ITEMS, columns=(*changed(ITEMS).columns[::2], Col("name", INT4, attnum=2))),
                "from text to int4",
            ),
            (changed(ITEMS, oid=17000), "dropped and made again"),
            (changed(ITEMS, schema="moved"), "moved here from schema app"),
        ],
        ids=["retyped", "made again", "moved"],
    )
    async def test_what_the_copy_cannot_follow_stops_the_table(
        self, path: Path, after: Tab, why: str
    ) -> None:
        """Whatever is tried then, until a snapshot makes it anew."""
        world = filled()
        async with sink(path) as opened:
            await kept(opened, world.batches())
        world = World()
        world.table(after)
        with world.transaction():
            world.insert(after, id="7")
        batches = world.batches()
        async with sink(path) as opened:
            with pytest.raises(TableStopped, match=why) as stopped:
                await opened.prepare(after.relation())
            assert stopped.value.table == after.id
            assert "resync" in (stopped.value.hint or "")
        async with sink(path) as opened:
            with pytest.raises(TableStopped):
                await put(opened, *batches)
            _, chunks = world.snapshot(after, 2)
            with world.transaction():
                world.insert(after, id="8", size="5")
            await kept(opened, [*chunks, *world.batches()])
        found = read(path, f"select id, size from {after.id} order by id")
        assert found == [(7, None), (8, 5)]

    @pytest.mark.parametrize(
        ("columns", "why"),
        [
            ((Col("id", INT4, key=True), Col("title"), Col("size", INT4)), "may be a renamed one"),
            ((*ITEMS.columns, Col("made")), "its value in the rows from before is not known"),
        ],
        ids=["renamed without proof", "added with a default of its own for each row"],
    )
    async def test_what_nothing_proves_stops_the_table(
        self, path: Path, columns: tuple[Col, ...], why: str
    ) -> None:
        async with sink(path) as opened:
            await kept(opened, filled().batches())
            plain = replace(ITEMS, columns=columns).relation()
            unproven = replace(
                plain,
                columns=tuple(
                    replace(c, attnum=None if "renamed" in why else c.attnum, unproven=c.name == "made")
                    for c in plain.columns
                ),
            )
            with pytest.raises(TableStopped, match=why):
                await opened.prepare(unproven)

    async def test_a_table_is_renamed(self, path: Path) -> None:
        world = filled()
        async with sink(path) as opened:
            await kept(opened, world.batches())
            after = world.table(changed(ITEMS, name="things"))
            with world.transaction():
                world.insert(after, id="9")
            await kept(opened, world.batches())
        assert read(path, "select count(*) from app.things") == [(4,)]

    async def test_columns_swap_names_and_one_comes_back_as_another(self, path: Path) -> None:
        world = filled(1)
        async with sink(path) as opened:
            await kept(opened, world.batches())
            for columns in (
                (Col("id", INT4, key=True, attnum=1), Col("size", attnum=2), Col("name", INT4, attnum=3)),
                (Col("id", INT4, key=True, attnum=1), Col("size", attnum=2)),
                (
                    Col("id", INT4, key=True, attnum=1),
                    Col("size", attnum=2),
                    Col("name", attnum=4, missing="new"),
                ),
            ):
                await opened.prepare(changed(ITEMS, columns=columns).relation())
            await opened.flush()
        assert read(path, "select id, size, name, name_dropped from app.items") == [(0, "item 0", "new", 1)]

    @pytest.mark.parametrize(
        ("before", "after", "value", "found"),
        [
            ((INT4, -1), (INT8, -1), "7", ("7", "BIGINT")),
            ((INT4, -1), (TEXT, -1), "7", ("7", "VARCHAR")),
            ((700, -1), (701, -1), "1.5", ("1.5", "DOUBLE")),
            (
                (NUMERIC, (10 << 16 | 2) + 4),
                (NUMERIC, (14 << 16 | 4) + 4),
                "1.50",
                ("1.5000", "DECIMAL(14,4)"),
            ),
            ((NUMERIC, (10 << 16 | 2) + 4), (NUMERIC, -1), "1.50", ("1.50", "VARCHAR")),
            ((1043, 24), (TEXT, -1), "abc", ("abc", "VARCHAR")),
            ((1114, 3), (1114, -1), "2024-01-01 00:00:00.5", ("2024-01-01 00:00:00.5", "TIMESTAMP")),
            ((INT8, -1), (INT4, -1), "7", None),
            ((NUMERIC, (10 << 16 | 2) + 4), (NUMERIC, (10 << 16 | 4) + 4), "1.50", None),
            ((1114, -1), (1114, 3), "2024-01-01 00:00:00.5", None),
            ((1042, 9), (1042, 10), "abcde", None),
            ((3802, -1), (114, -1), "{}", None),
            ((1114, -1), (1184, -1), "2024-01-01 00:00:00", None),
        ],
    )
    async def test_types_that_widen_and_those_that_do_not(
        self,
        path: Path,
        before: tuple[int, int],
        after: tuple[int, int],
        value: str,
        found: tuple[str, str] | None,
    ) -> None:
        world = World(binary=False)
        table = world.table(Tab("typed", (Col("id", INT4, key=True), Col("v", before[0])), oid=19000))
        with world.transaction():
            world.insert(table, id="1", v=value)
        async with sink(path) as opened:
            for batch in world.batches():
                relation = typed(table.relation(), *before)
                await opened.prepare(relation)
                await opened.write(batch_of(batch, relation))
                await opened.flush()
            if found is None:
                with pytest.raises(TableStopped):
                    await opened.prepare(typed(table.relation(), *after))
                return
            await opened.prepare(typed(table.relation(), *after))
            await opened.flush()
        ((held, kind),) = read(path, "select cast(v as varchar), typeof(v) from app.typed")
        assert (held, kind) == found

    async def test_a_table_that_stops_within_a_transaction_leaves_the_others(self, path: Path) -> None:
        world = filled(0)
        other = world.table(Tab("other", (Col("id", INT4, key=True),), oid=17001))
        with world.transaction():
            for number in range(300):
                world.insert(ITEMS, id=str(number), name="x" * 20)
                world.insert(other, id=str(number))
        parts = world.batches(part_bytes=3000)
        assert len(parts) > 2
        async with sink(path) as opened:
            await put(opened, *parts[:2])
            with pytest.raises(TableStopped):
                await opened.prepare(replace(other, oid=17002).relation())
            await kept(opened, parts[2:])
            assert await opened.count(ITEMS.id) == 300


def typed(relation: Relation, oid: int, typmod: int) -> Relation:
    """The relation with another type of its column `v`."""
    key, column = relation.columns
    return replace(relation, columns=(key, replace(column, type=BUILTIN[oid], typmod=typmod)))


def batch_of(batch: StreamBatch, relation: Relation) -> StreamBatch:
    return StreamBatch(batch.frames, [relation], decode.Catalog([]), epoch=1, checkpoint=batch.checkpoint)
