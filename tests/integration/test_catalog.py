"""The catalog as it is read: history, tables, relations, types."""

from __future__ import annotations

import pytest

from walcast.model import TableId
from walcast.postgres.catalog import describe_relations, identity, list_tables
from walcast.postgres.connect import connect
from walcast.postgres.local import LocalServer, find
from walcast.postgres.selection import Table
from walcast.postgres.typeinfo import load_types
from walcast.testing.postgres import Database


async def tables_of(database: Database) -> dict[str, Table]:
    async with await connect(database.dsn(), application="walcast:t") as connection:
        return {str(table.id): table for table in await list_tables(connection)}


async def test_identity_is_the_same_on_plain_and_replication_connections(any_database: Database) -> None:
    found = []
    for replication in (False, True):
        async with await connect(
            any_database.dsn(), application="walcast:t", replication=replication
        ) as connection:
            found.append(await identity(connection))
            system = await (
                await connection.execute("select system_identifier from pg_catalog.pg_control_system()")
            ).fetchone()
    assert found[0] == found[1]
    assert system is not None
    assert found[0].system_id == int(system[0])
    assert found[0].timeline == 1
    assert found[0].database == any_database.name
    assert found[0].version // 10_000 == any_database.server.version


async def test_a_promoted_standby_is_another_history() -> None:
    binaries = find(18, tools=("pg_basebackup",))
    with LocalServer(binaries=binaries) as primary, primary.standby() as standby:
        async with await connect(primary.dsn(), application="walcast:t") as connection:
            before = await identity(connection)
        async with await connect(standby.dsn(), application="walcast:t") as connection:
            assert await identity(connection) == before
        standby.execute("select pg_promote()")
        async with await connect(standby.dsn(), application="walcast:t") as connection:
            after = await identity(connection)
    assert (after.system_id, after.timeline) == (before.system_id, 2)


async def test_tables_of_every_kind_are_told_apart(any_database: Database) -> None:
    any_database.execute(
        """
        create table keyed (id int primary key); create table bare (x int);
        create table full_ (x int); alter table full_ replica identity full;
        create table nothing (id int primary key); alter table nothing replica identity nothing;
        create table indexed (a int not null, b int not null unique); alter table indexed replica identity using index indexed_b_key;
        create table deferred (id int primary key deferrable);
        create unlogged table fast (id int primary key);
        create table root (id int, at date) partition by range (at);
        create table mid partition of root for values from ('2025-01-01') to ('2026-01-01') partition by list (id);
        create table leaf partition of mid for values in (1);
        create table parent (id int); create table child () inherits (parent);
        create view v as select 1 as n; create materialized view m as select 1 as n; create sequence s;
        insert into bare select generate_series(1, 5000); analyze bare
        """
    )
    found = await tables_of(any_database)
    kinds = {name.removeprefix("public."): table.kind for name, table in found.items()}
    assert kinds == dict.fromkeys(
        ["keyed", "bare", "full_", "nothing", "indexed", "deferred", "fast", "leaf", "parent", "child"], "r"
    ) | {"root": "p", "mid": "p", "v": "v", "m": "m", "s": "S"}
    identified = {
        name.removeprefix("public.")
        for name, table in found.items()
        if table.identified and table.kind == "r"
    }
    assert identified == {"keyed", "full_", "indexed", "fast"}
    assert found["public.leaf"].ancestors == (found["public.mid"].oid, found["public.root"].oid)
    assert found["public.parent"].inherits
    assert found["public.child"].inherits
    assert not found["public.leaf"].inherits
    assert "unlogged" in str(found["public.fast"].refusal)
    assert found["public.keyed"].refusal is None
    assert found["public.bare"].rows == pytest.approx(5000, rel=0.01)
    assert found["public.bare"].bytes > 100_000


async def test_a_partitioned_table_is_as_big_as_its_leaves(database: Database) -> None:
    database.execute(
        "create table root (id int) partition by hash (id); "
        "create table l0 partition of root for values with (modulus 2, remainder 0); "
        "create table l1 partition of root for values with (modulus 2, remainder 1); "
        "insert into root select generate_series(1, 4000); analyze l0; analyze l1"
    )
    assert (await tables_of(database))["public.root"].rows == 4000


