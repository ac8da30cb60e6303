"""Reads that must see a write, on a real primary with two real replicas."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests.integration.routing_tools import Trio, hold, release, trio, until

import walcast
from walcast.cluster.routing.fleet import Role
from walcast.testing import PostgresServer, TcpProxy
from walcast.testing.plugin import or_skip
from walcast.testing.postgres import PostgresFactory

pytestmark = pytest.mark.xdist_group("routing")
READ = "select n from t where id = 1"


@pytest.fixture(scope="module")
def shared() -> Iterator[Trio]:
    factory = PostgresFactory()
    with trio(lambda version: or_skip(lambda: factory(version))) as servers:
        yield servers
    factory.close()


@pytest.fixture
def servers(shared: Trio) -> Iterator[Trio]:
    """The module's servers: every replica replays again afterwards."""
    yield shared
    release(shared.one, shared.two)
    shared.catch_up()


@pytest.fixture
def own(postgres_factory: Callable[..., PostgresServer]) -> Iterator[Trio]:
    """Servers of this test's own, to be killed and promoted."""
    with trio(postgres_factory) as found:
        yield found


Router = walcast.Router[psycopg.Connection[Any]]


@pytest.fixture
def router(servers: Trio) -> Iterator[Router]:
    servers.catch_up()
    with walcast.Router[psycopg.Connection[Any]](servers.dsns, interval=0.2) as opened:
        yield opened


def write(router: Router, n: int) -> walcast.Token:
    with router.write() as lease:
        lease.connection.execute("update t set n = %s where id = 1", [n])
    assert lease.token is not None
    return lease.token


def read(router: Router, fresh: Any = None, **options: Any) -> tuple[str, int]:
    with router.read(fresh, **options) as lease:
        row = lease.connection.execute(READ).fetchone()
        assert row is not None
        return lease.node, row[0]


def test_a_read_with_the_token_sees_the_write_and_one_without_may_not(servers: Trio, router: Router) -> None:
    write(router, 1)
    servers.catch_up()
    hold(servers.one, servers.two)
    token = write(router, 2)
    assert read(router, token) == ("primary", 2)
    node, value = read(router, "any")
    assert node != "primary"
    assert value == 1, "the write is on no replica: this read is stale"
    release(servers.two)
    servers.catch_up(servers.two)
    assert read(router, token, wait=10) == ("two", 2)
    assert read(router, str(token)) == ("two", 2)


def test_a_read_waits_for_a_replica(servers: Trio, router: Router) -> None:
    hold(servers.one, servers.two)
    token = write(router, 3)
    timer = threading.Timer(0.3, release, [servers.one])
    timer.start()
    assert read(router, token, wait=30) == ("one", 3)
    timer.join()


def test_reads_are_spread_over_the_replicas(servers: Trio, router: Router) -> None:
    token = write(router, 4)
    servers.catch_up()
    until(lambda: {read(router, token)[0] for _ in range(20)} == {"one", "two"})


def test_a_replica_that_is_known_to_have_it_is_not_asked_again(servers: Trio) -> None:
    """Counted on the wire: with a token as many bytes go to the replica as without."""
    with TcpProxy("127.0.0.1", servers.one.port) as proxy:
        dsns = {"primary": servers.primary.dsn(), "one": servers.one.dsn(via="tcp", port=proxy.port)}
        with walcast.Router[psycopg.Connection[Any]](dsns, interval=3600) as router:
            token = write(router, 5)
            assert read(router, token, wait=10) == ("one", 5)
            sent = []
            for _ in range(20):  # psycopg prepares the statement meanwhile
                read(router, "any")
            for fresh in ("any", token):
                before = proxy.to_server
                for _ in range(20):
                    assert read(router, fresh)[0] == "one"
                sent.append(proxy.to_server - before)
            assert sent[0] == sent[1]


def test_a_session_sees_its_writes_and_never_goes_back(servers: Trio, router: Router) -> None:
    write(router, 6)
    servers.catch_up()
    hold(servers.one)
    with router.session() as session:
        token = write(router, 7)
        assert session.token == token
        for _ in range(10):
            assert read(router)[1] == 7
    servers.catch_up(servers.two)
    with router.session():
        assert read(router, token, wait=10) == ("two", 7)
        assert {read(router) for _ in range(10)} == {("two", 7)}
    assert servers.one.execute(READ) == [(6,)], "the other replica would have taken it back"


