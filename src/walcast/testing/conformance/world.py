"""A small source in memory, and the oracle: what its tables hold, and what it did, in order.

Every change is made twice: to plain dicts here, and as pgoutput frames that a real decoder turns into batches. No code
is shared between the two, so that a copy that equals the dicts was brought there by the frames alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from struct import pack
from typing import Any, Literal

from walcast import decode
from walcast.decode import StreamBatch
from walcast.decode.builtin import BUILTIN
from walcast.model import UNCHANGED, Checkpoint, Column, Lsn, Part, Position, Relation, TableId, Unchanged
from walcast.testing.batches import INT4, INT8, TEXT, Stream, Table, Value, batches_from

Text = str | None
Row = dict[str, Text]
"""Column names to PostgreSQL's text of their values."""


@dataclass(frozen=True)
class Col:
    """A column. `toast`: an update that leaves it alone does not send it. `missing`: what rows hold that were there
    before the column."""

    name: str
    oid: int = TEXT
    key: bool = False
    toast: bool = False
    attnum: int = 0
    missing: str | None = None


@dataclass(frozen=True)
class Tab:
    """One version of a table. Columns without an attribute number get their place."""

    name: str
    columns: tuple[Col, ...]
    schema: str = "app"
    identity: Literal["d", "f", "n"] = "d"
    oid: int = 16400

    @property
    def id(self) -> TableId:
        return TableId(self.schema, self.name)

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.key)

    def relation(self) -> Relation:
        """As a source completes it from the catalog."""
        columns = tuple(
            Column(
                c.name,
                BUILTIN[c.oid],
                -1,
                BUILTIN[c.oid].name,
                c.attnum or place,
                c.key,
                nullable=not c.key,
                missing=c.missing,
            )
            for place, c in enumerate(self.columns, 1)
        )
        return Relation(self.oid, self.id, columns, self.identity)

    def announced(self) -> Table:
        """As pgoutput announces it: under REPLICA IDENTITY FULL every column is a key."""
        full = self.identity == "f"
        return Table(
            self.oid,
            self.schema,
            self.name,
            [(c.name, c.oid, c.key or full) for c in self.columns],
            self.identity,
        )


@dataclass(frozen=True)
class Event:
    """One change, as a log must tell it. `new` (sorted by name) holds UNCHANGED where a value was not sent, `key`
    the key before."""

    op: str
    table: TableId | None
    lsn: int
    ordinal: int
    key: tuple[tuple[str, Text], ...] = ()
    new: tuple[tuple[str, Text | Unchanged], ...] | None = None


