"""The PostgreSQL sink: exactly once through crashes, one writer only, and errors that say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from postgres_copy import copying, sink_of

from walcast.model import (
    Durability,
    Fenced,
    Lsn,
    OperatorError,
    RetryableError,
    SinkUnavailable,
    TableStopped,
)
from walcast.testing.batches import INT4, TEXT, Stream, Table
from walcast.testing.postgres import Database, PostgresServer
from walcast.testing.proxy import TcpProxy

Pair = tuple[Database, Database]
Factory = Callable[..., PostgresServer]
T = Table(50000, "public", "t", [("id", INT4, True), ("s", TEXT)])


@pytest.fixture
def pair(postgres_server: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Pair:
    return make_database(postgres_server), make_database(postgres_server)


def inserts(stream: Stream, first: int, count: int, per: int = 1) -> list[Any]:
    """A batch of transactions of `per` rows each."""
    for start in range(first, first + count, per):
        stream.begin()
        for n in range(start, start + per):
            stream.insert(T, [n, f"row {n}"])
        stream.commit()
    return stream.batches()


def failing_trigger(database: Database, sqlstate: str, when: str = "true") -> None:
    """Makes the copy's table refuse rows as a server in that trouble would."""
    database.execute(
        "create or replace function fail() returns trigger language plpgsql as $$ begin if "
        + when
        + f" then raise exception 'trouble' using errcode = '{sqlstate}'; end if; return new; end $$"  # type: ignore[arg-type]  # made here
    )
    database.execute(
        "create or replace trigger fail before insert on t for each row execute function fail();"
        "alter table t enable always trigger fail"
    )


async def test_a_second_writer_is_fenced_before_it_touches_a_table(database: Database) -> None:
    stream = Stream(T)
    (first,) = inserts(stream, 1, 3)
    (second,) = inserts(stream, 4, 3)
    async with sink_of(database) as one, sink_of(database) as two:
        for sink in (one, two):
            await sink.prepare(first.relations[0])
        await one.write(first)
        with pytest.raises(Fenced, match="another pipeline") as error:
            await two.write(second)
        assert "name of its own" in (error.value.hint or "")
        await one.write(second)
    assert database.execute("select count(*) from t") == [(6,)]


async def test_a_second_writer_waits_for_the_first_ones_open_transaction(database: Database) -> None:
    stream = Stream(T)
    stream.begin()
    for n in range(3000):
        stream.insert(T, [n, "x" * 50])
    stream.commit()
    parts = stream.batches(part_bytes=1 << 16)
    assert len(parts) > 2
    async with sink_of(database) as one, sink_of(database) as two:
        for sink in (one, two):
            await sink.prepare(parts[0].relations[0])
        await one.write(parts[0])
        late = asyncio.ensure_future(two.write(parts[0]))
        await asyncio.sleep(0.2)
        assert not late.done()
        for part in parts[1:]:
            await one.write(part)
        with pytest.raises(Fenced):
            await late
    assert database.execute("select count(*) from t") == [(3000,)]


async def test_sinks_of_other_names_keep_their_own_checkpoints(database: Database) -> None:
    stream = Stream(T)
    (batch,) = inserts(stream, 1, 3)
    async with sink_of(database, "a") as one, sink_of(database, "b") as two:
        await one.prepare(batch.relations[0])
        await one.write(batch)
        assert (await one.checkpoint(), await two.checkpoint()) == (batch.checkpoint, None)
        await one.journal().save("x", {"y": [1, "ü"]})
        await one.journal().save("x", {"y": [2]})
        await one.journal().save("gone", 1)
        await one.journal().save("gone", None)
        assert (await one.journal().load(), await two.journal().load()) == ({"x": {"y": [2]}}, {})


@pytest.mark.parametrize("count", [3, 300])
async def test_a_session_killed_at_any_moment_loses_and_doubles_nothing(
    database: Database, count: int
) -> None:
    stream = Stream(T)
    batches = [batch for n in range(40) for batch in inserts(stream, n * count, count, count)]
    done = interrupted = 0
    async with sink_of(database) as sink:
        await sink.prepare(batches[0].relations[0])

    async def kill() -> None:
        while done < len(batches):
            await asyncio.to_thread(
                database.server.execute,
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walcast:test:copy'",
            )
            await asyncio.sleep(0.02)

    killer = asyncio.create_task(kill())
    while done < len(batches):
        try:
            async with sink_of(database) as sink:
                held = await sink.checkpoint()
                done = next((n + 1 for n, b in enumerate(batches) if b.checkpoint == held), 0)
                for batch in batches[done:]:
                    await sink.write(batch)
                    done += 1
        except RetryableError:
            interrupted += 1
    await killer
    assert interrupted
    assert database.execute("select count(*), count(distinct id) from t") == [(40 * count, 40 * count)]