def test_a_session_goes_on_elsewhere_when_its_server_is_gone(own: Trio) -> None:
    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=0.2) as router:
        token = write(router, 1)
        own.catch_up()
        with router.session(token):
            node, _ = read(router, "monotonic", wait=10)
            gone = own.one if node == "one" else own.two
            hold(own.two if gone is own.one else own.one)
            own.primary.execute("update t set n = 2")
            own.catch_up(gone)
            assert read(router) == (node, 2)
            gone.kill()
            assert read(router) == ("primary", 2), "the other replica has not seen what this session saw"


def test_max_lag_is_kept_by_a_replica_or_by_the_primary(servers: Trio, router: Router) -> None:
    write(router, 8)
    servers.catch_up()
    until(lambda: read(router, max_lag=5.0)[0] != "primary")
    hold(servers.one, servers.two)
    write(router, 9)
    until(lambda: read(router, max_lag=0.2)[0] == "primary")
    assert read(router, max_lag=0.2)[1] == 9
    assert read(router, max_lag=3600.0)[0] != "primary"
    with pytest.raises(walcast.ConfigError, match="max_lag"):
        read(router, "any", max_lag=1)
    with pytest.raises(walcast.ConfigError, match="makes no sense"):
        read(router, max_lag=0)


def test_reads_cannot_write_even_on_the_primary(servers: Trio, router: Router) -> None:
    hold(servers.one, servers.two)
    token = write(router, 10)
    with router.read(token) as lease:
        assert lease.role is Role.PRIMARY
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            lease.connection.execute("update t set n = 11")
        lease.connection.rollback()
    assert write(router, 12)


def test_a_failed_write_is_rolled_back_and_has_no_token(router: Router) -> None:
    leases = []

    def fail() -> None:
        with router.write() as lease:
            leases.append(lease)
            lease.connection.execute("update t set n = 99 where id = 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert leases[0].token is None
    assert read(router, router.token())[1] != 99


def test_a_read_cancelled_by_recovery_is_run_again_elsewhere(own: Trio) -> None:
    for replica in (own.one, own.two):
        replica.reload({"max_standby_streaming_delay": "0"})
    seen: list[int] = []

    def work(connection: psycopg.Connection[Any]) -> int:
        connection.execute(READ)
        seen.append(connection.info.port)
        if len(seen) == 1:  # a lock on the table is replayed: whoever reads it must go
            own.primary.execute("truncate t; insert into t values (1, 42)")
        row = connection.execute("select n, pg_sleep(0.5) from t where id = 1").fetchone()
        assert row is not None
        return int(row[0])

    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=0.2) as router:
        assert router.run(work, "any") in (0, 42)
    assert 2 <= len(seen) <= 3  # the second one may not have replayed the lock yet, and be cancelled, too
    assert len(set(seen)) == len(seen)


def test_an_error_of_the_query_is_the_callers(router: Router) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        router.query("select * from nowhere")
    with pytest.raises(psycopg.errors.DivisionByZero), router.read() as lease:
        lease.connection.execute("select 1 / 0")
    assert router.query(READ)


def test_a_killed_replica_costs_no_read_that_may_be_tried_again(own: Trio) -> None:
    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=0.2) as router:
        token = write(router, 1)
        until(lambda: {read(router, token)[0] for _ in range(20)} == {"one", "two"})
        own.one.kill()
        for _ in range(50):  # the read that finds out is run again elsewhere
            assert router.query(READ, fresh=token) == [(1,)]
            assert router.query(READ, fresh="any") == [(1,)]
        until(lambda: router.fleet.role(router.fleet.nodes[1]) is Role.DOWN)
        own.one.start()
        until(lambda: "one" in {read(router, "any")[0] for _ in range(20)})


