"""Holding one sink at one position of the stream, while the source is read at the same position.

    hold(take, action):
      1. between two writes of the sink: take() -> Cut(lsn L, snapshot S)    the sink is not beyond L
      2. a transaction streamed before that S does not see: 1. again, a little later
      3. the sink goes on until it has everything that committed before L, and nothing that committed later
      4. action(held), and the sink goes on

S and the sink at L differ in exactly the transactions that committed before L and that S does not see. Those of before
step 1 are none, by step 2 (`Recent` remembers them). Those between step 1 and L pass through here: the keys that they
touch are in `held.touched`, and whoever compares or copies leaves these keys out and takes them again under another
fence. As S and L are taken together there are few of them, if any. Transactions that are open, or prepared, commit after
L and hold nothing up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from walcast.model import (
    Batch,
    Checkpoint,
    Cut,
    Held,
    KnowsVisibility,
    Relation,
    RetryableError,
    Sink,
    Source,
    TableId,
    Touched,
)

if TYPE_CHECKING:
    from walcast.engine.delivery import Delivery

T = TypeVar("T")
Take = Callable[[], Awaitable[Cut]]
_UNCHANGED = ord("u")
_POKE = 0.05
"""Seconds between two questions where the stream is."""
_NUDGE_EVERY = 10


class FenceLost(RetryableError):
    """The sink cannot be held at a position now: it is not streaming, it failed meanwhile, or S never saw everything."""


class HeldSink:
    """Implements `walcast.model.Held`. `broke` is what a call to the sink raised."""

    def __init__(
        self, cut: Cut, delivery: Delivery, touched: dict[TableId, Touched], position: Checkpoint | None
    ) -> None:
        self.cut = cut
        self.touched = touched
        self.position = position
        self.broke: BaseException | None = None
        self._delivery = delivery

    @property
    def sink(self) -> Sink:
        return self._delivery.sink

    async def prepare(self, relation: Relation) -> None:
        await self._doing(self._delivery.prepare(relation))

    async def write(self, batch: Batch) -> None:
        await self._doing(self._delivery.insert(batch))

    async def flush(self) -> None:
        await self._doing(self._delivery.flush())

    async def _doing(self, call: Awaitable[None]) -> None:
        try:
            await call
        except BaseException as error:
            self.broke = error
            raise


Action = Callable[[Held], Awaitable[T]]


class Fence:
    """One hold, as the sink's worker sees it."""

    def __init__(self, cut: Cut, action: Action[Any], *, flush: bool) -> None:
        self.cut = cut
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._action = action
        self._flush = flush
        self._touched: dict[TableId, Touched] = {}

    def note(self, batch: Batch) -> None:
        """The sink has this, from before the fence."""
        sees = self.cut.visibility.sees
        unseen = {xid for xid in batch.xids if not sees(xid)}
        if not unseen:
            return
        for raw in batch.raw():
            if raw.xid not in unseen or raw.op == b"M":
                continue
            relation = batch.relations[raw.relation]
            touched = self._touched.setdefault(relation.table, Touched())
            if raw.op == b"T":
                touched.whole = True
                continue
            if raw.old_kind:
                touched.add(relation, raw.old_kinds, raw.old_values)
            if raw.op == b"D":
                continue
            kinds, values = raw.kinds, raw.values
            if raw.old_kind:  # an unchanged column of the key is the old one
                pairs = list(zip(kinds, values, raw.old_kinds, raw.old_values, strict=True))
                kinds = bytes(old if kind == _UNCHANGED else kind for kind, _, old, _ in pairs)
                values = tuple(there if kind == _UNCHANGED else value for kind, value, _, there in pairs)
            touched.add(relation, kinds, values)

    async def run(self, delivery: Delivery, position: Checkpoint | None) -> None:
        """The sink is there. Raises what broke the sink; every other error is for the one who holds."""
        held = HeldSink(self.cut, delivery, self._touched, position)
        try:
            if self._flush and delivery.may_flush:
                await held.flush()
            result = await self._action(held)
        except BaseException as error:
            if not self.result.done():
                self.result.set_exception(_told(error))
            if held.broke is not None or not isinstance(error, Exception):
                raise
            return
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, why: str) -> None:
        if not self.result.done():
            self.result.set_exception(FenceLost(why, hint="it is tried again"))


async def outcome(fence: Fence, source: Source, patience: float) -> Any:
    """What the action returned. Asks an idle source again and again where it is: the fence may lie just behind what it
    has flushed. Raises what the action raised, FenceLost."""
    result, pokes = fence.result, 0
    try:
        async with asyncio.timeout(patience):
            while not result.done():
                if pokes % _NUDGE_EVERY == 1 and isinstance(source, KnowsVisibility):
                    await source.nudge()
                source.poke()
                pokes += 1
                await asyncio.wait([result], timeout=_POKE)
    except TimeoutError:
        fence.fail(f"the sink did not reach {fence.cut.lsn} within {patience:g} s")
    finally:
        if not result.done():
            result.cancel()
    return result.result()


def _told(error: BaseException) -> BaseException:
    """A cancellation of the worker is not one of the task that waits for it."""
    if isinstance(error, Exception):
        return error
    return FenceLost("the sink was stopped while it was held", hint="it is tried again")
