"""What it means that two decoders are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from walcast.decode import StreamBatch
from walcast.decode.frames import Delivery, Frames, Implementation
from walcast.model import DecodeError, ValueRangeError
from walcast.testing.batches import batch_of

CHOICES = (
    ("text", "text", "text"),
    ("decimal", "native", "list"),
    ("float", "text", "list"),
)


def assert_equal_frames(ours: Any, theirs: Any, catalogs: tuple[Any, Any]) -> None:
    """Two implementations' frames show the same of everything."""
    for method in ("relations", "transactions", "transaction_count", "last_transaction", "end", "xids"):
        assert getattr(ours, method)() == getattr(theirs, method)(), method
    assert (ours.kind, len(ours)) == (theirs.kind, len(theirs))
    assert list(ours.entries()) == list(theirs.entries())
    relations = ours.relations()
    keys = [[number for number, column in enumerate(found[4]) if column[3]][:1] for found in relations]
    assert outcome(lambda: ours.json_lines(catalogs[0], keys)) == outcome(
        lambda: theirs.json_lines(catalogs[1], keys)
    )
    for number in range(len(relations)):
        assert ours.counts(number) == theirs.counts(number)
        for choices in CHOICES:
            assert_equal_tables(
                lambda choices=choices, number=number: ours.arrow(number, catalogs[0], *choices),
                lambda choices=choices, number=number: theirs.arrow(number, catalogs[1], *choices),
            )
        for key in (keys[number], []):
            assert_equal_net(ours.net(number, key), theirs.net(number, key), catalogs)


def assert_equal_net(ours: Any, theirs: Any, catalogs: tuple[Any, Any]) -> None:
    assert ours[:4] == theirs[:4]
    assert (ours[4] is None) == (theirs[4] is None)
    if ours[4] is not None:
        assert_equal_rows(ours[4], theirs[4], catalogs)
    assert [group[:2] for group in ours[5]] == [group[:2] for group in theirs[5]]
    for (_, _, rows), (_, _, others) in zip(ours[5], theirs[5], strict=True):
        assert_equal_rows(rows, others, catalogs)


def assert_equal_rows(ours: Any, theirs: Any, catalogs: tuple[Any, Any]) -> None:
    rows = list(ours.rows())
    assert rows == list(theirs.rows())
    assert (len(ours), ours.format) == (len(theirs), theirs.format)
    columns = list(range(len(rows[0][0]))) if rows else []
    for chosen in (columns, columns[::-1], columns[:1]):
        assert outcome(lambda chosen=chosen: b"".join(ours.copy(chosen))) == outcome(
            lambda chosen=chosen: b"".join(theirs.copy(chosen))
        )
        assert_equal_tables(
            lambda chosen=chosen: ours.arrow(chosen, catalogs[0], *CHOICES[0]),
            lambda chosen=chosen: theirs.arrow(chosen, catalogs[1], *CHOICES[0]),
        )


def assert_equal_changes(
    delivery: Delivery, other: Delivery, catalogs: tuple[Any, Any], given: list[Any]
) -> None:
    """The same Change objects, over either implementation's frames."""
    types = {item[0]: item for item in given}
    batches: list[StreamBatch] = [
        batch_of(item, catalog, types, {}, 1)
        for item, catalog in zip((delivery, other), catalogs, strict=True)
    ]
    # By their repr: NaN is not equal to itself.
    first, second = ([repr(change) for change in batch.changes()] for batch in batches)
    assert first == second
    first, second = ([*_columns(batch)] for batch in batches)
    assert first == second


def _columns(batch: StreamBatch) -> Iterator[Any]:
    """The values of every column of the net changes, one by one."""
    for relation in batch.relations:
        net = batch.net(relation)
        for rows in filter(None, [net.deletes, *(group.rows for group in net.upserts)]):
            for number in range(len(relation.columns)):
                yield repr(outcome(lambda rows=rows, number=number: list(rows.values([number], 2))))  # type: ignore[misc]  # bound now


def assert_equal_tables(ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    left, right = outcome(lambda: pa.table(ours())), outcome(lambda: pa.table(theirs()))
    if not isinstance(left, pa.Table) or not isinstance(right, pa.Table):
        assert left == right
        return
    assert left.schema.equals(right.schema, check_metadata=True), f"{left.schema} {right.schema}"
    for name, one, other in zip(left.column_names, left.columns, right.columns, strict=True):
        assert _same(one.combine_chunks(), other.combine_chunks()), name


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the kind of its failure."""
    try:
        return call()
    except (DecodeError, ValueRangeError, ValueError) as error:
        return type(error).__name__


def flattened(deliveries: list[Delivery]) -> list[Any]:
    """Entries of all batches with their relations whole: equal wherever batches were cut."""
    return flattened_frames([delivery.frames for delivery in deliveries if delivery.frames is not None])


def flattened_frames(batches: list[Frames]) -> list[Any]:
    found = []
    for frames in batches:
        relations = frames.relations()
        for entry in frames.entries():
            detail = entry[-1]
            if entry[0] == b"T":
                detail = (*detail[:2], tuple(relations[number][0] for number in detail[2]))
            found.append((entry[0], relations[entry[1]] if entry[1] >= 0 else None, *entry[2:-1], detail))
    return found


def taken(implementation: Implementation, frames: list[bytes], spool: str, **sizes: int) -> list[Delivery]:
    """Feeds all frames and takes all batches."""
    part, batch, memory = (sizes.get(name, 1 << 30) for name in ("part", "batch", "memory"))
    assembler = implementation.Assembler(4, True, part, batch, spool, memory, 1 << 30)
    found = []
    for frame in frames:
        assembler.feed(frame)
        found += assembler.take()
    return [Delivery(*item) for item in [*found, *assembler.take(final=True)]]


def _same(one: Any, other: Any) -> bool:
    """Equal, where a NaN equals a NaN of the same bits."""
    kind = one.type
    if pa.types.is_floating(kind):
        bits = pa.int32() if kind == pa.float32() else pa.int64()
        return bool(
            one.is_valid().equals(other.is_valid())
            and one.fill_null(0).view(bits).equals(other.fill_null(0).view(bits))
        )
    if pa.types.is_struct(kind):
        pairs = zip(one.flatten(), other.flatten(), strict=True)
        return one.is_valid().equals(other.is_valid()) and all(_same(left, right) for left, right in pairs)
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        counts = one.value_lengths().equals(other.value_lengths())
        return counts and _same(one.flatten(), other.flatten())
    return bool(one.equals(other))