def test_a_standby_that_came_back_with_less_is_not_trusted(own: Trio) -> None:
    """It was killed, and stands at its last restart point: what it had shown before, it no longer shows."""
    dsns = {"primary": own.primary.dsn(), "one": own.one.dsn()}
    with walcast.Router[psycopg.Connection[Any]](dsns, interval=3600) as router:
        write(router, 1)
        token = write(router, 2)
        assert read(router, token, wait=10) == ("one", 2)
        own.one.kill()
        own.one.restart({"recovery_min_apply_delay": "1h"})
        until(lambda: router.query(READ, fresh=token) == [(2,)])
        router.poke()
        until(lambda: router.fleet.role(router.fleet.nodes[1]) is Role.REPLICA)
        stale = read(router, "any")
        assert stale[0] == "one"
        assert stale[1] < 2
        assert read(router, token) == ("primary", 2)


def test_a_replica_that_hangs_is_left_alone(own: Trio) -> None:
    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=0.2) as router:
        write(router, 1)
        own.catch_up()
        until(lambda: {read(router)[0] for _ in range(20)} == {"one", "two"})
        own.one.pause()
        try:
            for n in range(2, 5):
                token = write(router, n)
                assert read(router, token)[1] == n
            until(lambda: router.fleet.role(router.fleet.nodes[1]) is Role.DOWN)
        finally:
            own.one.resume()
        until(lambda: "one" in {read(router, "any")[0] for _ in range(20)})


def test_after_a_promotion_writes_follow_and_what_was_lost_is_told(own: Trio) -> None:
    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=0.1, timeout=30) as router:
        kept = write(router, 1)
        own.catch_up()
        own.one.stop()
        own.two.stop()
        lost = write(router, 2)
        own.primary.kill()
        own.one.start()
        own.two.start()
        own.one.execute("select pg_promote()")
        token = write(router, 3)
        assert token.timeline == kept.timeline + 1
        assert read(router, token) == ("one", 3), "the other one still follows the old timeline"
        assert read(router, kept)[1] in (1, 3)
        until(lambda: router.fleet.history is not None and bool(router.fleet.history.ends))
        with pytest.raises(walcast.WriteLost, match="was lost"):
            read(router, lost)
        own.primary.start()  # nobody told it: it takes writes again
        until(lambda: router.fleet.role(router.fleet.nodes[0]) is Role.FENCED)
        assert own.primary.execute(READ) == [(2,)]
        for n in range(4, 14):
            assert read(router, write(router, n))[1] == n
            assert read(router, "any")[0] != "primary"


def test_an_open_old_primary_is_found_out_at_the_next_look(own: Trio) -> None:
    """Split brain: the old primary never stopped. A write that still went there is not called good."""
    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=3600) as router:
        write(router, 1)
        own.one.execute("select pg_promote()")

        def write_meanwhile() -> None:
            with router.write() as lease:
                lease.connection.execute("update t set n = 66")
                router.poke()
                until(lambda: router.fleet.role(router.fleet.nodes[1]) is Role.PRIMARY)

        with pytest.raises(walcast.SplitBrain, match="has been seen since"):
            write_meanwhile()
        assert read(router, write(router, 2)) == ("one", 2)


def test_two_primaries_on_one_timeline_get_no_writes(own: Trio) -> None:
    with walcast.Router[psycopg.Connection[Any]](own.dsns, interval=0.1, timeout=5) as router:
        write(router, 1)
        own.catch_up()
        own.primary.stop()
        own.one.execute("select pg_promote()")
        own.two.execute("select pg_promote()")
        until(lambda: [line.role for line in router.status()][1:] == [Role.PRIMARY] * 2)
        with pytest.raises(walcast.SplitBrain, match="two servers take writes"):
            write(router, 2)


def test_servers_that_are_not_one_cluster_are_refused(
    servers: Trio, shared_postgres: Callable[[int], PostgresServer]
) -> None:
    dsns = {"mine": servers.primary.dsn(), "stranger": shared_postgres(16).dsn()}
    with pytest.raises(walcast.OperatorError, match="another cluster"):
        walcast.Router(dsns).open()