@dataclass
class World:
    """Tables and what became of them. `binary`: values go as they do on a binary connection, else as text."""

    binary: bool = True
    rows: dict[TableId, list[Row]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    epoch: int = 1

    def __post_init__(self) -> None:
        self._stream = Stream()
        self._versions: dict[int, list[Tab]] = {}
        self._ordinal = 0

    def table(self, table: Tab) -> Tab:
        """Makes a table, or a new version of one."""
        versions = self._versions.setdefault(table.oid, [])
        held = self.rows.pop(versions[-1].id, []) if versions else []
        known = {c.attnum or place: c for place, c in enumerate(versions[-1].columns, 1)} if versions else {}
        self.rows[table.id] = [
            {
                c.name: row[known[c.attnum or place].name] if (c.attnum or place) in known else c.missing
                for place, c in enumerate(table.columns, 1)
            }
            for row in held
        ]
        versions.append(table)
        self._stream.announce(table.announced())
        return table

    @property
    def end(self) -> Lsn:
        """After the last commit, before the next."""
        return Lsn(self._stream.lsn + 0x40)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._stream.begin()
        self._ordinal = 0
        yield
        self._stream.commit()

    def insert(self, table: Tab, **values: Text) -> None:
        row = {column.name: values.get(column.name) for column in table.columns}
        self.rows[table.id].append(row)
        self._stream.insert(table.announced(), self._sent(table, row))
        self._event("insert", table, row, row)

    def update(self, table: Tab, where: Mapping[str, Text], **values: Text) -> None:
        """Changes the first row that has these values. What is TOASTed and not among `values` is not sent."""
        row = self._find(table, where)
        old, new = dict(row), {**row, **values}
        row.update(values)
        sent: dict[str, Text | Unchanged] = {
            column.name: UNCHANGED if column.toast and column.name not in values else new[column.name]
            for column in table.columns
        }
        moved = any(old[name] != new[name] for name in table.key)
        if table.identity == "f":
            self._stream.update(table.announced(), self._sent(table, sent), old=self._sent(table, old))
        elif moved:
            self._stream.update(table.announced(), self._sent(table, sent), key=self._key(table, old))
        else:
            self._stream.update(table.announced(), self._sent(table, sent))
        self._event("update", table, old, sent)

    def delete(self, table: Tab, where: Mapping[str, Text]) -> None:
        """Deletes the first row that has these values."""
        row = self._find(table, where)
        place = next(n for n, other in enumerate(self.rows[table.id]) if other is row)
        del self.rows[table.id][place]
        if table.identity == "f":
            self._stream.delete(table.announced(), old=self._sent(table, row))
        else:
            self._stream.delete(table.announced(), key=self._key(table, row))
        self._event("delete", table, row, None)

    def truncate(self, *tables: Tab, cascade: bool = False) -> None:
        self._stream.truncate(*(table.announced() for table in tables), cascade=cascade)
        self._ordinal += 1
        for table in tables:
            self.rows[table.id].clear()
            self.events.append(Event("truncate", table.id, self._stream.lsn, self._ordinal))

    def message(self, prefix: str, content: bytes) -> None:
        self._stream.message(prefix, content)
        self._ordinal += 1
        self.events.append(Event("message", None, self._stream.lsn, self._ordinal))

    def batches(self, *, part_bytes: int = 64 << 20, batch_bytes: int = 64 << 20) -> list[StreamBatch]:
        """Everything since the last call."""
        frames, self._stream.frames = self._stream.frames, []
        for versions in self._versions.values():
            self._stream.announce(versions[-1].announced())
        return self.decoded(frames, part_bytes=part_bytes, batch_bytes=batch_bytes)

    def recorded(self) -> list[bytes]:
        """The frames since the last call of `batches`, to be decoded several times."""
        return list(self._stream.frames)

    def decoded(
        self, frames: Sequence[bytes], *, part_bytes: int = 64 << 20, batch_bytes: int = 64 << 20
    ) -> list[StreamBatch]:
        catalog = decode.Catalog([])
        found = batches_from(frames, epoch=self.epoch, part_bytes=part_bytes, batch_bytes=batch_bytes)
        return [
            StreamBatch(
                batch.frames,
                [self._completed(relation) for relation in batch.relations],
                catalog,
                epoch=self.epoch,
                checkpoint=batch.checkpoint,
                part=batch.part,
            )
            for batch in found
        ]

    def snapshot(self, table: Tab, chunks: int) -> tuple[Lsn, list[StreamBatch]]:
        """The table now, as so many chunks, and its start LSN: changes up to now are in it."""
        start = self._stream.lsn + 0x40
        self._stream.lsn = start
        rows = self.rows[table.id]
        relation = table.announced()
        shape = (table.oid, table.schema, table.name, table.identity, relation.column_tuples())
        batches = []
        for number in range(chunks):
            chunk = rows[number * len(rows) // chunks : (number + 1) * len(rows) // chunks]
            data = b"".join(self._copied(table, row) for row in chunk)
            frames = decode.snapshot_frames(shape, [data] if data else [], "binary", start)
            part = Part(number, number == chunks - 1)
            batches.append(
                StreamBatch(frames, [table.relation()], decode.Catalog([]), epoch=self.epoch, part=part)
            )
        self.events.extend(
            Event("snapshot", table.id, start, 0, (), tuple(sorted(row.items()))) for row in rows
        )
        return Lsn(start), batches

    def idle(self) -> decode.IdleBatch:
        """A keepalive: nothing changed up to an LSN beyond the last commit."""
        lsn = self._stream.lsn
        self._stream.lsn += 0x80
        return decode.IdleBatch(Checkpoint(self.epoch, Position(Lsn(lsn), self._ordinal), Lsn(lsn + 0x80)))

    def new_history(self, lsn: int = 0x200) -> None:
        """A failover: the next LSNs are below those that were."""
        self.epoch += 1
        self._stream = Stream(*(v[-1].announced() for v in self._versions.values()), lsn=lsn)

    def _find(self, table: Tab, where: Mapping[str, Text]) -> Row:
        return next(
            row for row in self.rows[table.id] if all(row[name] == value for name, value in where.items())
        )

    def _event(self, op: str, table: Tab, old: Row, new: Mapping[str, Text | Unchanged] | None) -> None:
        self._ordinal += 1
        key = tuple((name, old[name]) for name in table.key)
        told = None if new is None else tuple(sorted(new.items()))
        self.events.append(Event(op, table.id, self._stream.lsn, self._ordinal, key, told))

    def _completed(self, relation: Relation) -> Relation:
        for version in reversed(self._versions[relation.oid]):
            if version.id == relation.table and [(c.name, c.oid) for c in version.columns] == [
                (c.name, c.type.oid) for c in relation.columns
            ]:
                return version.relation()
        raise AssertionError(f"{relation} was never announced")

    def _sent(self, table: Tab, row: Mapping[str, Text | Unchanged]) -> list[Value]:
        return [self._value(column, row[column.name]) for column in table.columns]

    def _key(self, table: Tab, row: Row) -> list[Value]:
        return [self._value(c, row[c.name]) if c.key else None for c in table.columns]

    def _value(self, column: Col, value: Text | Unchanged) -> Value:
        if value is None or isinstance(value, Unchanged) or not self.binary:
            return value
        return _binary(column, value)

    def _copied(self, table: Tab, row: Row) -> bytes:
        fields = [pack(">h", len(table.columns))]
        for column in table.columns:
            value = row[column.name]
            data = None if value is None else _binary(column, value)
            fields.append(pack(">i", -1) if data is None else pack(">i", len(data)) + data)
        return b"".join(fields)


def _binary(column: Col, value: str) -> bytes:
    if column.oid == INT4:
        return pack(">i", int(value))
    return pack(">q", int(value)) if column.oid == INT8 else value.encode()


def changed(table: Tab, **changes: Any) -> Tab:
    """Another version of a table. Attribute numbers are made explicit first, so that they stay when columns move."""
    columns = tuple(replace(c, attnum=c.attnum or place) for place, c in enumerate(table.columns, 1))
    return replace(replace(table, columns=columns), **changes)
