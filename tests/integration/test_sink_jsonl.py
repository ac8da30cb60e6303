"""The JSON Lines sink beyond the conformance suite: files, torn writes, full disks."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from sink_tools import CONTEXT, files_up_to, kept, put

from walcast.model import Durability, Fenced, OperatorError
from walcast.sinks.jsonl import JsonLinesSink, JsonLinesSinkConfig
from walcast.testing.batches import INT4
from walcast.testing.conformance import Col, Tab, World

ITEMS = Tab("items", (Col("id", INT4, key=True), Col("name")))


def sink(folder: Path, **settings: Any) -> JsonLinesSink:
    return JsonLinesSink(JsonLinesSinkConfig(folder, **settings), CONTEXT)


def transactions(count: int, rows: int = 2) -> World:
    world = World()
    world.table(ITEMS)
    for number in range(count):
        with world.transaction():
            for row in range(rows):
                world.insert(ITEMS, id=str(number * rows + row), name=f"item {number}")
    return world


def ids(folder: Path) -> list[int]:
    """The ids in all files, in order."""
    found = []
    for path in sorted(folder.glob("*.jsonl*")):
        data = path.read_bytes()
        if ".zst" in path.suffixes:
            data = (
                zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
            )
        elif ".gz" in path.suffixes:
            data = gzip.decompress(data) if data else b""
        found += [json.loads(line)["new"]["id"] for line in data.splitlines()]
    return found


@pytest.mark.parametrize("compress", ["none", "zstd", "gzip"])
async def test_files_are_rotated_and_named_by_their_first_position(tmp_path: Path, compress: str) -> None:
    world = transactions(6)
    async with sink(tmp_path, compress=compress, rotate_bytes=1) as opened:
        await kept(opened, world.batches(batch_bytes=1))
    names = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    suffix = {"none": "jsonl", "zstd": "jsonl.zst", "gzip": "jsonl.gz"}[compress]
    first = [event for event in world.events if event.ordinal == 1]
    assert names == [f"{n:08d}-{event.lsn:016X}-1.{suffix}" for n, event in enumerate(first, 1)]
    assert ids(tmp_path) == list(range(12))


async def test_files_are_rotated_by_age(tmp_path: Path) -> None:
    world = transactions(1)
    async with sink(tmp_path, rotate_seconds=0.01) as opened:
        await kept(opened, world.batches())
        await asyncio.sleep(0.02)
        await put(opened, world.idle())
    assert [path.suffix for path in tmp_path.glob("0*")] == [".jsonl"]


async def test_a_batch_is_durable_after_a_flush_or_at_once(tmp_path: Path) -> None:
    one, two = transactions(2).batches(batch_bytes=1)
    async with sink(tmp_path / "a") as opened:
        assert await put(opened, one) is Durability.ACCEPTED
        assert await opened.checkpoint() is None
        await opened.flush()
        assert await opened.checkpoint() == one.checkpoint
    async with sink(tmp_path / "b", fsync="batch") as opened:
        assert await put(opened, one) is Durability.DURABLE
        assert await put(opened, two) is Durability.DURABLE
        assert await opened.checkpoint() == two.checkpoint


@pytest.mark.parametrize("compress", ["none", "zstd", "gzip"])
async def test_a_torn_write_is_cut_off(tmp_path: Path, compress: str) -> None:
    batches = transactions(4).batches(batch_bytes=1)
    async with sink(tmp_path, compress=compress) as opened:
        await kept(opened, batches[:2])
    (part,) = tmp_path.glob("*.part")
    with part.open("ab") as file:
        file.write(b'{"op":"insert","schema":"app","tab')
    (tmp_path / "00000002-00000000000000FF-1.jsonl.part").write_bytes(b"begun after the checkpoint")
    async with sink(tmp_path, compress=compress) as opened:
        assert await opened.checkpoint() == batches[1].checkpoint
        await kept(opened, batches[2:])
    assert ids(tmp_path) == list(range(8))


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_a_process_that_is_killed(tmp_path: Path, compress: str) -> None:
    """Killed at any moment, the files hold a prefix; what comes again after that makes them whole."""
    batches = transactions(200).batches(batch_bytes=1)

    async def write() -> None:
        async with sink(tmp_path, compress=compress, rotate_bytes=4000) as opened:
            held = await opened.checkpoint()
            for number, batch in enumerate(batches):
                rest = batch.after(held, {})
                if rest is not None:
                    await put(opened, rest)
                if number % 3 == 0:
                    await opened.flush()
            await opened.flush()

    for delay in (0.005, 0.01, 0.02, 0.04):
        process = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(write()))
        process.start()
        process.join(delay)
        process.kill()
        process.join()
    asyncio.run(write())
    assert ids(tmp_path) == list(range(400))


async def test_a_file_that_was_closed_just_before_the_crash(tmp_path: Path) -> None:
    batches = transactions(3).batches(batch_bytes=1)
    async with sink(tmp_path) as opened:
        await kept(opened, batches[:1])
    (part,) = tmp_path.glob("*.part")
    part.rename(part.with_suffix(""))
    async with sink(tmp_path) as opened:
        await kept(opened, batches[1:])
    assert ids(tmp_path) == list(range(6))
    assert len(list(tmp_path.glob("0*"))) == 2


async def test_another_form_begins_with_the_next_file(tmp_path: Path) -> None:
    batches = transactions(2).batches(batch_bytes=1)
    async with sink(tmp_path) as opened:
        await kept(opened, batches[:1])
    async with sink(tmp_path, compress="gzip") as opened:
        await kept(opened, batches[1:])
    assert ids(tmp_path) == list(range(4))
    assert [path.name[-6:] for path in sorted(tmp_path.glob("0*"))] == [".jsonl", "z.part"]


async def test_parts_of_a_transaction_count_when_it_is_whole(tmp_path: Path) -> None:
    *parts, last = transactions(1, rows=500).batches(part_bytes=4000)
    async with sink(tmp_path) as opened:
        assert await put(opened, *parts) is Durability.ACCEPTED
        await opened.flush()
        assert await opened.checkpoint() is None
    assert ids(tmp_path) == []
    async with sink(tmp_path, rotate_bytes=1) as opened:
        await kept(opened, [*parts, last])
    assert ids(tmp_path) == list(range(500))
    assert len(list(tmp_path.glob("0*"))) == 1


async def test_a_snapshot_of_a_table_that_was_told_before_begins_with_a_truncate(tmp_path: Path) -> None:
    world = transactions(1)
    batches = world.batches()
    _, chunks = world.snapshot(ITEMS, 1)
    async with sink(tmp_path) as opened:
        await kept(opened, [*batches, *chunks])
    (path,) = tmp_path.glob("0*")
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["op"] for line in lines] == ["insert", "insert", "truncate", "snapshot", "snapshot"]
    assert (lines[2]["ordinal"], lines[2]["lsn"]) == (0, lines[3]["lsn"])


async def test_a_full_disk_leaves_whole_transactions(tmp_path: Path) -> None:
    batches = transactions(4, rows=200).batches(batch_bytes=1)
    async with sink(tmp_path) as opened:
        await kept(opened, batches[:2])
        size = next(tmp_path.glob("*.part")).stat().st_size
        with files_up_to(size + 1000), pytest.raises(OperatorError, match="the disk is full"):
            await put(opened, batches[2])
    assert ids(tmp_path) == list(range(400))
    async with sink(tmp_path) as opened:
        await kept(opened, batches[2:])
    assert ids(tmp_path) == list(range(800))


async def test_one_process_writes_a_directory(tmp_path: Path) -> None:
    async with sink(tmp_path):
        with pytest.raises(Fenced):
            async with sink(tmp_path):
                pass


async def test_a_directory_belongs_to_one_sink(tmp_path: Path) -> None:
    async with sink(tmp_path) as opened:
        await kept(opened, transactions(1).batches())
    with pytest.raises(OperatorError, match="belongs to test/copy"):
        async with JsonLinesSink(JsonLinesSinkConfig(tmp_path), replace(CONTEXT, sink="other")):
            pass


async def test_what_somebody_else_changed_is_refused(tmp_path: Path) -> None:
    async with sink(tmp_path) as opened:
        await kept(opened, transactions(1).batches())
    (part,) = tmp_path.glob("*.part")
    os.truncate(part, 10)
    with pytest.raises(OperatorError, match="shorter than its checkpoint says"):
        async with sink(tmp_path):
            pass
    (tmp_path / ".walcast.json").write_text("{")
    with pytest.raises(OperatorError, match="damaged"):
        async with sink(tmp_path):
            pass


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot be written"):
        async with sink(tmp_path / "file" / "out"):
            pass