def test_nobody_in_reach_is_said_with_the_reasons() -> None:
    with pytest.raises(walcast.NodeUnavailable, match=r"gone: down \(.*refused"):
        walcast.Router({"gone": "host=127.0.0.1 port=1 password=hush"}, timeout=5).open()
    with pytest.raises(walcast.ConfigError, match="a server at least"):
        walcast.Router([])
    with pytest.raises(walcast.OperatorError, match="cannot be read") as caught:
        walcast.Router(["postgresql://u:hush@[/x"])
    assert "hush" not in str(caught.value)
    with pytest.raises(walcast.ConfigError, match="several hosts"):
        walcast.Router(["host=a,b"])
    with pytest.raises(walcast.ConfigError, match="makes no sense"):
        walcast.Router(["host=a"], wait=-1)


def test_the_environment_names_the_servers(servers: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIMARY_DSN", raising=False)
    with pytest.raises(walcast.ConfigError, match="PRIMARY_DSN"):
        walcast.Router()
    monkeypatch.setenv("PRIMARY_DSN", servers.primary.dsn())
    monkeypatch.setenv("REPLICA1_DSN", servers.one.dsn())
    monkeypatch.delenv("REPLICA2_DSN", raising=False)
    with walcast.Router[psycopg.Connection[Any]]() as router:
        assert [(line.name, line.role.value) for line in router.status()] == [
            ("primary", "primary"),
            ("replica1", "replica"),
        ]


def test_a_role_without_rights_is_enough(servers: Trio) -> None:
    servers.primary.execute("create role plain login password 'plain'; grant select, update on t to plain")
    servers.catch_up()
    dsns = {
        server: node.dsn(via="tcp", user="plain", password="plain")
        for server, node in (("primary", servers.primary), ("one", servers.one))
    }
    with walcast.Router[psycopg.Connection[Any]](dsns, interval=0.2) as router:
        token = write(router, 20)
        assert read(router, token, wait=10) == ("one", 20)


def test_a_token_is_taken_from_any_connection_after_its_commit(servers: Trio, router: Router) -> None:
    with psycopg.connect(servers.primary.dsn()) as connection:
        connection.execute("update t set n = 30")
        with pytest.raises(walcast.OperatorError, match="after the commit"):
            walcast.take_token(connection)
        connection.commit()
        token = walcast.take_token(connection)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert read(router, token, wait=10)[1] == 30


async def test_asyncio(servers: Trio) -> None:
    async with walcast.AsyncRouter(servers.dsns, interval=0.2) as router:
        async with router.write() as wrote:
            await wrote.connection.execute("update t set n = 40")
        assert wrote.token is not None
        assert await router.query(READ, fresh=wrote.token, wait=10) == [(40,)]
        hold(servers.one, servers.two)
        async with router.write() as wrote:
            await wrote.connection.execute("update t set n = 41")
        async with router.read(wrote.token) as lease:
            assert lease.node == "primary"
        with router.session() as session:
            async with router.write() as wrote:
                await wrote.connection.execute("update t set n = 42")
            assert session.token == wrote.token
            assert await router.query(READ) == [(42,)]
        assert await router.query(READ, fresh="any") == [(40,)]

        async def one_read() -> list[Any]:
            return await router.query(READ, fresh=wrote.token, wait=30)

        reading = [asyncio.create_task(one_read()) for _ in range(40)]
        await asyncio.sleep(0.2)
        release(servers.one, servers.two)
        assert await asyncio.gather(*reading) == [[(42,)]] * 40
        cancelled = asyncio.create_task(router.query("select pg_sleep(60)"))
        await asyncio.sleep(0.2)
        cancelled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled
        assert [line.busy for line in router.status()] == [0, 0, 0]


async def test_asyncio_after_a_promotion(own: Trio) -> None:
    async with walcast.AsyncRouter(own.dsns, interval=0.1, timeout=30) as router:
        async with router.write() as wrote:
            await wrote.connection.execute("update t set n = 1")
        own.catch_up()
        own.primary.kill()
        own.one.execute("select pg_promote()")
        async with router.write() as again:
            await again.connection.execute("update t set n = 2")
        assert wrote.token is not None
        assert again.token is not None
        assert wrote.token < again.token
        assert await router.query(READ, fresh=again.token) == [(2,)]
        assert await router.query(READ, fresh=wrote.token) in ([(1,)], [(2,)])