async def test_the_line_is_cut_while_a_batch_is_on_its_way(
    postgres_server: PostgresServer, database: Database, tcp_proxy: TcpProxy
) -> None:
    stream = Stream(T)
    (first,) = inserts(stream, 1, 10)
    (second,) = inserts(stream, 11, 100_000, 1000)
    sink = sink_of(database, dsn=postgres_server.dsn(database.name, via="tcp", port=tcp_proxy.port))
    async with sink:
        await sink.prepare(first.relations[0])
        await sink.write(first)
        await sink.flush()
        writing = asyncio.ensure_future(sink.write(second))
        await asyncio.sleep(0.02)
        tcp_proxy.cut()
        with pytest.raises(SinkUnavailable):
            await writing
    async with sink_of(database) as again:
        held = await again.checkpoint()
        assert held == first.checkpoint
        await again.write(second)
    assert database.execute("select count(*) from t") == [(100_010,)]


async def test_accepted_batches_survive_a_killed_server_or_are_sent_again(postgres_factory: Factory) -> None:
    server = postgres_factory(18, durable=True, settings={"wal_writer_delay": "10s"})
    database = Database.create(server)
    stream = Stream(T)
    batches = [batch for n in range(60) for batch in inserts(stream, n * 10, 10)]
    async with sink_of(database) as sink:
        await sink.prepare(batches[0].relations[0])
        for batch in batches[:20]:
            assert await sink.write(batch) is Durability.ACCEPTED
        await sink.flush()
        for batch in batches[20:40]:
            await sink.write(batch)
        server.kill()
        with pytest.raises(SinkUnavailable):
            await sink.flush()
    server.start()
    async with sink_of(database) as sink:
        held = await sink.checkpoint()
        assert held is not None
        assert batches[19].checkpoint is not None
        assert held >= batches[19].checkpoint
        done = next(n + 1 for n, batch in enumerate(batches) if batch.checkpoint == held)
        for batch in batches[done:]:
            await sink.write(batch)
        await sink.flush()
    assert database.execute("select count(*), count(distinct id) from t") == [(600, 600)]


async def test_flush_returns_once_the_wal_is_on_disk(postgres_factory: Factory) -> None:
    server = postgres_factory(18, durable=True, settings={"wal_writer_delay": "10s"})
    database = Database.create(server)
    stream = Stream(T)
    apart: dict[str, Any] = {"synchronous_commit": "on", "schemas": {"public": "strict"}}
    async with sink_of(database) as sink, sink_of(database, "strict", **apart) as strict:
        (batch,) = inserts(stream, 1, 100)
        await sink.prepare(batch.relations[0])
        assert await sink.write(batch) is Durability.ACCEPTED
        with database.connect() as connection:
            row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None
            await sink.flush()
            flushed = connection.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", row).fetchone()
        assert flushed == (True,)
        (batch,) = inserts(stream, 1000, 100)
        assert await strict.write(batch) is Durability.DURABLE


async def test_a_split_transaction_that_breaks_off_leaves_nothing(database: Database) -> None:
    stream = Stream(T)
    stream.begin()
    for n in range(3000):
        stream.insert(T, [n, "x" * 50])
    stream.commit()
    parts = stream.batches(part_bytes=1 << 16)
    async with sink_of(database) as sink:
        await sink.prepare(parts[0].relations[0])
        for part in parts[:-1]:
            await sink.write(part)
        await sink.journal().save("table", "stopped")
    assert database.execute("select count(*) from t") == [(0,)]
    async with sink_of(database) as sink:
        assert await sink.journal().load() == {"table": "stopped"}
        with pytest.raises(RetryableError, match="from the first"):
            await sink.write(parts[1])
        for part in parts:
            await sink.write(part)
        assert await sink.checkpoint() == parts[-1].checkpoint
    assert database.execute("select count(*) from t") == [(3000,)]


@pytest.mark.parametrize("count", [3, 300], ids=["direct", "bulk"])
@pytest.mark.parametrize(
    ("sqlstate", "kind", "said"),
    [
        ("53100", OperatorError, "disk"),
        ("42501", OperatorError, "grant"),
        ("40P01", RetryableError, "again"),
        ("40001", RetryableError, "again"),
        ("57P01", SinkUnavailable, "target"),
        ("23514", TableStopped, "check constraint"),
        ("22003", TableStopped, "resync"),
        ("XX001", OperatorError, "log"),
    ],
)
async def test_what_the_server_says_becomes_a_remedy(
    database: Database, sqlstate: str, kind: type[Exception], said: str, count: int
) -> None:
    database.execute("create table t (id int primary key, s text)")
    failing_trigger(database, sqlstate)
    (batch,) = inserts(Stream(T), 1, count)
    async with sink_of(database) as sink:
        await sink.prepare(batch.relations[0])
        with pytest.raises(kind) as error:
            await sink.write(batch)
        assert type(error.value) is kind
        assert said in error.value.hint  # type: ignore[attr-defined]  # all of our tree have one
        assert "row 1" not in str(error.value)
        database.execute("drop trigger fail on t")
        await sink.write(batch)
    assert database.execute("select count(*) from t") == [(count,)]


async def test_a_cancelled_write_ends_at_once_and_leaves_nothing(database: Database) -> None:
    (batch,) = inserts(Stream(T), 1, 10)
    async with sink_of(database) as sink:
        await sink.prepare(batch.relations[0])
        with database.connect() as other:
            other.execute("begin; lock table t")
            writing = asyncio.ensure_future(sink.write(batch))
            await asyncio.sleep(0.3)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(writing, 8)
    assert database.execute("select count(*) from t") == [(0,)]


