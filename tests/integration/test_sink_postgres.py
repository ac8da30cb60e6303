"""The PostgreSQL sink from a real source: what a copy in PostgreSQL must match."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from postgres_copy import Copying, copying

from walcast.model import Durability, TableId, TableStopped
from walcast.testing.postgres import Database, PostgresServer

Pair = tuple[Database, Database]
BIG = "(select string_agg(md5(i::text || {salt}), '') from generate_series(1, 400) i)"


@pytest.fixture
def pair(
    postgres_server: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> tuple[Database, Database]:
    """A source and an empty target on one server."""
    return make_database(postgres_server), make_database(postgres_server)


@pytest.fixture(params=[0, 48], ids=["bulk", "direct"])
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Small batches by COPY and stages as big ones, or as single statements."""
    return {"direct_rows": request.param}


async def test_rows_inserted_updated_deleted_and_moved_arrive(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int, s text)")
    origin.execute("insert into t select i, i, 'row ' || i from generate_series(1, 1000) i")
    async with copying(origin, target, **way) as copy:
        copy.assert_equal("t")
        await copy.run(
            "insert into t select i, i, 'new ' || i from generate_series(1001, 3000) i",
            "update t set n = n + 1 where id % 3 = 0",
            "delete from t where id % 7 = 0",
            "insert into t select i, 1, 'again' from generate_series(7, 500, 7) i",
            "update t set id = id + 10000 where id % 11 = 0",
            "update t set n = 0 where id = 1",
        )
        copy.assert_equal("t")
        assert await copy.sink.checkpoint() == copy.checkpoint


