"""Tables and histories that several cases share."""

from __future__ import annotations

from walcast.model import Batch
from walcast.testing.batches import INT4, INT8
from walcast.testing.conformance.world import Col, Tab, World

USERS = Tab("users", (Col("id", INT4, key=True), Col("name"), Col("body", toast=True), Col("score", INT8)))
NOTES = Tab("notes", (Col("id", INT4, key=True), Col("user_id", INT4), Col("text")), oid=16410)
MARKS = Tab("marks", (Col("at", INT8), Col("what")), identity="n", oid=16420)
PAIRS = Tab("pairs", (Col("a", INT4), Col("b"), Col("c", toast=True)), identity="f", oid=16430)


def everyday(binary: bool = True) -> World:
    """Several tables, several transactions, each operation."""
    world = World(binary=binary)
    world.table(USERS)
    world.table(NOTES)
    with world.transaction():
        for number in range(4):
            world.insert(USERS, id=str(number), name=f"user {number}", body="body " * 30, score=str(number))
    with world.transaction():
        world.insert(NOTES, id="1", user_id="1", text="note")
        world.update(USERS, {"id": "1"}, score=None)
        world.insert(NOTES, id="2", user_id="2", text="it's")
    with world.transaction():
        world.update(USERS, {"id": "2"}, name="", score="-9223372036854775808")
        world.delete(USERS, {"id": "3"})
        world.update(NOTES, {"id": "1"}, text=None)
    with world.transaction():
        world.insert(USERS, id="3", name="again")
        world.delete(NOTES, {"id": "2"})
    return world


def in_parts() -> tuple[World, list[Batch]]:
    """A small transaction, one that comes in several parts, and a small one."""
    world = World()
    world.table(USERS)
    world.table(NOTES)
    with world.transaction():
        for number in range(5):
            world.insert(USERS, id=str(number), name="small", body="b" * 100)
    with world.transaction():
        for number in range(100, 180):
            world.insert(USERS, id=str(number), name=f"big {number}", body="x" * 50)
            world.update(USERS, {"id": str(number % 5)}, name=f"from {number}")
        for number in range(100, 140):
            world.update(USERS, {"id": str(number)}, score=str(number))
            world.delete(USERS, {"id": str(number + 40)})
            world.insert(NOTES, id=str(number), text="note")
    with world.transaction():
        world.delete(USERS, {"id": "100"})
    batches: list[Batch] = list(world.batches(part_bytes=4000, batch_bytes=1))
    assert sum(batch.part is not None for batch in batches) > 3
    return world, batches


def twenty_users() -> tuple[World, list[Batch]]:
    """A table of twenty rows, and the transaction that made them."""
    world = World()
    world.table(USERS)
    with world.transaction():
        for number in range(20):
            world.insert(USERS, id=str(number), name=f"user {number}", body="b" * 60, score=str(number))
    return world, list(world.batches())