async def test_rights_and_policies_of_the_role_are_seen(database: Database) -> None:
    role = f"reader_{database.name}"
    database.execute(
        f"create role {role} login; create table a (id int); create table b (id int); "
        f"grant select on a to {role}; alter table a enable row level security"
    )
    try:
        async with await connect(database.dsn(user=role), application="walcast:t") as connection:
            found = {table.id.name: table for table in await list_tables(connection)}
    finally:
        database.execute(f"drop owned by {role}; drop role {role}")
    assert found["a"].readable
    assert found["a"].row_security
    assert not found["b"].readable
    assert not (await tables_of(database))["public.a"].row_security


async def test_relations_carry_key_types_numbers_and_generated_columns(any_database: Database) -> None:
    any_database.execute(
        """
        create schema app; create type app.mood as enum ('sad', 'ok', 'happy');
        create table app."Order Item" (
            gone int, b text not null, id int generated always as identity, a int not null, price numeric(10, 2),
            mood app.mood, double_price numeric generated always as (price * 2) stored, primary key (id, a) include (b)
        );
        alter table app."Order Item" drop column gone
        """
    )
    oid = any_database.execute("select 'app.\"Order Item\"'::regclass::oid::int8")[0][0]
    async with await connect(any_database.dsn(), application="walcast:t") as connection:
        (relation,) = (await describe_relations(connection, [oid, 999_999_999])).values()
    assert relation.table == TableId("app", "Order Item")
    assert relation.oid == oid
    assert relation.names == ("b", "id", "a", "price", "mood", "double_price")
    assert [column.attnum for column in relation.columns] == [2, 3, 4, 5, 6, 7]
    assert relation.key == (1, 2)  # included columns are not of the key
    columns = {column.name: column for column in relation.columns}
    assert columns["price"].sql_type == "numeric(10,2)"
    assert columns["mood"].sql_type == "app.mood"
    assert columns["mood"].type.labels == ("sad", "ok", "happy")
    assert columns["double_price"].generated
    assert not columns["id"].generated
    assert not columns["id"].nullable
    assert columns["price"].nullable


@pytest.mark.parametrize(
    ("identity_clause", "key"),
    [("default", ("id",)), ("full", ("id",)), ("using index t_code", ("code",)), ("nothing", ("id",))],
)
async def test_the_key_follows_the_replica_identity(
    database: Database, identity_clause: str, key: tuple[str]
) -> None:
    database.execute(
        "create table t (id int primary key, code text not null, x text); create unique index t_code on t (code); "
        f"alter table t replica identity {identity_clause}"
    )
    oid = database.execute("select 't'::regclass::oid::int8")[0][0]
    async with await connect(database.dsn(), application="walcast:t") as connection:
        (relation,) = (await describe_relations(connection, [oid])).values()
    assert tuple(relation.names[number] for number in relation.key) == key


async def test_types_know_what_they_are_made_of(any_database: Database) -> None:
    multirange = any_database.server.version >= 14
    any_database.execute(
        """
        create domain positive as int check (value > 0);
        create type pair as (left_ positive, "Right" text[]);
        create type span as range (subtype = timestamptz);
        create table t (p pair, ps pair[], s span, d positive[], acl aclitem[], pt point, n name, box_ box[]);
        create type odd as (a aclitem)
        """
    )
    (rows,) = any_database.execute(
        "select array_agg(atttypid::int8 order by attnum) from pg_attribute where attrelid = 't'::regclass and attnum > 0"
    )
    names = ["pair"] + (["int4multirange", "datemultirange"] if multirange else [])
    named = any_database.execute(
        "select array_agg(oid::int8) from pg_type where typname = any(%s)", [[*names, "odd"]]
    )[0][0]
    async with await connect(any_database.dsn(), application="walcast:t") as connection:
        found = {info.name: info for info in (await load_types(connection, [*rows[0], *named])).values()}
    pair = found["pair"]
    assert pair.kind == "composite"
    assert [(name, field.kind) for name, field in pair.fields] == [("left_", "domain"), ("Right", "array")]
    assert pair.fields[0][1].base.name == "int4"
    assert found["_pair"].kind == "array"
    assert found["_pair"].element == pair
    assert found["span"].element is not None
    assert found["span"].element.name == "timestamptz"
    assert found["_box"].delimiter == ";" or found["box"].delimiter == ";"
    assert found["point"].kind == found["name"].kind == "base"
    assert found["point"].element is None
    assert not found["_aclitem"].has_binary
    assert not found["odd"].has_binary
    assert pair.has_binary
    if multirange:
        assert found["int4multirange"].kind == "multirange"
        assert found["int4multirange"].element is not None
        assert found["int4multirange"].element.name == "int4range"
