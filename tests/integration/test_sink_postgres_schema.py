"""The PostgreSQL sink follows the source's schema, or stops the one table that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from postgres_copy import copying, sink_of

from walcast.model import OperatorError, TableId, TableStopped
from walcast.testing.batches import INT4, INT8, TEXT, Stream, Table
from walcast.testing.postgres import Database, PostgresServer

Pair = tuple[Database, Database]
T = TableId("public", "t")
_COLUMNS = """
select attname, format_type(atttypid, atttypmod) from pg_attribute
where attrelid = 't'::regclass and attnum > 0 and not attisdropped order by attname
"""


@pytest.fixture
def pair(
    postgres_server: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> tuple[Database, Database]:
    return make_database(postgres_server), make_database(postgres_server)


async def test_columns_are_added_dropped_and_renamed(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, a text, b int not null)")
    async with copying(origin, target) as copy:
        await copy.run("insert into t select i, 'a', i from generate_series(1, 100) i")
        await copy.run(
            "alter table t add column c text default 'old', add column d int",
            "insert into t values (200, 'b', 1, 'c', 2)",
        )
        copy.assert_equal("t")
        await copy.run("alter table t rename column a to z", "insert into t values (201, 'z', 1, 'c', 2)")
        await copy.run(
            "alter table t rename column c to x; alter table t rename column d to c; alter table t rename column x to d"
        )
        await copy.run("insert into t values (202, 'z', 1, 'is d', 2)")
        copy.assert_equal("t")
        await copy.run("alter table t drop column b", "insert into t values (203, 'z', 'is d', 2)")
        assert copy.rows("(select id, z, d, c from t)") == copy.rows("t", origin)
        assert target.execute("select b from t where id = 5") == [(5,)]


@pytest.mark.parametrize("dropped", ["keep", "drop"])
async def test_a_column_dropped_and_added_again_is_another(
    pair: Pair, dropped: Literal["keep", "drop"]
) -> None:
    """Its attribute number says so, once it is looked up again."""
    origin, target = pair
    origin.execute("create table t (id int primary key, a text, b text)")
    async with copying(origin, target, dropped_columns=dropped) as copy:
        await copy.run("insert into t values (1, 'old', 'b')")
        await copy.run("alter table t drop column a", "alter table t add column a text default 'new'")
        await copy.run("insert into t (id, b) values (2, 'b')")
        assert copy.rows("(select id, a, b from t)") == copy.rows("(select id, a, b from t)", origin)
    names = {name for name, _ in target.execute(_COLUMNS)}
    assert names == {"id", "a", "b"} | ({"a_dropped"} if dropped == "keep" else set())


async def test_dropped_columns_can_be_dropped_at_the_copy(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, a text, b int)")
    async with copying(origin, target, dropped_columns="drop") as copy:
        await copy.run(
            "insert into t values (1, 'a', 1)", "alter table t drop column a", "insert into t values (2, 2)"
        )
        copy.assert_equal("t")
        assert target.execute(_COLUMNS) == [("b", "integer"), ("id", "integer")]


async def test_types_that_widen_are_followed(pair: Pair) -> None:
    origin, target = pair
    origin.execute(
        "create table t (id int primary key, a int, b varchar(5), c real, d numeric(6,2), e smallint, f varchar(9))"
    )
    async with copying(origin, target) as copy:
        await copy.run("insert into t values (1, 1, 'b', 0.1, 1.5, 7, 'f')")
        await copy.run(
            "alter table t alter a type bigint, alter b type varchar(50), alter c type float8,"
            " alter d type numeric(10,4), alter e type numeric, alter f type text, alter id type bigint"
        )
        await copy.run(
            "insert into t values (1 << 30, 1::bigint << 40, 'bbbbbbbbbb', 0.1, 123456.7891, 7.5, 'ffffffffff')"
        )
        copy.assert_equal("t")


async def test_a_copy_that_is_wider_takes_narrower_values(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create type mood as enum ('sad', 'glad')")
    origin.execute(
        "create table t (id int primary key, a int, b varchar(5), c real, d numeric(6,2), e mood, f uuid, g char(3))"
    )
    target.execute(
        "create table t (id bigint primary key, a numeric, b text, c float8, d numeric, e text, f text, g char(3))"
    )
    async with copying(origin, target) as copy:
        await copy.run(
            "insert into t select i, i, 'b', 0.5, 1.10, 'sad', gen_random_uuid(), 'g' from generate_series(1, 99) i"
        )
        await copy.run(
            "update t set e = 'glad' where id < 60",
            "update t set id = id + 500 where id = 1",
            "delete from t where id = 2",
        )
        copy.assert_equal("t")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("create table t (id int primary key, a int)", "column a is integer, not text"),
        ("create table t (id int primary key, a varchar(3))", "column a is character varying"),
        ("create table t (id int, a text)", r"no primary key or unique index over \(id\)"),
        ("create table t (id int primary key deferrable, a text)", "no primary key or unique index"),
        (
            "create table t (id int unique, a text, x int not null)",
            "its own column x is not null and has no default",
        ),
        ("create view t as select 1 as id, 'a' as a", "is not a table"),
    ],
)
async def test_a_table_that_differs_stops_alone_and_says_how(pair: Pair, there: str, said: str) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, a text); create table u (id int primary key)")
    target.execute(there)  # type: ignore[arg-type]  # one of the literals above
    async with copying(origin, target) as copy:
        await copy.run("insert into t values (1, 'a')", "insert into u values (1)")
        assert set(copy.stopped) == {T}
        with pytest.raises(TableStopped, match=said):
            raise copy.stopped[T]
        assert "walcast resync public.t" in (copy.stopped[T].hint or "")
        copy.assert_equal("u")


async def test_tables_are_not_made_when_that_is_switched_off(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key)")
    async with copying(origin, target, create_tables=False) as copy:
        await copy.run("insert into t values (1)")
        with pytest.raises(TableStopped, match=r"has no table public\.t"):
            raise copy.stopped[T]


async def test_a_retyped_column_stops_the_table_unless_its_values_stayed(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, a text); create table u (id bigint primary key)")
    async with copying(origin, target) as copy:
        await copy.run("insert into t values (1, '1')", "insert into u values (1)")
        await copy.run("alter table u alter id type int", "insert into u values (2)")
        copy.assert_equal("u")
        with pytest.raises(TableStopped, match="column a changed its type") as stop:
            await copy.run("alter table t alter a type int using a::int + 1", "insert into t values (2, 2)")
        assert stop.value.table == T
        await copy.reopen()
        await copy.snapshot("t")
        await copy.run("insert into t values (3, 3)")
        copy.assert_equal("t", "u")


async def test_a_table_dropped_at_the_copy_stops_until_its_next_snapshot(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key); create table u (id int primary key)")
    async with copying(origin, target) as copy:
        await copy.run("insert into t select generate_series(1, 100)", "insert into u values (1)")
        target.execute("drop table t")
        with pytest.raises(TableStopped, match=r"public\.t was gone") as stop:
            await copy.run("insert into t values (200)", "insert into u values (2)")
        copy.stopped[T] = stop.value
        await copy.reopen()
        await copy.sync()
        copy.assert_equal("u")
        assert copy.rows("t") == []
        await copy.snapshot("t")
        await copy.run("insert into t values (201)")
        copy.assert_equal("t", "u")


async def test_a_column_added_with_values_that_nobody_knows_stops_the_table(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key)")
    async with copying(origin, target) as copy:
        await copy.run("insert into t values (1)")
        with pytest.raises(TableStopped, match="column r was added") as stop:
            await copy.run("alter table t add column r float8 default random()", "insert into t values (2)")
        copy.stopped[T] = stop.value
        await copy.reopen()
        await copy.snapshot("t")
        await copy.run("insert into t values (3)")
        copy.assert_equal("t")


async def test_a_renamed_table_keeps_its_rows(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create schema other; create table t (id int primary key)")
    async with copying(origin, target) as copy:
        await copy.run("insert into t select generate_series(1, 100)")
        await copy.run(
            "alter table t rename to moved; alter table moved set schema other",
            "insert into other.moved values (500)",
        )
        copy.assert_equal("other.moved")
        assert target.execute("select to_regclass('public.t')") == [(None,)]


async def test_an_enum_grows(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create type mood as enum ('b'); create table t (id int primary key, m mood)")
    async with copying(origin, target) as copy:
        await copy.run("insert into t values (1, 'b')")
        await copy.run("alter type mood add value 'a' before 'b'", "alter type mood add value 'c'")
        await copy.run("alter table t add column n int", "insert into t values (2, 'a', 1), (3, 'c', 1)")
        copy.assert_equal("t")
        assert target.execute("select enum_range(null::mood)::text") == [("{a,b,c}",)]


@pytest.mark.parametrize("direct_rows", [0, 48])
async def test_a_label_that_first_comes_with_a_row(pair: Pair, direct_rows: int) -> None:
    origin, target = pair
    origin.execute(
        "create type mood as enum ('b'); create domain d as mood; create table t (id int primary key, m d, ms mood[])"
    )
    async with copying(origin, target, direct_rows=direct_rows) as copy:
        await copy.run("insert into t values (1, 'b')")
        await copy.run("alter type mood add value 'a' before 'b'", "insert into t values (2, 'a', '{b}')")
        await copy.run(
            "alter type mood add value 'it''s'", "insert into t values (3, null, '{b,it''s,NULL}')"
        )
        copy.assert_equal("t")


async def test_a_thousand_columns(pair: Pair) -> None:
    origin, target = pair
    columns = ", ".join(f"c{n} int" for n in range(1000))
    origin.execute(f"create table t (id int primary key, {columns})")  # type: ignore[arg-type]  # made here
    async with copying(origin, target) as copy:
        await copy.run(
            "insert into t (id, c1, c999) select i, i, i from generate_series(1, 60) i",
            "update t set c500 = 1 where id = 5",
        )
        copy.assert_equal("t")


async def test_a_version_that_comes_between_the_parts_of_a_transaction(database: Database) -> None:
    old = Table(50000, "public", "t", [("id", INT4, True), ("s", TEXT)])
    new = Table(50000, "public", "t", [("id", INT4, True), ("s", TEXT), ("n", INT8)])
    stream = Stream(old)
    stream.begin()
    for n in range(3000):
        stream.insert(old, [n, "x" * 50])
    stream.announce(new)
    for n in range(3000, 6000):
        stream.insert(new, [n, "x" * 50, n])
    stream.commit()
    batches = stream.batches(part_bytes=1 << 16)
    assert len(batches) > 3
    async with sink_of(database) as sink:
        await sink.prepare(batches[0].relations[0])
        current = batches[0].relations[0]
        for batch in batches:
            if batch.relations and batch.relations[0] != current:
                current = batch.relations[0]
                await sink.prepare(current)
                assert database.execute(
                    "select count(*) from information_schema.columns where table_name = 't'"
                ) == [(2,)]
            await sink.write(batch)
        assert database.execute("select count(*), count(n) from t") == [(6000, 3000)]


async def test_the_role_may_not_create(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key)")
    role = f"weak_{target.name}"
    target.execute(f"create role {role} login; grant create on database {target.name} to {role}")  # type: ignore[arg-type]  # made here
    try:
        with pytest.raises(OperatorError, match="permission denied for schema public") as error:
            async with copying(origin, target, dsn=target.dsn(user=role)):
                pass
        assert "grant" in (error.value.hint or "")
    finally:
        target.execute(f"drop owned by {role} cascade; drop role {role}")  # type: ignore[arg-type]  # made here
