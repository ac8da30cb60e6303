"""What somebody else writes to the copy is noticed or refused; what the sink writes is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from postgres_copy import Copying, copying

from walcast.model import SinkContext, SourceIdentity
from walcast.model.secret import Secret
from walcast.sinks.postgres import PostgresSink, PostgresSinkConfig
from walcast.testing.postgres import Database, PostgresServer

SCHEMA = (
    "create table t (id int primary key, x text); create table part (id int primary key) partition by list (id);"
    "create table leaf partition of part for values in (1, 2, 3); insert into t values (1, 'a'), (2, 'b')"
)


@pytest.fixture
def target(any_database: Database, make_database: Callable[[PostgresServer], Database]) -> Database:
    any_database.execute(SCHEMA)
    return make_database(any_database.server)


def noted(target: Database) -> list[tuple[Any, ...]]:
    return target.execute("select table_name, role, application from walcast.foreign_write order by 1, 2, 3")


async def follow(copy: Copying) -> None:
    await copy.run(
        "insert into t select n, 'n' from generate_series(10, 200) n",
        "update t set x = 'c' where id = 1",
        "delete from t where id = 2",
        "truncate t",
        "insert into t values (3, 'd')",
    )
    copy.assert_equal("t")


@pytest.mark.parametrize("role", ["auto", "off"])
async def test_foreign_writes_are_noticed_and_our_own_are_not(
    any_database: Database, target: Database, role: str
) -> None:
    async with copying(any_database, target, replication_role=role) as copy:
        await follow(copy)
        assert noted(target) == []
        with target.connect() as connection:
            connection.execute("set application_name = 'a hand'; set search_path = public")
            for statement in ("insert into t values (77, 'x')", "update t set x = 'y'", "truncate t"):
                connection.execute(statement)  # type: ignore[arg-type]  # as above
            connection.execute("begin; insert into leaf values (1); rollback")
        assert noted(target) == [("t", "postgres", "a hand")]
        await copy.run("insert into t values (4, 'e')")
        context = SinkContext("test", "copy", SourceIdentity(0, 0, 0, ""), "/tmp")
        findings = await PostgresSink(PostgresSinkConfig(Secret(target.dsn())), context).examine()
        (finding,) = [finding for finding in findings if finding.name == "foreign_write"]
        assert finding.message.startswith("public.t was written by postgres (a hand)")
        assert finding.since is not None


async def test_foreign_writes_can_be_refused_or_left_alone(any_database: Database, target: Database) -> None:
    async with copying(any_database, target, foreign_writes="refuse") as copy:
        await follow(copy)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is a copy that Walcast keeps"):
            target.execute("insert into t values (77, 'x')")
        copy.settings["foreign_writes"] = "ignore"
        await copy.reopen()
        await copy.run("insert into t values (5, 'f')")
        target.execute("insert into t values (77, 'x')")
        assert noted(target) == []
        assert (
            target.execute(
                "select 1 from pg_trigger where tgname = 'walcast_guard' and tgrelid = 't'::regclass"
            )
            == []
        )
