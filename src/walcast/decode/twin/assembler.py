"""pgoutput messages to batches of whole transactions, without a connection."""

from __future__ import annotations

from walcast.decode.frames import Delivery
from walcast.decode.twin import wire
from walcast.decode.twin.batching import Open, delivery
from walcast.decode.twin.fault import DecodeFault
from walcast.decode.twin.index import Entry, Growing, Logical, Relation, Truncated, unix_time
from walcast.decode.twin.spool import Spool
from walcast.decode.twin.wire import XLOG_HEADER


class PyAssembler:
    """See `walcast.decode.frames.Assembler`.

    Parameters
    ----------
    protocol, streaming
        what START_REPLICATION asked for
    part_bytes
        a transaction beyond this goes out in parts
    batch_bytes
        whole transactions are sealed as a batch once they hold this much
    spool_dir, spool_memory, spool_limit
        where streamed transactions wait for their outcome; bytes of them in memory, and in files
    after
        everything that committed up to this LSN is known already
    """

    def __init__(
        self,
        protocol: int,
        streaming: bool,
        part_bytes: int,
        batch_bytes: int,
        spool_dir: str,
        spool_memory: int,
        spool_limit: int,
        after: int = 0,
    ) -> None:
        self._streaming = streaming and protocol >= 2
        self._part_bytes = part_bytes
        self._batch_bytes = batch_bytes
        self._spool = Spool(spool_dir, spool_memory, spool_limit)
        self._relations: dict[int, tuple[Relation, int]] = {}
        self._arrival = 0
        self._stream: int | None = None
        self._open: Open | None = None
        self._whole = Growing()
        self._last_ordinal = 0
        self._latest = 0
        self._through = self._told = after
        self._sealed: list[Delivery] = []

    def feed(self, message: bytes) -> None:
        self.accept(message)

    def accept(self, message: bytes) -> wire.Data | wire.Keepalive:
        """As `feed`; what the payload was."""
        found = wire.frame(message)
        if isinstance(found, wire.Keepalive):
            if self._open is None:
                self._through = max(self._through, found.end)
        elif self._stream is None:
            self._apply(wire.message(found.message, in_stream=False), found.sent)
        else:
            self._keep(self._stream, found.message, message)
        return found

    def take(self, final: bool = False) -> list[Delivery]:
        if final:
            self.seal()
        taken, self._sealed = self._sealed, []
        self._told = max([self._told, *(item.through for item in taken)])
        if final and self.idle is not None and self._through > self._told:
            self._told = self._through
            taken.append(Delivery("idle", None, 0, 0, self._through, None, None))
        return taken

    @property
    def idle(self) -> int | None:
        """Everything up to here was taken, or would be nothing; None while something is under way."""
        busy = self._open is not None or self._whole.index.transactions or self._sealed
        return None if busy else self._through

    @property
    def waiting(self) -> bool:
        """Whole transactions wait to be sealed."""
        return bool(self._whole.index.transactions)

    @property
    def has_sealed(self) -> bool:
        return bool(self._sealed)

    @property
    def spooled(self) -> int:
        """Bytes in the spool, memory and files."""
        return self._spool.nbytes

    def seal(self) -> None:
        """Seals what is whole; what is open stays open."""
        if self.waiting:
            self._sealed.append(delivery(self._whole.index, self._last_ordinal, self._through, None))
            self._whole = Growing()

    def close(self) -> None:
        """Lets the spool's files go."""
        self._spool.close()

    def _keep(self, top: int, cursor: wire.Cursor, payload: bytes) -> None:
        """A message within a stream block: to the spool, unless it ends the block."""
        tag, xid = wire.streamed(cursor)
        if xid is None and tag != ord("O"):
            # Unknown and two-phase messages say so themselves.
            if not isinstance(wire.message(cursor, in_stream=True), wire.StreamStop):
                raise DecodeFault("a message that cannot stand in a stream block", XLOG_HEADER)
            self._stream = None
            return
        self._arrival += tag == ord("R")
        self._spool.add(top, top if xid is None else xid, self._arrival, payload)

    def _apply(self, message: wire.Message, sent: int) -> None:
        match message:
            case wire.Change():
                self._change(message)
            case wire.Begin():
                if self._open is not None:
                    raise DecodeFault("Begin inside a transaction", XLOG_HEADER)
                self._begin(message.xid, message.commit_lsn, message.time)
            case wire.Commit():
                if self._transaction("Commit").transaction.commit_lsn != message.commit_lsn:
                    raise DecodeFault("Commit at another LSN than Begin said", XLOG_HEADER)
                self._commit(message.end_lsn)
            case wire.Origin():
                if self._open is None or self._open.ordinal:
                    raise DecodeFault("Origin that does not follow Begin", XLOG_HEADER)
                self._open.transaction.origin = message.name or None
            case Relation():
                self._arrival += 1
                self._relations[message.oid] = (message, self._arrival)
            case wire.Truncate():
                self._truncate(message)
            case wire.LogicalMessage():
                self._logical(message, sent)
            case wire.StreamStart():
                if not self._streaming:
                    raise DecodeFault(
                        "a streamed transaction, though streaming was not asked for", XLOG_HEADER
                    )
                if self._open is not None or not self._spool.start(message.xid, first=message.first):
                    raise DecodeFault("Stream Start out of order", XLOG_HEADER)
                self._stream = message.xid
            case wire.StreamCommit():
                self._replay(message)
            case wire.StreamAbort():
                self._spool.abort(message.xid, message.subxid)
            case wire.StreamStop():
                raise DecodeFault("Stream Stop outside of a stream block", XLOG_HEADER)
            case wire.TypeName():
                pass

    def _begin(self, xid: int, commit_lsn: int, time: int) -> None:
        if commit_lsn < self._latest:
            raise DecodeFault("a commit LSN that goes back", XLOG_HEADER)
        self._latest = commit_lsn
        self._open = Open(xid, commit_lsn, unix_time(time))

    def _commit(self, end_lsn: int) -> None:
        open_, self._open = self._transaction("Commit"), None
        index = open_.commit(end_lsn)
        if any(self._whole.conflicts(relation) for relation in index.relations):
            self.seal()
        self._through = max(self._through, end_lsn)
        if open_.parts:
            self._sealed.append(delivery(index, open_.ordinal, self._through, (open_.parts, True)))
            return
        if not open_.ordinal:
            return
        self._whole.absorb(index)
        self._last_ordinal = open_.ordinal
        if self._whole.index.nbytes >= self._batch_bytes:
            self.seal()

    def _change(self, change: wire.Change) -> None:
        open_ = self._transaction("a change")
        (relation,) = self._enter(open_, [change.oid])
        new, old, old_kind = wire.tuples(change, len(open_.growing.index.relations[relation].columns))
        open_.ordinal += 1
        open_.growing.add(Entry(change.op, relation, open_.transaction, open_.ordinal, new, old, old_kind))
        self._cut_when_big(open_)

    def _truncate(self, truncate: wire.Truncate) -> None:
        """One entry a relation, all with the same ordinal."""
        open_ = self._transaction("a change")
        relations = self._enter(open_, truncate.oids)
        open_.ordinal += 1
        detail = Truncated(truncate.cascade, truncate.restart_identity, tuple(relations))
        for relation in relations:
            open_.growing.add(Entry(b"T", relation, open_.transaction, open_.ordinal, detail=detail))
        self._cut_when_big(open_)

    def _logical(self, message: wire.LogicalMessage, sent: int) -> None:
        """One outside transactions is a transaction of its own, at the time the server sent it."""
        alone = self._open is None
        if alone:
            if message.transactional:
                raise DecodeFault("a transactional message outside of a transaction", XLOG_HEADER)
            self._begin(0, message.lsn, sent)
        open_ = self._transaction("a message")
        open_.ordinal += 1
        detail = Logical(message.prefix, message.content, message.transactional)
        open_.growing.add(Entry(b"M", -1, open_.transaction, open_.ordinal, detail=detail))
        self._cut_when_big(open_)
        if alone:
            self._commit(message.lsn)

    def _replay(self, commit: wire.StreamCommit) -> None:
        """A streamed transaction committed: the same path as any other.

        It announced its relations when it was streamed. What others announced since is newer, and comes back after.
        """
        if self._open is not None:
            raise DecodeFault("Stream Commit inside a transaction", XLOG_HEADER)
        kept = self._spool.replay(commit.xid)
        if kept is None:
            raise DecodeFault("Stream Commit of a transaction that was not streamed", XLOG_HEADER)
        self._begin(commit.xid, commit.commit_lsn, commit.time)
        before = dict(self._relations)
        for arrival, payload in kept:
            found = wire.frame(payload)
            assert isinstance(found, wire.Data)
            message = wire.message(found.message, in_stream=True)
            if isinstance(message, Relation):
                self._relations[message.oid] = (message, arrival)
            else:
                self._apply(message, 0)
        self._commit(commit.end_lsn)
        for oid, (relation, arrival) in before.items():
            if arrival > self._relations[oid][1]:
                self._relations[oid] = (relation, arrival)

    def _transaction(self, what: str) -> Open:
        if self._open is None:
            raise DecodeFault(f"{what} outside of a transaction", XLOG_HEADER)
        return self._open

    def _enter(self, open_: Open, oids: tuple[int, ...] | list[int]) -> list[int]:
        """The relations' numbers in what is open; cuts a part when something older of them is in the way."""
        for oid in oids:
            if oid not in self._relations:
                raise DecodeFault(f"a change of relation {oid}, which was not announced", XLOG_HEADER)
        relations = [self._relations[oid][0] for oid in oids]
        if any(open_.growing.conflicts(relation) for relation in relations):
            self._cut(open_)
        return [open_.growing.enter(relation) for relation in relations]

    def _cut_when_big(self, open_: Open) -> None:
        if open_.growing.index.nbytes >= self._part_bytes:
            self._cut(open_)

    def _cut(self, open_: Open) -> None:
        self.seal()
        index = open_.cut()
        self._sealed.append(delivery(index, open_.ordinal, 0, (open_.parts - 1, False)))
