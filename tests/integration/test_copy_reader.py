"""COPY TO STDOUT as frames: native and twin read the same rows, and let the rest of the program run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import psycopg
import pytest
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from walcast.accel.libpq import symbols
from walcast.decode import NATIVE, TWIN
from walcast.decode.frames import Implementation
from walcast.testing.postgres import PostgresServer

RELATION = (1, "public", "t", "d", [("n", 23, -1, True), ("t", 25, -1, False)])
ROWS = "copy (select n, case when n % 2 = 0 then 'row ' || n end from generate_series(1, 10) n) to stdout"


@pytest.fixture
def pgconn(postgres_server: PostgresServer) -> Iterator[PGconn]:
    connection = psycopg.connect(postgres_server.dsn())
    yield connection.pgconn
    connection.close()


@pytest.fixture(params=[NATIVE, TWIN], ids=["native", "python"])
def decoder(request: pytest.FixtureRequest) -> Implementation:
    if request.param is None:
        pytest.skip("the native module is not there")
    return request.param


def reader(decoder: Implementation, pgconn: Any, query: str, format: Literal["binary", "text"]) -> Any:
    result = pgconn.exec_(f"{query} (format {format})".encode())
    assert result.status == ExecStatus.COPY_OUT, result.error_message
    native = decoder.name == "native"
    return decoder.CopyReader(
        pgconn.pgconn_ptr if native else pgconn, symbols() if native else {}, RELATION, format, 77
    )


@pytest.mark.parametrize("format", ["binary", "text"])
def test_rows_come_in_chunks_of_the_size_asked_for(
    decoder: Implementation, pgconn: PGconn, format: Literal["binary", "text"]
) -> None:
    reading = reader(decoder, pgconn, ROWS, format)
    rows, sizes, ended = [], [], False
    while not ended:
        frames, size, ended = reading.read(1 << 20, 4)
        assert frames.kind == "snapshot"
        sizes.append(size)
        rows += [entry[7] for entry in frames.entries()]
    assert pgconn.get_result().status == ExecStatus.COMMAND_OK  # type: ignore[union-attr]  # or it fails
    numbers = [int.from_bytes(n) if format == "binary" else int(n) for n, _ in rows]
    assert numbers == list(range(1, 11))
    assert [text for _, text in rows] == [b"row %d" % n if n % 2 == 0 else None for n in numbers]
    assert len(sizes) >= 3


def test_a_copy_that_fails_is_over_and_its_result_says_why(decoder: Implementation, pgconn: PGconn) -> None:
    failing = "copy (select n, (1 / (6 - n))::text from generate_series(1, 10) n) to stdout"
    frames, _, ended = reader(decoder, pgconn, failing, "binary").read(1 << 20, 100)
    assert (len(frames), ended) == (5, True)
    result = pgconn.get_result()
    assert result is not None
    assert b"division by zero" in result.error_message


def test_other_threads_run_while_the_server_takes_its_time(decoder: Implementation, pgconn: PGconn) -> None:
    first = "select 1, repeat('x', 100000)"  # more than the server keeps back
    slow = f"copy ({first} union all select 2, 'x' from pg_sleep(0.5)) to stdout"
    reading = reader(decoder, pgconn, slow, "binary")
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(reading.read(1 << 20, 100)[0])))
    thread.start()
    ticks = 0
    while thread.is_alive():
        ticks += 1
        time.sleep(0.01)
    assert found == [2]
    assert ticks > 5
