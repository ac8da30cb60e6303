"""What the tests of single sinks share."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from walcast.model import Batch, Durability, Sink, SinkContext, SourceIdentity

CONTEXT = SinkContext("test", "copy", SourceIdentity(7_000_000_000, 1, 180000, "app"), ".")


async def put(sink: Sink, *batches: Batch) -> Durability:
    """Prepares and writes batches; what the last write said."""
    durability = Durability.DURABLE
    for batch in batches:
        for relation in batch.relations:
            await sink.prepare(relation)
        durability = await sink.write(batch)
    return durability


async def kept(sink: Sink, batches: Sequence[Batch]) -> None:
    """Writes and flushes batches one by one."""
    for batch in batches:
        await put(sink, batch)
        await sink.flush()


@contextmanager
def files_up_to(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: a disk that is full, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
