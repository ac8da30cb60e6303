"""The reader thread on a real server: it answers, keeps within its budget, spools, stops, and says why a stream ended."""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq

from walcast.accel import libpq
from walcast.decode import NATIVE, TWIN, Delivery, Implementation
from walcast.model import Lsn
from walcast.testing.postgres import Database, PostgresServer
from walcast.testing.proxy import TcpProxy

_MB = 1 << 20
both = pytest.mark.parametrize(
    "decoder",
    [decoder for decoder in (NATIVE, TWIN) if decoder is not None],
    ids=lambda decoder: decoder.name,
)


class Reading:
    """A reader on a connection of its own, and what it handed over."""

    def __init__(self, decoder: Implementation, conn: pq.PGconn, settings: dict[str, Any]) -> None:
        native = decoder.name == "native"
        self.conn = conn
        self.pid = conn.backend_pid
        self.reader = decoder.Reader(
            conn.pgconn_ptr if native else conn, libpq.symbols() if native else {}, **settings
        )
        self.reader.start()
        self.waiter = select.poll()
        self.waiter.register(self.reader.fileno(), select.POLLIN)

    def next(self, timeout: float = 10) -> list[Delivery]:
        """What is there, after waiting for something."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.waiter.poll((deadline - time.monotonic()) * 1000)
            if taken := self.reader.take():
                return [Delivery(*item) for item in taken]
        raise AssertionError("nothing was handed over")

    def until(self, done: Callable[[Delivery], bool], timeout: float = 30) -> Iterator[Delivery]:
        """Deliveries one by one, to the first that is `done`, none of them kept."""
        deadline = time.monotonic() + timeout
        while True:
            items = self.next(deadline - time.monotonic())
            while items:
                item = items.pop(0)
                last = done(item)
                yield item
                if last:
                    assert not items, "more came"
                    return

    def end(self, timeout: float = 10) -> tuple[str, str | None, str]:
        for item in self.until(lambda item: item.kind == "end", timeout):
            error = item.error
        assert error is not None
        return error


@contextmanager
def reading(
    database: Database,
    decoder: Implementation,
    *,
    dsn: str | None = None,
    streaming: bool = False,
    publication: str = "p",
    options: str = "",
    tmp_path: Path | None = None,
    **settings: Any,
) -> Iterator[Reading]:
    """A reader on the slot named as the database, from what it has confirmed on."""
    defaults: dict[str, Any] = {
        "budget_bytes": 8 * _MB,
        "part_bytes": _MB,
        "batch_bytes": _MB,
        "linger_us": 200,
        "busy_wait_ms": 5,
        "spool_dir": str(tmp_path or "/tmp"),
        "spool_memory": _MB,
        "spool_limit": 1 << 30,
        "status_interval_ms": 200,
        "idle_interval_ms": 60_000,
        "after_through": 0,
    }
    version = 2 if streaming else 1
    wanted = f"proto_version '{version}', publication_names '{publication}', binary 'true', messages 'true'"
    wanted += ", streaming 'on'" if streaming else ""
    connection = psycopg.connect(
        dsn or database.dsn(), autocommit=True, replication="database", options=options
    )
    conn = connection.pgconn
    conn.send_query(f'START_REPLICATION SLOT "{database.name}" LOGICAL 0/0 ({wanted})'.encode())
    # Not exec_: it would hold the interpreter, which the proxy needs.
    while conn.is_busy():
        select.select([conn.socket], [], [])
        conn.consume_input()
    started = conn.get_result()
    assert started is not None
    assert started.status == pq.ExecStatus.COPY_BOTH, started.error_message
    found = Reading(decoder, conn, {"protocol": version, "streaming": streaming} | defaults | settings)
    try:
        yield found
    finally:
        found.reader.stop()
        connection.close()


@pytest.fixture
def published(database: Database) -> Database:
    """A table, its publication, and the slot."""
    database.execute("create table t (id int primary key, note text); create publication p for table t")
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [database.name])
    return database


def insert(database: Database, first: int, last: int, note: str = "x") -> None:
    database.execute(
        "insert into t select i, %s from generate_series(%s::int, %s::int) i", [note, first, last]
    )


def ids(item: Delivery) -> list[int]:
    assert item.frames is not None
    return [int.from_bytes(entry[7][0] or b"") for entry in item.frames.entries()]


def slot(database: Database) -> tuple[Lsn, int | None]:
    """What the slot has confirmed, and who reads it."""
    [(confirmed, pid)] = database.execute(
        "select confirmed_flush_lsn::text, active_pid from pg_replication_slots where slot_name = %s",
        [database.name],
    )
    return Lsn.parse(confirmed), pid


def eventually(look: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not look():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@both
def test_a_commit_on_an_idle_stream_is_handed_over_at_once(
    published: Database, decoder: Implementation
) -> None:
    with reading(published, decoder) as stream, published.connect() as writer:
        waits = []
        for n in range(20):
            writer.execute("insert into t values (%s, 'x')", [n])
            committed = time.perf_counter()
            [item] = stream.next()
            waits.append(time.perf_counter() - committed)
            assert ids(item) == [n]
            assert item.part is None
            assert item.through > item.commit_lsn
        assert sorted(waits)[10] < 0.05


@both
def test_a_poke_is_answered_with_the_position(published: Database, decoder: Implementation) -> None:
    with reading(published, decoder) as stream:
        for _ in range(2):
            [(token,)] = published.execute("select pg_current_wal_flush_lsn()::text")
            stream.reader.poke()
            [item] = stream.next(2)
            assert item.kind == "idle"
            assert item.through >= Lsn.parse(token)


@both
def test_the_position_moves_on_by_itself_when_nothing_of_ours_is_written(
    published: Database, decoder: Implementation
) -> None:
    published.execute("create table other (a int)")
    with reading(published, decoder, idle_interval_ms=100) as stream:
        published.execute("insert into other select generate_series(1, 1000)")
        [(token,)] = published.execute("select pg_current_wal_flush_lsn()::text")
        for item in stream.until(lambda item: item.through >= Lsn.parse(token)):
            assert item.kind == "idle"
            stream.reader.confirm(item.through)
        eventually(lambda: slot(published)[0] >= Lsn.parse(token), 2)


@both
def test_a_confirmation_reaches_the_slot_at_once_and_nothing_is_sent_again(
    published: Database, decoder: Implementation
) -> None:
    with reading(published, decoder, status_interval_ms=60_000) as stream:
        insert(published, 1, 3)
        [item] = stream.next()
        through = item.through
        stream.reader.confirm(through)
        eventually(lambda: slot(published)[0] == through, 2)
    eventually(lambda: slot(published)[1] is None)
    insert(published, 4, 5)
    with reading(published, decoder, after_through=through) as stream:
        assert ids(stream.next()[0]) == [4, 5]


@both
def test_a_stream_that_nobody_takes_keeps_its_budget_and_its_connection(
    published: Database, decoder: Implementation
) -> None:
    budget, batch, rows = 512 << 10, 64 << 10, 12_000
    options = "-c wal_sender_timeout=1s"
    with reading(
        published, decoder, options=options, budget_bytes=budget, batch_bytes=batch, part_bytes=batch
    ) as stream:
        for first in range(0, rows, 500):
            insert(published, first, first + 499, "x" * 400)
        time.sleep(2.5)
        assert slot(published)[1] == stream.pid, "the server gave the reader up"
        stats = stream.reader.stats()
        assert budget <= stats["budget_used"] <= budget + 4 * batch
        expected = iter(range(rows))
        for item in stream.until(lambda item: item.kind == "changes" and ids(item)[-1] == rows - 1):
            held = stream.reader.stats()["budget_used"]
            assert held <= budget + 4 * batch
            assert ids(item) == list(itertools.islice(expected, len(ids(item))))
        del item
        eventually(lambda: stream.reader.stats()["budget_used"] == 0)


def test_a_huge_transaction_is_spooled_while_it_is_written_and_comes_in_parts(
    published: Database, tmp_path: Path
) -> None:
    assert NATIVE is not None
    rows, budget = 500_000, 4 * _MB
    options = "-c logical_decoding_work_mem=1MB -c wal_sender_timeout=2s"
    with (
        reading(
            published, NATIVE, streaming=True, options=options, tmp_path=tmp_path, budget_bytes=budget
        ) as stream,
        published.connect() as writer,
    ):
        writer.execute("begin")
        writer.execute("insert into t select i, 'kept' from generate_series(1, %s::int) i", [rows // 2])
        eventually(lambda: stream.reader.stats()["spooled_bytes"] > 8 * _MB)
        assert not stream.reader.take(), "handed over before it was committed"
        assert list(tmp_path.iterdir()) == [], "the spool leaves a name behind"
        writer.execute("savepoint a; insert into t select -i, 'undone' from generate_series(1, 50000) i")
        writer.execute("rollback to a")
        writer.execute(
            "insert into t select i, 'kept' from generate_series(%s::int, %s::int) i", [rows // 2 + 1, rows]
        )
        writer.execute("commit")
        expected, parts, slept = 1, 0, False
        for item in stream.until(lambda item: item.part is not None and item.part[1]):
            assert item.part is not None
            assert item.frames is not None
            assert item.part[0] == parts
            assert (item.through == 0) == (not item.part[1])
            parts += 1
            first, last = next(item.frames.entries()), expected + len(item.frames) - 1
            assert int.from_bytes(first[7][0] or b"") == expected == first[3]
            assert item.ordinal == last
            expected = last + 1
            assert stream.reader.stats()["budget_used"] <= budget + _MB + 1024  # a part and its last row
            if parts == 3 and not slept:
                # Longer than the server's patience: the rest of the replay waits for room, and answers.
                slept = True
                time.sleep(3)
        assert expected == rows + 1
        assert parts > 10
        insert(published, rows + 1, rows + 1)
        assert ids(stream.next()[0]) == [rows + 1]
        assert stream.reader.stats()["spooled_bytes"] == 0


@both
def test_streamed_transactions_that_roll_back_leave_nothing(
    published: Database, decoder: Implementation, tmp_path: Path
) -> None:
    options = "-c logical_decoding_work_mem=64kB"
    with (
        reading(published, decoder, streaming=True, options=options, tmp_path=tmp_path) as stream,
        published.connect() as one,
        published.connect() as other,
    ):
        one.execute("begin; insert into t select i, 'gone' from generate_series(1, 5000) i")
        other.execute("begin; insert into t select i, 'kept' from generate_series(10001, 15000) i")
        eventually(lambda: stream.reader.stats()["spooled_bytes"] > 300_000)
        one.execute("rollback")
        other.execute("commit")
        kept = list(stream.until(lambda item: ids(item)[-1] == 15_000))
        assert [n for item in kept for n in ids(item)] == list(range(10_001, 15_001))
        eventually(lambda: stream.reader.stats()["spooled_bytes"] == 0)


@both
def test_a_full_spool_ends_the_stream_by_name(
    published: Database, decoder: Implementation, tmp_path: Path
) -> None:
    options = "-c logical_decoding_work_mem=64kB"
    with reading(
        published,
        decoder,
        streaming=True,
        options=options,
        tmp_path=tmp_path,
        spool_memory=0,
        spool_limit=200_000,
    ) as stream:
        insert(published, 1, 10_000)
        reason, sqlstate, _ = stream.end()
        assert (reason, sqlstate) == ("spool_full", None)


@both
def test_a_walsender_that_is_ended_is_told_from_a_cut_cable_and_the_next_goes_on(
    published: Database, decoder: Implementation, tcp_proxy: TcpProxy
) -> None:
    insert(published, 1, 3)
    with reading(published, decoder) as stream:
        [item] = stream.next()
        through = item.through
        published.execute("select pg_terminate_backend(%s)", [stream.pid])
        reason, sqlstate, message = stream.end()
        assert (reason, sqlstate) == ("server", "57P01")
        assert "administrator" in message
    eventually(lambda: slot(published)[1] is None)
    insert(published, 4, 6)
    dsn = published.dsn(via="tcp", port=tcp_proxy.port)
    with reading(published, decoder, dsn=dsn, after_through=through) as stream:
        stream.reader.confirm(through)
        again = [n for item in stream.until(lambda item: ids(item)[-1] == 6) for n in ids(item)]
        assert again[-3:] == [4, 5, 6]
        tcp_proxy.cut()
        reason, sqlstate, _ = stream.end()
        assert (reason, sqlstate) == ("closed", None)


@both
def test_an_error_of_the_server_keeps_its_sqlstate(published: Database, decoder: Implementation) -> None:
    published.execute("create table grants (a aclitem[]); alter publication p add table grants")
    with reading(published, decoder) as stream:
        insert(published, 1, 1)
        published.execute("insert into grants values ('{=r/postgres}')")
        first, *_, last = stream.until(lambda item: item.kind == "end")
        assert ids(first) == [1]
        assert last.error is not None
        reason, sqlstate, message = last.error
        assert (reason, sqlstate) == ("server", "42883")
        assert "aclitem" in message


@pytest.mark.parametrize("held_up", ["idle", "budget", "replay"])
@both
def test_it_stops_whatever_holds_it_up(
    published: Database, decoder: Implementation, held_up: str, tmp_path: Path
) -> None:
    streaming = held_up == "replay"
    options = "-c logical_decoding_work_mem=64kB" if streaming else ""
    with reading(
        published,
        decoder,
        streaming=streaming,
        options=options,
        tmp_path=tmp_path,
        budget_bytes=100_000,
        batch_bytes=50_000,
        part_bytes=50_000,
    ) as stream:
        if held_up != "idle":
            insert(published, 1, 20_000)
            eventually(lambda: stream.reader.stats()["budget_used"] >= 100_000)
        stream.reader.stop()
        assert stream.end()[0] == "stopped"


@both
def test_over_tls_nothing_stays_behind_in_the_library(
    postgres_factory: Callable[..., PostgresServer],
    make_database: Callable[[PostgresServer], Database],
    decoder: Implementation,
) -> None:
    database = make_database(postgres_factory(15, tls=True))
    database.execute("create table t (id int primary key, note text); create publication p for table t")
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [database.name])
    with reading(database, decoder, dsn=database.dsn(via="tcp", sslmode="require")) as stream:
        for first, last, width in ((1, 20_000, 10), (20_001, 20_040, 100_000), (20_041, 20_041, 40_000)):
            insert(database, first, last, "x" * width)
            got: list[int] = []
            while len(got) <= last - first:
                got += [n for item in stream.next() for n in ids(item)]
            assert got == list(range(first, last + 1))
