"""Guided lessons: each says what it is about to do, does it to the real cluster, and says what was seen.

A lesson yields what it has to say; whoever runs it decides when it goes on. It leaves the cluster well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from walcast.lab.world import World
from walcast.model import WalcastError

Script = Callable[[World], AsyncIterator[str]]

_SOME: Final = 50
"""Rows, to compare how long a COMMIT takes."""
_PATIENCE: Final = 2.0
"""Seconds after which a lesson calls off a COMMIT that waits."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """`about` is one line for the list."""

    name: str
    about: str
    script: Script


async def taught(lesson: Lesson, world: World) -> AsyncIterator[str]:
    """What the lesson says; afterwards the cluster is well, also when it was left half way."""
    before = world.cluster.desired.profile.name
    try:
        async for said in lesson.script(world):
            yield said
    finally:
        await world.settle()
        await world.profile(before)
    yield "The cluster is as it was."


async def _async(world: World) -> AsyncIterator[str]:
    yield "async: a commit waits for the primary's disk and for nobody else."
    await world.profile("async")
    for replica in world.replicas:
        await world.act("stop", replica)
    yield "Both replicas are stopped. A write returns all the same:"
    await world.write("written with nobody listening")
    yield "It is safe from a crash of the primary, and gone if the primary's disk is."


async def _remote_write(world: World) -> AsyncIterator[str]:
    yield "remote-write: a commit returns once ANY ONE replica has it in memory; nobody waits for that replica's disk."
    await world.profile("semi-sync")
    await world.write_many(_SOME, world.replicas[0])
    yield "That was semi-sync, which waits for a replica's disk. The same with remote-write:"
    await world.profile("remote-write")
    await world.write_many(_SOME, world.replicas[0])
    for replica in world.replicas:
        await world.act("stop", replica)
    yield "All replicas are stopped. It waits as semi-sync does:"
    await _write_and_call_off(world, "in nobody's memory")
    yield "Losing the primary loses nothing that was acknowledged; losing the power of both machines at once can."


async def _first(world: World) -> AsyncIterator[str]:
    first, *others = world.replicas
    yield f"first-1: the first connected one of {', '.join(world.replicas)} must have a commit on disk; the next stands in."
    await world.profile("first-1")
    await world.write("on the disk of the first")
    await world.act("stop", first)
    if others:
        yield f"{first} is stopped. {others[0]} takes its place, and the write returns:"
        await world.write("on the disk of the next")
    else:
        yield f"{first} is stopped, and there is no other one. The write waits:"
        await _write_and_call_off(world, "on no other disk")
    await world.act("start", first)
    yield f"{first} is back and waited for again. With semi-sync any replica will do; here you know which one has it."


async def _semi_sync(world: World) -> AsyncIterator[str]:
    first, *others = world.replicas
    yield "semi-sync: a commit returns once ANY ONE replica has it on disk."
    await world.profile("semi-sync")
    await world.act("stop", first)
    yield f"{first} is stopped; the other one still answers:"
    await world.write("one of two is enough")
    for replica in others:
        await world.act("stop", replica)
    yield "Now both are stopped. The next COMMIT has nobody to wait for, and waits:"
    await _write_and_call_off(world, "nobody has it")
    yield "What was acknowledged before cannot be lost with one machine. The price: no replica, no acknowledgement."


async def _sync(world: World) -> AsyncIterator[str]:
    last = world.replicas[-1]
    yield "sync: every replica must have a commit on disk."
    await world.profile("sync")
    await world.write("on three disks")
    await world.act("stop", last)
    yield f"{last} is stopped. The write hangs until it is back:"
    waiting = asyncio.ensure_future(world.write("waits for the last one"))
    await asyncio.wait({waiting}, timeout=_PATIENCE)
    yield "It still waits." if not waiting.done() else "It did not wait."
    await world.act("start", last)
    await waiting
    yield f"{last} is back, and the COMMIT has returned."


async def _remote_apply(world: World) -> AsyncIterator[str]:
    first = world.replicas[0]
    yield "sync says that every replica HAS a commit, not that it SHOWS it."
    await world.profile("sync")
    await world.act("pause", first)
    await world.write("flushed everywhere, shown not everywhere")
    await world.read(first)
    yield f"{first} has the row on its disk; its replay is paused, so a read there is stale."
    await world.act("resume", first)
    await world.profile("remote-apply")
    await world.write("shown everywhere")
    for replica in world.replicas:
        await world.read(replica)
    yield "remote-apply waits until it is shown: any read on any replica sees an acknowledged write."


async def _lost(world: World) -> AsyncIterator[str]:
    old, heir = world.primary, world.replicas[0]
    yield "What async loses: the replicas are cut off, the primary acknowledges a write, and dies."
    await world.profile("async")
    await world.write("before the cut")
    for replica in world.replicas:
        await world.read(replica)
        await world.act("cut", replica)
    await world.write("acknowledged, and doomed")
    await world.act("kill", old)
    yield f"{heir} takes over with what it has. (Forced: nothing can prove that it has everything.)"
    await world.act("force", heir)
    await world.read(heir)
    try:
        await world.read_with_token()
    except WalcastError as error:
        world.tell(f"the router, asked with the token of that write: {error.message}", "bad")
    yield "The acknowledged row is gone. With semi-sync the COMMIT would have waited instead of lying."


async def _split_brain(world: World) -> AsyncIterator[str]:
    old, heir = world.primary, world.replicas[0]
    yield "Split brain: two servers take writes, and each acknowledges what the other does not have."
    await world.profile("semi-sync")
    await world.write("on the old timeline")
    yield f"Here it cannot happen by an operation: promoting {heir} while {old} lives is refused."
    try:
        await world.act("promote", heir)
    except WalcastError as error:
        world.tell(f"refused: {error.message}", "bad")
    yield "Forced, the old primary is killed first, and stays down until it rejoins as a replica:"
    await world.act("force", heir)
    await world.write("on the new timeline")
    await world.read_with_token()
    yield f"But {old} can come back by itself: a machine that reboots, and a server that was never told. Here it is:"
    await world.unfence(old)
    yield f"Whoever asks the router writes to {heir}. A client that kept the address of {old} writes there:"
    await world.write("to the one that leads")
    await world.write_beside(old, "to the one that led")
    yield (
        f"With semi-sync nobody answers {old}: its COMMIT waits, and nothing is acknowledged that will be lost. That is why "
        "it cannot happen here. It can where commits wait for nobody, as under async:"
    )
    await world.write_beside(old, "acknowledged on the wrong side", alone=True)
    yield f"Now {old} rejoins: it is stopped, rewound to where it left the history, and follows {heir}."
    await world.act("rejoin", old)
    await world.read(heir)
    yield "What was acknowledged on the wrong side is gone; what was acknowledged by replicas is everywhere."


async def _read_your_writes(world: World) -> AsyncIterator[str]:
    slow, *others = world.replicas
    yield "Read your writes: a write returns a token; a read that shows it sees the write, on whichever server."
    await world.profile("async")
    await world.act("pause", slow)
    await world.write("did you see me?")
    yield f"The replay of {slow} stands still. A plain read there:"
    await world.read(slow)
    yield f"The same read with the token ({world.token}) goes where the write is:"
    await world.read_with_token()
    for replica in others:
        await world.act("pause", replica)
    await world.write("and me?")
    yield "Now no replica replays. The read waits for a moment, then goes to the primary:"
    await world.read_with_token()
    yield "No read with the token was stale, and none had to know which server is slow."


async def _write_and_call_off(world: World, message: str) -> None:
    waiting = asyncio.ensure_future(world.write(message))
    await asyncio.wait({waiting}, timeout=_PATIENCE)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting


LESSONS: Final = {
    lesson.name: lesson
    for lesson in (
        Lesson("async", "a commit waits for nobody", _async),
        Lesson("remote-write", "a replica's memory is enough", _remote_write),
        Lesson("semi-sync", "one replica is enough; none is not", _semi_sync),
        Lesson("first", "which replica is waited for", _first),
        Lesson("sync", "stop one replica, and a write hangs", _sync),
        Lesson("remote-apply", "having a commit is not showing it", _remote_apply),
        Lesson("lost", "how an acknowledged write is lost", _lost),
        Lesson("split-brain", "two primaries: why not here, and what if", _split_brain),
        Lesson("read-your-writes", "tokens against stale reads", _read_your_writes),
    )
}
