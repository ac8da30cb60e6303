"""A publisher that sends lies: the pipeline says so and stops (or tries again); the copy has nothing of them; and with
an honest publisher it goes on where it was."""

from __future__ import annotations

import asyncio
import resource
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.faults.hostile_publisher import HostilePublisher, copy_data, honest

from walcast.engine import Pipeline, PipelineSettings
from walcast.model import Lsn, TableId, WalcastError
from walcast.model.secret import Secret
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.testing.memory import MemorySink, MemoryStore
from walcast.testing.postgres import Database

T = TableId("public", "t")
SETTINGS = PipelineSettings(serve=False, backoff_first=0.05, backoff_most=0.2, retry_limit=1.5)
HEADER = 25
"""Bytes of XLogData before the message: its kind is next."""
Change = Callable[[bytes], Sequence[bytes]]


def on(kind: bytes, change: Change) -> Change:
    """Lies about messages of one kind, and tells the others as they are."""
    return lambda payload: change(payload) if payload[HEADER : HEADER + 1] == kind else honest(payload)


def edited(kind: bytes, at: int, *values: object, form: str) -> Change:
    """Other bytes from `at` on (counted from the message's kind)."""

    def change(payload: bytes) -> Sequence[bytes]:
        new = struct.pack(form, *values)
        place = HEADER + at
        return [copy_data(payload[:place] + new + payload[place + len(new) :])]

    return on(kind, change)


def shorter(payload: bytes) -> Sequence[bytes]:
    return [copy_data(payload[:-3])]


def longer(payload: bytes) -> Sequence[bytes]:
    return [copy_data(payload + b"more")]


def twice(payload: bytes) -> Sequence[bytes]:
    return [copy_data(payload)] * 2


def nothing(payload: bytes) -> Sequence[bytes]:
    return []


def as_kind(kind: bytes) -> Change:
    return lambda payload: [copy_data(payload[:HEADER] + kind + payload[HEADER + 1 :])]


def framed(length: int) -> Change:
    return lambda payload: [b"d" + struct.pack(">I", length) + payload]


# Insert: I, relation (4), N, columns (2), kind of value, length (4), value ...
LIES: dict[str, Change] = {
    "a relation that was never announced": edited(b"I", 1, 999_999, form=">I"),
    "no announcement": on(b"R", nothing),
    "a tuple of more columns than the relation": edited(b"I", 6, 3, form=">H"),
    "a tuple of 65535 columns": edited(b"I", 6, 0xFFFF, form=">H"),
    "a value longer than its message": edited(b"I", 9, 0x3FFF_FFFF, form=">I"),
    "a value of negative length": edited(b"I", 9, 0xFFFF_FFFF, form=">I"),
    "an unknown kind of value": edited(b"I", 8, b"z", form="c"),
    "a message cut short": on(b"I", shorter),
    "a message with something behind it": on(b"I", longer),
    "an unknown message": on(b"I", as_kind(b"Z")),
    "a prepared transaction on a slot without": on(b"B", as_kind(b"b")),
    "a relation of 65535 columns": edited(b"R", 1 + 4 + 7 + 2 + 1, 0xFFFF, form=">H"),
    "a relation with an unknown identity": edited(b"R", 1 + 4 + 7 + 2, b"?", form="c"),
    "a change without begin": on(b"B", nothing),
    "begin within a transaction": on(b"B", twice),
    "a commit that was not begun": on(b"C", twice),
    "a commit at another place than begin said": edited(b"C", 2, 0x17, form=">Q"),
    "the end of a block that was not begun": on(b"I", lambda _: [copy_data(b"w" + bytes(24) + b"E")]),
    "an unknown frame": on(b"I", lambda payload: [copy_data(b"x" + payload[1:])]),
    "a frame shorter than its own length": on(b"I", framed(3)),
    "a frame of two gigabytes": on(b"I", framed(0x7FFF_FFFF)),
    "a frame of four gigabytes": on(b"I", framed(0xFFFF_FFFF)),
    "the end of the stream": on(b"I", lambda _: [b"c" + struct.pack(">I", 4)]),
    "an error that quotes nothing": on(b"I", lambda _: [b"E" + struct.pack(">I", 5) + b"\0"]),
    "another protocol": on(b"I", lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n"]),
}  # fmt: skip


class BackInTime:
    """The second transaction claims to have committed long before the first."""

    def __init__(self) -> None:
        self.begun = 0

    def __call__(self, payload: bytes) -> Sequence[bytes]:
        kind = payload[HEADER : HEADER + 1]
        self.begun += kind == b"B"
        if self.begun < 2 or kind not in (b"B", b"C"):
            return honest(payload)
        place = HEADER + (1 if kind == b"B" else 2)
        return [copy_data(payload[:place] + struct.pack(">Q", 0x1000) + payload[place + 8 :])]


@pytest.mark.parametrize("name", [*LIES, "a commit that goes back in time"])
async def test_a_lie_is_refused_and_leaves_nothing(name: str, database: Database, tmp_path: Path) -> None:
    database.execute(
        "create table t (id bigint primary key, name text); insert into t values (1, 'before');"
        "create publication p for all tables"
    )
    store, server = MemoryStore(record=True), database.server
    with HostilePublisher("127.0.0.1", server.port) as publisher:
        dsn = database.dsn(via="tcp", port=publisher.port)
        await _run(database, dsn, tmp_path, store)
        publisher.lie = LIES.get(name) or BackInTime()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        database.execute("insert into t values (2, 'first')")
        database.execute("insert into t values (3, 'second')")
        with pytest.raises((WalcastError, ExceptionGroup)) as caught:
            await asyncio.wait_for(_run(database, dsn, tmp_path, store), 30)
        assert isinstance(caught.value, WalcastError), caught.value
        assert caught.value.message
        assert publisher.told
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kilobytes
        told = [change.new for change in store.changes]
        first = {"id": 2, "name": "first"}
        assert told == ([first] if name == "a commit that goes back in time" else told[:1])
        assert told in ([], [first])
        publisher.lie = honest
        await asyncio.wait_for(_run(database, dsn, tmp_path, store), 30)
    assert [row["id"] for row in store.rows(T)] == [1, 2, 3]
    assert [(change.new or {})["id"] for change in store.changes] == [2, 3]


async def _run(database: Database, dsn: str, folder: Path, store: MemoryStore) -> None:
    """Until the copy has what is there now, or the pipeline gives up."""
    config = SourceConfig(
        dsn=Secret(dsn),
        name="hostile",
        slot=database.name,
        publication="p",
        receive_timeout=1.0,
        status_interval=0.3,
    )
    flow = Pipeline(PostgresSource(config), {"a": MemorySink(store)}, folder, SETTINGS)
    token = Lsn.parse(database.execute("select pg_current_wal_insert_lsn()::text")[0][0])
    running, reaching = asyncio.create_task(flow.run()), asyncio.create_task(flow.wait_for(token))
    await asyncio.wait([running, reaching], return_when=asyncio.FIRST_COMPLETED)
    flow.stop()
    reaching.cancel()
    await running