async def test_a_role_without_special_rights_works_with_triggers_and_foreign_keys(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    origin, target = pair
    origin.execute(
        "create table parent (id int primary key); create table child (id int primary key, p int references parent)"
    )
    role = f"plain_{target.name}"
    with target.connect() as admin:
        admin.execute(f"create role {role} login; grant create on database {target.name} to {role}")  # type: ignore[arg-type]  # made here
        admin.execute(f"set role {role}")  # type: ignore[arg-type]  # made here
        admin.execute("create schema own")
        admin.execute(
            "create table own.parent (id int primary key); create table own.child (id int primary key, p int references own.parent);"
            "create table own.seen (id int);"
            "create function own.note() returns trigger language plpgsql as 'begin insert into own.seen values (new.id); return new; end';"
            "create trigger note after insert on own.child for each row execute function own.note()"
        )
    try:
        settings = {"dsn": target.dsn(user=role), "schemas": {"public": "own"}}
        async with copying(origin, target, **settings) as copy:
            await copy.run(
                "begin; insert into parent select generate_series(1, 100); insert into child select i, i from generate_series(1, 100) i; commit",
                "begin; delete from child where id < 10; delete from parent where id < 10; insert into parent values (500);"
                " insert into child values (500, 500); commit",
            )
            assert copy.rows("own.child") == copy.rows("child", origin)
            assert copy.rows("own.parent") == copy.rows("parent", origin)
            assert target.execute("select count(*) from own.seen") == [(101,)]
        events = {record.message for record in caplog.records}
        assert {"replication_role_unavailable", "replication_origin_unavailable"} <= events
        for setting in ({"replication_role": "on"}, {"origin": "on"}):
            with pytest.raises(OperatorError, match=r"permission denied|SQLSTATE 42501"):
                async with sink_of(target, **settings, **setting) as sink:
                    await sink.write(inserts(Stream(T), 1, 1)[0])
    finally:
        target.execute(f"drop owned by {role} cascade; drop role {role}")  # type: ignore[arg-type]  # made here


async def test_targets_that_cannot_be_written_are_refused(postgres_factory: Factory) -> None:
    server = postgres_factory(18)
    database = Database.create(server)
    with pytest.raises(OperatorError, match="does not exist"):
        await sink_of(database, dsn=server.dsn("nowhere")).__aenter__()
    with pytest.raises(OperatorError, match="authentication"):
        await sink_of(database, dsn=server.dsn(database.name, via="tcp", password="wrong")).__aenter__()
    with pytest.raises(SinkUnavailable):
        await sink_of(database, dsn="host=127.0.0.1 port=1 user=x dbname=y").__aenter__()
    standby = server.standby()
    try:
        with pytest.raises(OperatorError, match="standby") as error:
            await sink_of(database, dsn=standby.dsn(database.name)).__aenter__()
        assert "primary" in (error.value.hint or "")
    finally:
        standby.close()


async def test_an_idle_batch_moves_the_checkpoint_alone(pair: Pair) -> None:
    origin, target = pair
    origin.execute("create table t (id int primary key)")
    async with copying(origin, target) as copy:
        await copy.run("insert into t values (1)")
        before = copy.checkpoint
        origin.execute("create table elsewhere (id int)")
        await copy.sync()
        after = await copy.sink.checkpoint()
        assert before is not None
        assert after is not None
        assert after.through > before.through
        assert after.through > Lsn(0)


async def test_the_sink_says_nothing_of_values(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    origin, target = pair
    origin.execute("create table t (id int primary key, s text)")
    target.execute("create table t (id int primary key, s text unique)")
    async with copying(origin, target) as copy:
        with pytest.raises(TableStopped) as error:
            await copy.run("insert into t values (1, 'a secret'), (2, 'a secret')")
    assert "a secret" not in caplog.text + str(error.value) + str(error.value.hint)


def test_two_schemas_cannot_become_one() -> None:
    with pytest.raises(ValueError, match="two schemas"):
        sink_of(Any, dsn="x", schemas={"a": "c", "b": "c"})  # type: ignore[arg-type]  # it does not get that far


async def test_two_pipelines_cannot_keep_one_table(
    database: Database, make_database: Callable[[PostgresServer], Database]
) -> None:
    target = make_database(database.server)
    database.execute("create table t (id int primary key); create table own (id int primary key)")
    async with copying(database, target) as copy:
        other = sink_of(target, "another")
        async with other:
            (relation,) = [r for r in copy.prepared.values() if r.table.name == "t"]
            with pytest.raises(TableStopped, match="kept by sink 'copy' of pipeline 'test'") as caught:
                await other.prepare(relation)
            assert "walcast.relation" in str(caught.value.hint)
        apart = sink_of(target, "apart", schemas={"public": "elsewhere"})
        async with apart:
            await apart.prepare(relation)
        await copy.run("insert into t values (1)")
        copy.assert_equal("t")
