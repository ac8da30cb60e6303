"""The stream: deliveries of the reader thread as batches, over as many connections as it takes.

A connection is opened again in silence, from the last delivered commit, in two cases: a type without a binary form
turned up (then as text), and the spool outgrew its budget (then the server keeps big transactions itself). Everything
else is raised: whether to try again is the pipeline's decision.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg

from walcast.decode import IdleBatch, StreamBatch
from walcast.decode.frames import Delivery, Frames
from walcast.model import (
    Batch,
    Checkpoint,
    DecodeError,
    Lsn,
    OperatorError,
    Part,
    Position,
    Relation,
    SlotInUse,
    SlotState,
    SourceUnavailable,
    SpoolFull,
    TableId,
    WalcastError,
)
from walcast.postgres.catalog import describe_relations
from walcast.postgres.checks import check_asynchronous, check_continuity, stream_fault
from walcast.postgres.config import SourceConfig
from walcast.postgres.connect import Connection, application_name
from walcast.postgres.control import Control
from walcast.postgres.ddl import Shapes, notes
from walcast.postgres.link import Link, open_link
from walcast.postgres.published import published_tables
from walcast.postgres.relations import Relations

log = logging.getLogger("walcast.postgres")

T = TypeVar("T")
_LOOK: Final = 1.0
_LETTING_GO: Final = 1.0
_EVERY_CHANGE: Final = (1 << 64) - 1
_GUARD_INTERVAL: Final = 10.0
"""Seconds between two looks at whether commits wait for us."""


@dataclass(slots=True)
class Mode:
    """How connections are opened; kept by the source, so that what was learned once holds for the next stream."""

    text: bool = False
    streaming: bool = True


class _Reopen(Exception):
    """Open the connection again: the mode has changed."""


class Stream:
    """One run of `PostgresSource.stream`."""

    def __init__(
        self,
        config: SourceConfig,
        control: Control,
        relations: Relations,
        shapes: Shapes | None,
        mode: Mode,
        *,
        database: str,
        selected: Callable[[TableId], bool],
        epoch: Callable[[], int],
    ) -> None:
        self._config = config
        self._control = control
        self._relations = relations
        self._shapes = shapes
        self._mode = mode
        self._database = database
        self._selected = selected
        self._epoch = epoch
        self._position = Position(Lsn(0), 0)
        self._through = Lsn(0)
        self._confirmed = Lsn(0)
        self._within = False
        """Between two parts of one transaction."""
        self.link: Link | None = None

    async def batches(self, after: Checkpoint | None) -> AsyncGenerator[Batch, None]:
        """Everything that committed after the checkpoint, without end."""
        await self._begin(after)
        while True:
            link = self.link = await _patiently(self._open)
            link.poke()  # whoever waits for a position learns where we are
            guard = asyncio.ensure_future(self._guard(link))
            try:
                while True:
                    yield await self._batch(await link.next(), link)
            except _Reopen:
                pass
            finally:
                self.link = None
                guard.cancel()
                await link.close()

    def confirm(self, through: Lsn) -> None:
        self._confirmed = max(self._confirmed, through)
        if self.link is not None:
            self.link.confirm(self._confirmed)

    async def _begin(self, after: Checkpoint | None) -> None:
        if self._config.temporary_slot:
            return

        async def look() -> SlotState:
            return await self._control.ask(
                lambda c: check_continuity(c, self._config.slot, self._database, after)
            )

        # Not what the stream begins after: a sink that is not fed by it may need what lies between.
        self._through = self._confirmed = (await _patiently(look)).confirmed or Lsn(0)
        if after is not None:
            self._position, self._through = after.position, after.through

    async def _open(self) -> Link:
        version = await self._prepare()
        streaming = version >= 140_000 and self._config.streaming != "off" and self._mode.streaming
        text = version < 140_000 or self._config.binary == "off" or self._mode.text
        link = await open_link(
            self._config,
            version,
            start=self._through,
            confirmed=self._confirmed,
            text=text,
            streaming=streaming,
        )
        self._text = text
        try:
            await self._check_asynchronous(link)
        except BaseException:
            await link.close()
            raise
        return link

    async def _prepare(self) -> int:
        """The server's version; finds out beforehand what would break the stream later."""

        async def look(connection: Connection) -> int:
            if not self._config.allow_synchronous:
                await check_asynchronous(connection, application_name(self._config.name))
            if self._config.binary != "off" and not self._mode.text:
                await self._look_for_text(connection)
            return connection.info.server_version

        return await self._control.ask(look)

    async def _look_for_text(self, connection: Connection) -> None:
        try:
            published = await published_tables(connection, self._config.publication, _LOOK)
        except psycopg.errors.LockNotAvailable:  # a table is being altered: then it shows in the stream
            return
        described = await describe_relations(connection, [p.oid for p in published.values()])
        self._relations.add_types(
            {c.type.oid: c.type for relation in described.values() for c in relation.columns}
        )
        for table, relation in described.items():
            sent = published[table].columns if table in published else ()
            for column in relation.columns:
                if column.name in sent and not self._relations.has_binary(column.type):
                    self._turn_to_text(f"{table}.{column.name}", column.sql_type)
                    return

    def _turn_to_text(self, where: str, kind: str) -> None:
        if self._config.binary == "on":
            raise OperatorError(
                f"{where} has type {kind}, which has no binary form that can be read here",
                hint="set binary = auto",
            )
        log.warning("stream_in_text", extra={"column": where, "type": kind})
        self._mode.text = True

    async def _guard(self, link: Link) -> None:
        """Looks after the source while the stream runs: a reload can make us synchronous at any time."""
        while not self._config.allow_synchronous:
            await asyncio.sleep(_GUARD_INTERVAL)
            try:
                await self._check_asynchronous(link)
            except OperatorError as error:
                link.hang_up(error)
            except WalcastError:  # the control connection: it has its own alarm
                return

    async def _check_asynchronous(self, link: Link) -> None:
        if not self._config.allow_synchronous:
            name, pid = application_name(self._config.name), link.pid
            await self._control.ask(lambda c: check_asynchronous(c, name, pid))

    async def _batch(self, delivery: Delivery, link: Link) -> Batch:
        if delivery.kind == "end":
            raise self._ended(delivery, link)
        if delivery.kind == "idle":
            self._through = max(self._through, Lsn(delivery.through))
            return IdleBatch(self._checkpoint())
        assert delivery.frames is not None
        frames = delivery.frames
        relations = await self._completed(frames)
        if not self._text:
            self._check_binary(relations)
        part = Part(*delivery.part) if delivery.part is not None else None
        self._within = part is not None and not part.last
        checkpoint = None
        if not self._within:
            self._position = Position(Lsn(delivery.commit_lsn), delivery.ordinal)
            self._through = Lsn(delivery.through)
            checkpoint = self._checkpoint()
        unwanted = {r.oid: _EVERY_CHANGE for r in relations if not self._selected(r.table)}
        kept = frames.select(0, unwanted) if unwanted else frames
        if kept is None:
            return IdleBatch(checkpoint, part, Lsn(delivery.commit_lsn))
        return StreamBatch(
            kept, relations, self._relations.catalog, epoch=self._epoch(), checkpoint=checkpoint, part=part
        )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self._epoch(), self._position, self._through)

    async def _completed(self, frames: Frames) -> list[Relation]:
        announced = frames.relations()
        if self._shapes is None or not _has_messages(frames, len(announced)):
            return await self._relations.complete(announced)
        found: dict[int, Relation] = {}
        for number, event in notes(frames.entries()):
            if event is not None:
                self._shapes.note(event)
                self._relations.forget(event.oid)
            elif number is not None:
                found[number] = (await self._relations.complete([announced[number]]))[0]
        for number, item in enumerate(announced):
            if number not in found:
                found[number] = (await self._relations.complete([item]))[0]
        return [found[number] for number in range(len(announced))]

    def _check_binary(self, relations: list[Relation]) -> None:
        for relation in relations:
            for column in relation.columns:
                if not self._relations.has_binary(column.type):
                    self._turn_to_text(f"{relation.table}.{column.name}", column.sql_type)
                    raise self._reopen("a column has no binary form")

    def _reopen(self, why: str) -> Exception:
        if self._within:  # its first parts are out: the pipeline has to begin it again
            return SourceUnavailable(
                f"{why}, in the middle of a transaction", hint="it is tried again at once"
            )
        return _Reopen()

    def _ended(self, delivery: Delivery, link: Link) -> Exception:
        """What the end of a connection means."""
        if link.failure is not None:
            return link.failure
        reason, state, message = delivery.error or ("closed", None, "no reason given")
        if reason == "protocol":
            return DecodeError(message, hint="report it, with the server's version")
        if reason == "spool_full":
            if "more than" not in message:
                return SpoolFull(message, hint="free disk space where the spool lies, or set spool_dir")
            log.warning("spool_limit_reached", extra={"limit": self._config.spool_limit})
            self._mode.streaming = False
            return self._reopen("the spool's budget is used up")
        if reason == "server" and state == "42883" and "binary" in message and not self._text:
            self._turn_to_text("a column", message)
            return self._reopen("a type has no binary form")
        if reason == "server":
            return stream_fault(state, message, self._config.slot)
        return SourceUnavailable(f"the replication connection ended: {message}", hint="it is tried again")


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """A walsender whose reader has just closed takes a moment to let the slot go."""
    deadline = time.monotonic() + _LETTING_GO
    while True:
        try:
            return await step()
        except SlotInUse:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.02)


def _has_messages(frames: Frames, relations: int) -> bool:
    return len(frames) > sum(sum(frames.counts(number)) for number in range(relations))
