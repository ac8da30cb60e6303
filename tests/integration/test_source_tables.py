"""Tables of every sort, and tables that change while they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from source_tools import PUBLISH_ALL, Mirror, changes, opened, source_rows

from walcast.model import OperatorError, Relation, TableId
from walcast.postgres import ddl
from walcast.testing import PostgresServer
from walcast.testing.postgres import Database

PARTITIONED = """
create table p (id int, region text, primary key (id, region)) partition by list (region);
create table p_north partition of p for values in ('n');
create table p_rest partition of p for values in ('s', 'w') partition by list (region);
create table p_south (region text, extra int, id int not null);
alter table p_south drop extra, alter region set not null;
alter table p_rest attach partition p_south for values in ('s');
insert into p select i, case when i % 2 = 0 then 'n' else 's' end from generate_series(1, 50) i;
"""


async def copied(database: Database, write: str, *tables: str, **settings: Any) -> Mirror:
    """Snapshot, then `write`, then the stream; each table is then as the source has it."""
    async with opened(database, slot=False, **settings) as source:
        if await source.slot() is None:
            await source.create_slot()
        mirror = Mirror(source)
        await mirror.snapshot()
        database.execute(write)  # type: ignore[arg-type]  # the tests' own statements
        await mirror.follow()
    for table in tables:
        assert mirror.rows(table) == source_rows(database, table)
    return mirror


@pytest.mark.parametrize("version", [13, 18])
async def test_partitions_arrive_under_their_root_or_as_themselves(
    version: int,
    shared_postgres: Callable[[int], PostgresServer],
    make_database: Callable[[PostgresServer], Database],
) -> None:
    write = (
        "update p set region = 's' where id < 5; delete from p where id = 9; insert into p values (99, 's')"
    )
    for root in ("true", "false"):
        database = make_database(shared_postgres(version))
        database.execute(PARTITIONED)
        database.execute(f"create publication p for table p with (publish_via_partition_root = {root})")
        if root == "true":
            mirror = await copied(database, write, "p")
            assert set(mirror.tables) == {TableId("public", "p")}
        else:
            mirror = await copied(database, write, "p_north", "p_south")
            assert set(mirror.tables) == {TableId("public", "p_north"), TableId("public", "p_south")}


async def test_a_parent_is_copied_without_its_children(database: Database) -> None:
    database.execute(
        "create table parent (id int primary key); create table child (primary key (id), x int) inherits (parent);"
        "insert into parent values (1); insert into child values (2, 2);" + PUBLISH_ALL
    )
    mirror = await copied(database, "insert into parent values (3); insert into child values (4)", "child")
    assert [row["id"] for row in mirror.rows("parent")] == [1, 3]


async def test_filters_and_column_lists_hold_for_rows_and_changes(database: Database) -> None:
    database.execute(
        'create table f (id int primary key, "odd ""name" int, hidden text);'
        "insert into f select i, i % 3, 'h' from generate_series(1, 30) i;"
        'create publication p for table f (id, "odd ""name") where (id > 10)'
    )
    mirror = await copied(database, "insert into f values (-5, 5, 'x'), (50, 50, 'x')")
    rows = mirror.rows("f")
    assert len(rows) == 21
    assert set(rows[0]) == {"id", 'odd "name'}


@pytest.mark.parametrize(
    ("version", "options"), [(13, ""), (17, ""), (18, ""), (18, " with (publish_generated_columns = stored)")]
)
async def test_generated_columns_come_only_when_they_are_published(
    version: int,
    options: str,
    shared_postgres: Callable[[int], PostgresServer],
    make_database: Callable[[PostgresServer], Database],
) -> None:
    database = make_database(shared_postgres(version))
    database.execute("create table g (id int primary key, double int generated always as (id * 2) stored)")
    database.execute("insert into g values (1)")
    database.execute("create publication p for table g" + options)
    mirror = await copied(database, "insert into g values (2)")
    expected = [{"id": 1, "double": 2}, {"id": 2, "double": 4}] if options else [{"id": 1}, {"id": 2}]
    assert mirror.rows("g") == expected


async def test_the_key_is_the_replica_identity(any_database: Database) -> None:
    any_database.execute(
        "create table d (id int primary key, u int not null unique, v int);"
        "create table f (id int primary key, u int not null unique, v int); alter table f replica identity full;"
        "create table i (id int primary key, u int not null unique, v int);"
        "alter table i replica identity using index i_u_key;"
        "create table n (id int, v int); alter table n replica identity nothing;"
        "create table x (id int, v int); alter table x replica identity full;"
    )
    any_database.execute(PUBLISH_ALL)
    async with opened(any_database, slot=False) as source:
        await source.create_slot()
        snapshot: dict[str, Relation] = {}
        async for batch in source.snapshot([item.table for item in await source.tables()]):
            snapshot |= {relation.table.name: relation for relation in batch.relations}
        for table in "dfi":
            any_database.execute(f"insert into {table} values (1, 2, 3)")
        any_database.execute("insert into n values (1); insert into x values (1)")
        found = {c.relation.table.name: c.relation for c in await changes(source, 5) if c.relation}
    for relations in (snapshot, found):
        keys = {name: [r.names[k] for k in r.key] for name, r in relations.items()}
        assert keys == {"d": ["id"], "f": ["id"], "i": ["u"], "n": [], "x": []}
    assert snapshot == found


async def test_a_thousand_columns(database: Database) -> None:
    columns = ", ".join(f"c{n} int" for n in range(1000))
    database.execute(f"create table wide (id int primary key, {columns})")
    database.execute("insert into wide (id, c0, c999) values (1, 0, 999)")
    database.execute(PUBLISH_ALL)
    mirror = await copied(database, "insert into wide (id, c500) values (2, 500)", "wide")
    assert mirror.rows("wide")[1]["c500"] == 500


@pytest.mark.parametrize("version", [14, 18])
async def test_a_schema_change_arrives_in_order_with_the_data(
    version: int,
    shared_postgres: Callable[[int], PostgresServer],
    make_database: Callable[[PostgresServer], Database],
) -> None:
    database = make_database(shared_postgres(version))
    database.execute("create table t (id int primary key, b int, c text);" + PUBLISH_ALL)
    async with opened(database) as source:
        for statement in (
            "insert into t values (1, 1, 'one')",
            "alter table t add d numeric(10,2); insert into t values (2, 2, 'two', 2.5)",
            "alter table t drop c; insert into t values (3, 3, 3)",
            "alter table t rename b to e; insert into t values (4, 4, 4)",
            "alter table t alter e type bigint; insert into t values (5, 1 << 30, 5)",
            "alter table t rename to s; insert into s values (6, 6, 6)",
        ):
            database.execute(statement)
        found = await changes(source, 6)
    assert [list(c.new or ()) for c in found] == [
        ["id", "b", "c"],
        ["id", "b", "c", "d"],
        ["id", "b", "d"],
        ["id", "e", "d"],
        ["id", "e", "d"],
        ["id", "e", "d"],
    ]
    relations = [c.relation for c in found if c.relation]
    assert [r.columns[1].sql_type for r in relations[3:]] == ["integer", "bigint", "bigint"]
    assert relations[5].table == TableId("public", "s")
    # Only what is still so in the catalog is proven.
    assert relations[0].columns[0].attnum is None
    assert [c.attnum for c in relations[5].columns] == [1, 2, 4]


async def test_a_dropped_table_still_arrives_in_its_old_shape(database: Database) -> None:
    database.execute(
        "create type mood as enum ('fine'); create table gone (id int primary key, m mood);" + PUBLISH_ALL
    )
    async with opened(database) as source:
        database.execute("insert into gone values (1, 'fine'); drop table gone; drop type mood")
        (change,) = await changes(source, 1)
    assert change.new == {"id": 1, "m": "fine"}
    assert change.relation is not None
    assert [c.attnum for c in change.relation.columns] == [None, None]


async def test_recorded_schema_changes_prove_renames(database: Database) -> None:
    database.execute("create table t (id int primary key, b int);" + PUBLISH_ALL)
    database.execute(ddl.INSTALL)
    assert database.execute(ddl.INSTALLED) == [(True,)]
    async with opened(database, ddl_capture=True) as source:
        database.execute("insert into t values (1, 1)")
        database.execute(
            "alter table t rename b to b_old; alter table t add b int; insert into t values (2, 2, 2)"
        )
        database.execute("alter table t drop b_old; insert into t values (3, 3)")
        database.execute("create table u (id int primary key); drop table u")
        found = await changes(source, 8)
    rows = [c for c in found if c.op == "insert"]
    shapes = [{c.name: c.attnum for c in change.relation.columns} for change in rows if change.relation]
    assert shapes[1:] == [{"id": 1, "b_old": 2, "b": 3}, {"id": 1, "b": 3}]
    events = [ddl.parse(c.message.prefix, c.message.content) for c in found if c.message is not None]
    assert [e.command for e in events if e] == ["ALTER TABLE"] * 3 + ["CREATE TABLE", "DROP TABLE"]
    assert events[-1] is not None
    assert events[-1].columns is None
    database.execute(ddl.REMOVE)
    assert database.execute(ddl.INSTALLED) == [(False,)]


def test_messages_of_others_under_our_prefix_are_ignored() -> None:
    for content in (b"", b"{", b"[]", b'{"version": 2}', json.dumps({"version": 1, "columns": [1]}).encode()):
        assert ddl.parse(ddl.PREFIX, content) is None
    assert ddl.parse("other", b"{}") is None


async def test_a_type_without_binary_form_makes_the_connection_text(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("create table x (id int primary key, n numeric, a aclitem[]);" + PUBLISH_ALL)
    database.execute("insert into x values (1, 1.50, '{postgres=r/postgres}')")
    mirror = await copied(database, "insert into x values (2, 2.50, '{=w/postgres}')")
    assert [(str(row["n"]), row["a"]) for row in mirror.rows("x")] == [
        ("1.50", ["postgres=r/postgres"]),
        ("2.50", ["=w/postgres"]),
    ]
    assert [r.message for r in caplog.records].count("stream_in_text") == 1
    with pytest.raises(OperatorError, match="binary"):
        await copied(database, "select 1", binary="on")


@pytest.mark.parametrize("kind", ["aclitem[]", "public.pair_of_acls"])
async def test_a_stream_is_opened_again_in_text_when_such_a_type_turns_up(
    database: Database, kind: str
) -> None:
    database.execute("create type pair_of_acls as (a aclitem, b aclitem)")
    database.execute("create table t (id int primary key);" + PUBLISH_ALL)
    async with opened(database) as source:
        mirror = Mirror(source)
        await mirror.snapshot()
        database.execute("insert into t values (1)")
        await mirror.follow()
        done = []

        def widened() -> bool:
            if not done:
                done.append(database.execute("insert into t values (2)"))
                database.execute(f"alter table t add a {kind}; insert into t values (3)")
                database.execute("insert into t values (4, null)")
            return len(mirror.tables[TableId("public", "t")]) == 4

        await mirror.follow(widened)
    assert [row["id"] for row in mirror.rows("t")] == [1, 2, 3, 4]


async def test_settings_of_the_role_do_not_leak_into_values(database: Database) -> None:
    database.execute(
        f"alter database {database.name} set datestyle = 'German'; alter database {database.name} set timezone = 'Asia/Tokyo';"
        f"alter database {database.name} set bytea_output = 'escape'; alter database {database.name} set lc_monetary = 'C'"
    )
    database.execute(
        "create table v (id int primary key, d date, t timestamptz, b bytea, r float8);" + PUBLISH_ALL
    )
    row = "'2024-02-03', '2024-02-03 12:00+00', '\\x00ff', 0.1::float8 + 0.2"
    database.execute(f"insert into v values (1, {row})")
    binary = await copied(database, f"insert into v values (2, {row})")
    text = await copied(database, f"insert into v values (3, {row})", binary="off")
    rows = text.rows("v")
    assert binary.rows("v") == rows[:2]
    assert all(
        {k: v for k, v in r.items() if k != "id"} == {k: v for k, v in rows[0].items() if k != "id"}
        for r in rows
    )
