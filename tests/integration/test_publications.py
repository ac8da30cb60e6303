"""Publications: created, extended, adopted, refused with the statement that helps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from walcast.model import ConfigError, OperatorError, TableId
from walcast.postgres.catalog import list_tables
from walcast.postgres.connect import Connection, connect
from walcast.postgres.publications import (
    Membership,
    Publication,
    drop_publication,
    ensure_publication,
    list_publications,
    read_publication,
)
from walcast.postgres.selection import choose
from walcast.testing.postgres import Database

TABLES = """
create schema app; create table app.a (id int primary key, x text, y text); create table app.b (id int primary key);
create table app.child () inherits (app.a);
create table app.root (id int, at date, primary key (id, at)) partition by range (at);
create table app.leaf partition of app.root for values from ('2025-01-01') to ('2026-01-01')
"""


async def wanted(connection: Connection, *include: str, via_root: bool = False, **more: object) -> Membership:
    chosen = choose(await list_tables(connection), include, via_root=via_root)
    return Membership(chosen.members, chosen.tables, via_root=via_root, **more)


async def sent(connection: Connection, name: str = "p") -> list[str]:
    found = await read_publication(connection, name)
    assert found is not None
    return [table.name for table in found.tables]


@pytest.fixture
def limited(database: Database) -> Iterator[str]:
    """A role with REPLICATION and SELECT only."""
    role = f"cdc_{database.name}"
    database.execute(TABLES)
    database.execute(
        f"create role {role} login replication; grant usage on schema app to {role}; "
        f"grant select on all tables in schema app to {role}"
    )
    yield role
    database.execute(f"drop owned by {role} cascade; drop role {role}")


async def test_a_publication_is_created_extended_adopted_and_dropped(any_database: Database) -> None:
    any_database.execute(TABLES)
    async with await connect(any_database.dsn(), application="walcast:t") as connection:
        made = await ensure_publication(connection, "p", await wanted(connection, "app.a"))
        assert (made.action, made.added) == ("created", (TableId("app", "a"),))
        assert await sent(connection) == ["a"]  # ONLY: the child was not asked for
        again = await ensure_publication(connection, "p", await wanted(connection, "app.a"))
        assert again.action == "adopted"
        more = await ensure_publication(connection, "p", await wanted(connection, "app.*"))
        assert str(more) == "extended publication p (app.b, app.child, app.root)"
        assert await sent(connection) == ["a", "b", "child", "leaf"]
        assert (
            await ensure_publication(connection, "p", await wanted(connection, "app.*"))
        ).action == "adopted"
        assert await list_publications(connection) == [
            Publication(
                "p",
                "postgres",
                True,
                False,
                False,
                ("insert", "update", "delete", "truncate"),
                tuple(TableId("app", name) for name in ("a", "b", "child", "leaf")),
            )
        ]
        assert await drop_publication(connection, "p")
        assert not await drop_publication(connection, "p")


async def test_partitions_go_through_the_root_where_asked(any_database: Database) -> None:
    any_database.execute(TABLES)
    async with await connect(any_database.dsn(), application="walcast:t") as connection:
        await ensure_publication(connection, "p", await wanted(connection, "app.root", via_root=True))
        assert await sent(connection) == ["root"]
        with pytest.raises(OperatorError, match="under their root's name") as caught:
            await ensure_publication(connection, "p", await wanted(connection, "app.root"))
        assert "publish_via_partition_root = true" in str(caught.value.hint)


async def test_filters_and_column_lists_are_the_servers_from_15_on(any_database: Database) -> None:
    any_database.execute(TABLES)
    async with await connect(any_database.dsn(), application="walcast:t") as connection:
        ask = await wanted(
            connection, "app.a", "app.b", filters={"app.a": "id > 5"}, columns={"app.a": ("id", "y")}
        )
        if any_database.server.version < 15:
            with pytest.raises(OperatorError, match="need PostgreSQL 15"):
                await ensure_publication(connection, "p", ask)
            return
        await ensure_publication(connection, "p", ask)
    rows = any_database.execute(
        "select tablename, attnames::text[], rowfilter from pg_publication_tables order by tablename"
    )
    assert rows == [("a", ["id", "y"], "(id > 5)"), ("b", ["id"], None)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"columns": {"app.a": ("id", "z")}}, "no column 'z'"),
        ({"columns": {"app.a": ("x",)}}, "leaves out id of the replica identity"),
        ({"columns": {"app.nowhere": ("x",)}}, "not among the tables"),
        ({"filters": {"nowhere": "true"}}, "not among the tables"),
    ],
)
async def test_filters_and_columns_of_what_is_not_there_are_refused(
    database: Database, settings: dict[str, object], says: str
) -> None:
    database.execute(TABLES)
    async with await connect(database.dsn(), application="walcast:t") as connection:
        with pytest.raises(ConfigError, match=says):
            await ensure_publication(connection, "p", await wanted(connection, "app.a", **settings))
        assert await list_publications(connection) == []


async def test_a_wrong_filter_is_the_operators_and_leaves_nothing_behind(database: Database) -> None:
    database.execute(TABLES)
    async with await connect(database.dsn(), application="walcast:t") as connection:
        with pytest.raises(OperatorError, match="nocolumn"):
            await ensure_publication(
                connection, "p", await wanted(connection, "app.a", filters={"app.a": "nocolumn > 1"})
            )
        assert await list_publications(connection) == []


async def test_generated_columns_are_published_from_18_on(any_database: Database) -> None:
    any_database.execute("create table g (id int primary key, twice int generated always as (id * 2) stored)")
    async with await connect(any_database.dsn(), application="walcast:t") as connection:
        ask = await wanted(connection, "g", generated=True)
        if any_database.server.version < 18:
            with pytest.raises(OperatorError, match="from PostgreSQL 18"):
                await ensure_publication(connection, "p", ask)
            return
        await ensure_publication(connection, "p", ask)
    assert any_database.execute("select attnames::text[] from pg_publication_tables") == [(["id", "twice"],)]


async def test_a_role_with_replication_and_select_only_adopts(database: Database, limited: str) -> None:
    database.execute("create publication p for table app.a, app.b")
    async with await connect(database.dsn(user=limited), application="walcast:t") as connection:
        assert (
            await ensure_publication(connection, "p", await wanted(connection, "app.b"))
        ).action == "adopted"
        with pytest.raises(OperatorError, match="belongs to postgres") as caught:
            await ensure_publication(connection, "p", await wanted(connection, "app.root"))
        assert 'alter publication "p" add table "app"."root"' in str(caught.value.hint)
        with pytest.raises(OperatorError, match="belongs to postgres"):
            await drop_publication(connection, "p")


async def test_a_role_that_may_not_create_is_told_what_is_missing(database: Database, limited: str) -> None:
    async with await connect(database.dsn(user=limited), application="walcast:t") as connection:
        with pytest.raises(OperatorError, match=r"lacks CREATE on database .*does not own app\.a") as caught:
            await ensure_publication(connection, "p", await wanted(connection, "app.a"))
        assert 'create publication "p" for table only "app"."a"' in str(caught.value.hint)
    database.execute(
        f"grant create on database {database.name} to {limited}; alter table app.a owner to {limited}"
    )
    async with await connect(database.dsn(user=limited), application="walcast:t") as connection:
        with pytest.raises(OperatorError, match=r"app\.b") as caught:
            await ensure_publication(connection, "p", await wanted(connection, "app.a", "app.b"))
        assert "CREATE" not in caught.value.message
        assert (
            await ensure_publication(connection, "p", await wanted(connection, "app.a"))
        ).action == "created"


async def test_no_table_at_all_is_refused(database: Database) -> None:
    async with await connect(database.dsn(), application="walcast:t") as connection:
        with pytest.raises(OperatorError, match="no table to publish"):
            await ensure_publication(connection, "p", await wanted(connection, "app.*"))