async def test_any_workload_ends_equal(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table a (id int primary key, n int, s text)")
    origin.execute("create table b (x int, y text); alter table b replica identity full")
    chance = random.Random(7)
    statements = [
        lambda: (
            f"insert into a select i, {chance.randrange(9)}, 'x' from generate_series({chance.randrange(500)},"
            f" {chance.randrange(500)}) i on conflict (id) do update set n = a.n + 1"
        ),
        lambda: f"update a set n = n + 1 where id % {chance.randrange(2, 9)} = 0",
        lambda: f"delete from a where id % {chance.randrange(2, 9)} = 1",
        lambda: (
            f"update a set id = id + 1000 where id = {chance.randrange(500)} and not exists"
            " (select from a z where z.id = a.id + 1000)"
        ),
        lambda: f"insert into b values ({chance.randrange(5)}, 'y'), (1, null), (1, null)",
        lambda: f"update b set y = y || 'z' where x = {chance.randrange(5)}",
        lambda: f"delete from b where ctid in (select ctid from b limit {chance.randrange(3)})",
        lambda: "truncate a",
    ]
    weights = [4, 4, 2, 3, 4, 2, 2, 1]
    async with copying(origin, target) as copy:
        for _ in range(12):
            await copy.run(
                *(make() for make in chance.choices(statements, weights, k=chance.randrange(1, 12)))
            )
            copy.assert_equal("a", "b")


async def test_two_rows_swap_a_unique_value(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, email text, constraint e unique (email) deferrable)")
    target.execute("create table t (id int primary key, email text unique)")
    async with copying(origin, target, **way) as copy:
        await copy.run("insert into t values (1, 'a'), (2, 'b')")
        await copy.run(
            "begin; set constraints all deferred; update t set email = 'b' where id = 1;"
            " update t set email = 'a' where id = 2; commit"
        )
        copy.assert_equal("t")


async def test_a_statement_that_shifts_unique_values(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int, s text, unique (n) deferrable)")
    target.execute("create table t (id int primary key, n int unique, s text, own text default 'mine')")
    async with copying(origin, target, **way) as copy:
        await copy.run(f"insert into t select i, i, {BIG.format(salt=0)} from generate_series(1, 60) i")
        target.execute("update t set own = 'kept'")
        await copy.run(
            "update t set n = n + 1", "insert into t values (100, 1, null)", "delete from t where id = 3"
        )
        assert copy.rows("(select id, n, s from t)") == copy.rows("t", origin)
        assert target.execute("select distinct own from t where id < 100") == [("kept",)]


async def test_a_deferrable_unique_constraint_of_the_copy(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int, unique (n) deferrable)")
    target.execute("create table t (id int primary key, n int, unique (n) deferrable initially deferred)")
    async with copying(origin, target, replication_role="off") as copy:
        await copy.run("insert into t select i, i from generate_series(1, 100) i", "update t set n = n + 1")
        copy.assert_equal("t")


async def test_a_constraint_that_only_the_copy_has_stops_its_table(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int); create table u (id int primary key)")
    target.execute("create table t (id int primary key, n int constraint only_here unique)")
    async with copying(origin, target) as copy:
        with pytest.raises(TableStopped, match=r"public\.t.*only_here") as stop:
            await copy.run("insert into t values (1, 1), (2, 1)")
        assert stop.value.table == TableId("public", "t")
        assert "drop the constraint" in (stop.value.hint or "")


async def test_toast_that_was_not_sent_is_kept(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int, a text, b text)")
    async with copying(origin, target, **way) as copy:
        await copy.run(
            f"insert into t select i, 0, {BIG.format(salt=1)}, {BIG.format(salt=2)} from generate_series(1, 9) i"
        )
        await copy.run(
            "update t set n = 1", f"update t set a = {BIG.format(salt=3)} where id = 2", "update t set n = 2"
        )
        await copy.run(
            "update t set b = 'short' where id < 5; update t set n = n + 1; update t set a = null where id = 3"
        )
        copy.assert_equal("t")


async def test_a_key_change_keeps_toast_and_the_copys_own_columns(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int, big text)")
    target.execute("create table t (big text, own text default 'new', id int primary key, n bigint)")
    async with copying(origin, target, **way) as copy:
        await copy.run(f"insert into t select i, i, {BIG.format(salt=1)} from generate_series(1, 60) i")
        target.execute("update t set own = 'mine ' || id")
        await copy.run("update t set id = id + 100", "update t set n = n + 1 where id > 130")
        assert copy.rows("(select id, n, big from t)") == copy.rows("t", origin)
        assert target.execute("select count(*) from t where own = 'mine ' || id - 100") == [(60,)]


async def test_extra_and_reordered_columns_are_matched_by_name(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, a text, b int)")
    target.execute(
        "create table t (b bigint, x int default 5, id int primary key, twice int generated always as (id * 2) stored,"
        ' a text, "odd "" name" text)'
    )
    async with copying(origin, target, **way) as copy:
        await copy.run("insert into t select i, 'a', i from generate_series(1, 100) i")
        target.execute("update t set x = 6")
        await copy.run("update t set a = 'b' where id < 50", "delete from t where id = 7")
        assert copy.rows("(select id, a, b from t)") == copy.rows("t", origin)
        assert target.execute("select distinct x from t") == [(6,)]
        assert target.execute("select count(*) from t where twice = id * 2") == [(99,)]


async def test_truncate_where_a_foreign_key_of_the_copy_points(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key)")
    target.execute("create table t (id int primary key); create table child (t_id int references t)")
    async with copying(origin, target, **way) as copy:
        await copy.run("insert into t select generate_series(1, 100)")
        target.execute("insert into child values (5)")
        await copy.run("truncate t", "insert into t values (5), (6)")
        copy.assert_equal("t")
        assert target.execute("select * from child") == [(5,)]


async def test_a_foreign_key_made_while_the_copy_runs(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key)")
    async with copying(origin, target, **way) as copy:
        await copy.run("insert into t values (1)")
        target.execute("create table child (t_id int references t)")
        await copy.run("truncate t", "insert into t select generate_series(5, 99)")
        copy.assert_equal("t")


async def test_ordinary_triggers_do_not_act_and_replica_ones_do(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int); create table u (id int primary key)")
    target.execute(
        """
        create table t (id int primary key, n int); create table u (id int primary key);
        create table seen (what text, id int);
        create function note() returns trigger language plpgsql as
          $$ begin insert into public.seen values (tg_table_name || ' ' || tg_op, coalesce(new.id, old.id)); return coalesce(new, old); end $$;
        create trigger ordinary after insert or update or delete on t for each row execute function note();
        create trigger always after insert or update or delete on u for each row execute function note();
        alter table u enable always trigger always;
        """
    )
    async with copying(origin, target, **way) as copy:
        await copy.run(
            "insert into t select i, i from generate_series(1, 60) i", "update t set n = 0", "delete from t"
        )
        assert target.execute("select count(*) from seen") == [(0,)]
        await copy.run(
            "insert into u values (1), (2)", "update u set id = 3 where id = 2", "delete from u where id = 1"
        )
        assert target.execute("select what, id from seen") == [
            ("u INSERT", 1),
            ("u INSERT", 2),
            ("u UPDATE", 3),
            ("u DELETE", 1),
        ]


async def test_identity_columns_are_written(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int generated by default as identity primary key, n int, m int)")
    target.execute(
        "create table t (id int generated always as identity primary key, n int,"
        " m int generated always as identity, own text)"
    )
    async with copying(origin, target, **way) as copy:
        await copy.run("insert into t select i, i, i from generate_series(10, 70) i")
        target.execute("update t set own = 'mine'")
        await copy.run(
            "update t set n = 0, m = 7 where id < 20",
            "update t set id = id + 100 where id > 60",
            "delete from t where id = 30",
        )
        assert copy.rows("(select id, n, m from t)") == copy.rows("t", origin)
        assert target.execute("select count(*) from t where own is null") == [(0,)]


async def test_without_a_key_the_very_row_is_found(pair: Pair) -> None:
    origin, target = pair
    origin.execute(
        'create table t (a numeric, j json, c circle, f float8, s text collate "C", k int[]); alter table t replica identity full'
    )
    async with copying(origin, target) as copy:
        await copy.run(
            "insert into t (a) values (1.0), (1.00), (1.000), (null), (null)",
            "insert into t (j, c, f) values ('{\"a\": 1}', '<(0,0),1>', '-0'), ('{\"a\":1}', '<(0,0),1>', '0'), (null, null, 'NaN')",
            "insert into t (s, k) values ('x', '{}'), ('x ', '[0:0]={1}'), ('x', '{1}'), ('x', '{1}')",
        )
        await copy.run(
            "update t set s = 'this' where a::text = '1.00'",
            "update t set f = 5 where j::text = '{\"a\":1}'",
            "delete from t where ctid = (select min(ctid) from t where a is null and j is null and s is null and f is null)",
            "delete from t where ctid = (select min(ctid) from t where k = '{1}')",
            "update t set f = 1 where f = 'NaN'",
        )
        copy.assert_equal("t")


async def test_full_identity_with_a_primary_key_uses_the_key(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute(
        "create table t (id int primary key, j json, big text); alter table t replica identity full"
    )
    async with copying(origin, target, **way) as copy:
        await copy.run(f"insert into t select i, '[]', {BIG.format(salt=1)} from generate_series(1, 60) i")
        await copy.run(
            "update t set j = '{}' where id < 10",
            "update t set id = -id where id < 4",
            "delete from t where id > 50",
        )
        copy.assert_equal("t")


async def test_a_row_missing_at_the_copy_does_not_stop_it(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int)")
    async with copying(origin, target, **way) as copy:
        await copy.run("insert into t select i, i from generate_series(1, 60) i")
        target.execute("delete from t where id in (1, 2, 3)")
        await copy.run(
            "update t set n = 0 where id = 1",
            "delete from t where id = 2",
            "update t set id = 99 where id = 3",
        )
        assert target.execute("select id from t where id in (1, 2, 3, 99)") in ([(1,)], [])


async def test_a_transaction_in_parts_is_one_at_the_copy(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key, n int unique, s text)")
    target.execute("create table t (id int primary key, n int unique, s text)")
    seen: list[int] = []
    async with copying(origin, target, source={"part_bytes": 1 << 16, "streaming": "off"}, **way) as copy:
        write = copy.sink.write

        async def watched(batch: Any) -> Durability:
            done = await write(batch)
            seen.append(len(target.execute("select 1 from t limit 1")))
            return done

        copy.sink.write = watched  # type: ignore[method-assign]  # looks at the target after each part
        await copy.run(
            "begin; insert into t select i, i, repeat('x', 100) from generate_series(1, 2000) i;"
            " update t set n = n - 10000; delete from t where id % 2 = 0; commit"
        )
        assert len(seen) > 3
        assert set(seen[:-1]) == {0}
        copy.assert_equal("t")


async def test_several_relations_messages_and_empty_transactions(pair: Pair, way: dict[str, Any]) -> None:
    origin, target = pair
    for n in range(5):
        origin.execute(f"create table t{n} (id int primary key, s text)")  # type: ignore[arg-type]
    async with copying(origin, target, **way) as copy:
        await copy.run(
            *(f"insert into t{n} select i, 'x' from generate_series(1, {10**n}) i" for n in range(4)),
            "select pg_logical_emit_message(true, 'hello', 'there')",
            "begin; delete from t1; insert into t1 values (1, 'y'); insert into t4 values (1, null); commit",
            "begin; insert into t0 values (5, ''); truncate t0; insert into t0 values (6, ''); commit",
        )
        copy.assert_equal(*(f"t{n}" for n in range(5)))


async def test_schemas_can_be_mapped_and_types_with_them(pair: Pair) -> None:
    origin, target = pair
    origin.execute(
        "create schema app; create type app.mood as enum ('sad', 'glad'); create domain app.small as int check (value < 9);"
        "create type app.pair as (m app.mood, n app.small[]);"
        "create table app.t (id int primary key, m app.mood, ms app.mood[], p app.pair, ps app.pair[])"
    )
    async with copying(origin, target, schemas={"app": "Copy of app"}) as copy:
        await copy.run(
            "insert into app.t values (1, 'sad', '{glad,NULL}', '(sad,\"{1,2}\")', '{\"(glad,)\"}')"
        )
        await copy.run("insert into app.t select i, 'glad', '{}', null, '{}' from generate_series(2, 99) i")
        assert copy.rows('"Copy of app".t') == copy.rows("app.t", origin)
        assert await copy.sink.count(TableId("app", "t")) == 99


async def test_partitions_come_as_tables_of_their_own_or_through_their_root(pair: Pair) -> None:
    origin, target = pair
    origin.execute(
        "create table t (id int, k int, primary key (id, k)) partition by list (k);"
        "create table t1 partition of t for values in (1); create table t2 partition of t for values in (2);"
        "create publication p for all tables with (publish_via_partition_root = true)"
    )
    target.execute(
        "create table t (id int, k int, primary key (id, k)) partition by hash (id);"
        "create table p0 partition of t for values with (modulus 2, remainder 0);"
        "create table p1 partition of t for values with (modulus 2, remainder 1)"
    )
    async with copying(origin, target) as copy:
        await copy.run("insert into t select i, i % 2 + 1 from generate_series(1, 100) i")
        await copy.run(
            "delete from t where id < 5",
            "update t set k = 3 - k where id = 10",
            "update t set id = 1000 where id = 11",
        )
        copy.assert_equal("t")


async def _origins(copy: Copying) -> list[Any]:
    return copy.target.execute("select remote_lsn is not null from pg_replication_origin_status")


async def test_what_is_written_carries_an_origin_so_that_it_does_not_come_back(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key)")
    target.execute("create table t (id int primary key); create publication p for all tables")
    back: dict[str, Any] = {"source": {"origin": "none"}}
    async with copying(origin, target) as there, copying(target, origin, snapshot=False, **back) as home:
        await there.run("insert into t select generate_series(1, 100)", "insert into t values (200)")
        assert await _origins(there)
        await home.run("insert into t values (500)")
        assert home.target.execute("select count(*) from t") == [(102,)]
        await there.sync()
        assert target.execute("select count(*) from t") == [(102,)]
