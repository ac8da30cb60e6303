"""The native decoder and its Python twin are equal, on streams that a server could send."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.property import samples as sampled
from tests.property.equality import (
    assert_equal_changes,
    assert_equal_frames,
    flattened,
    flattened_frames,
    taken,
)
from tests.property.streams import streams

from walcast.decode import NATIVE, TWIN
from walcast.decode.frames import Delivery, Frames
from walcast.testing.postgres import Database, PostgresServer

pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native module is not there")

SPOOL = tempfile.gettempdir()
# Not shrunk: a stream is long, and shrinking it may take longer than a test may. Ask for it with Phase.shrink. None is kept
# for the next run, in which a server's own types have other OIDs.
UNHURRIED = settings(
    max_examples=50,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def samples(shared_postgres: Callable[[int], PostgresServer]) -> Iterator[sampled.Samples]:
    database = Database.create(shared_postgres(18))
    with psycopg.connect(database.dsn(), options=sampled.SETTINGS, autocommit=True) as connection:
        yield sampled.load(connection, 18)
    database.drop()


@UNHURRIED
@given(data=st.data())
def test_batches_are_equal_in_everything_that_they_show(
    samples: sampled.Samples, data: st.DataObject
) -> None:
    assert NATIVE is not None
    frames = data.draw(streams(samples.types))
    natives, twins = taken(NATIVE, frames, SPOOL), taken(TWIN, frames, SPOOL)
    assert [_outside(item) for item in natives] == [_outside(item) for item in twins]
    catalogs = NATIVE.Catalog(samples.given), TWIN.Catalog(samples.given)
    for native, twin in zip(natives, twins, strict=True):
        if native.frames is None or twin.frames is None:
            continue
        assert_equal_frames(native.frames, twin.frames, catalogs)
        assert_equal_changes(native, twin, catalogs, samples.given)
        after = data.draw(st.sampled_from([0, *(item[1] for item in twin.frames.transactions())]))
        drops = {
            found[0]: data.draw(st.sampled_from([0, after + 1, 1 << 40])) for found in twin.frames.relations()
        }
        native_view, twin_view = native.frames.select(after, drops), twin.frames.select(after, drops)
        assert (native_view is None) == (twin_view is None)
        if native_view is not None and twin_view is not None:
            assert_equal_frames(native_view, twin_view, catalogs)
            assert_equal_frames(native_view.upto(after + 1), twin_view.upto(after + 1), catalogs)
        assert_equal_frames(native.frames.upto(after), twin.frames.upto(after), catalogs)

        gone = data.draw(st.lists(st.integers(0, max(0, len(twin.frames) - 1)), unique=True))
        native_view, twin_view = native.frames.without(gone), twin.frames.without(gone)
        assert list(twin_view.entries()) == [
            entry for place, entry in enumerate(twin.frames.entries()) if place not in gone
        ]
        assert_equal_frames(native_view, twin_view, catalogs)


@UNHURRIED
@given(data=st.data())
def test_changes_are_the_same_wherever_batches_and_parts_are_cut(
    samples: sampled.Samples, data: st.DataObject
) -> None:
    assert NATIVE is not None
    frames = data.draw(streams(samples.types))
    sizes = {name: data.draw(st.sampled_from((1, 300, 2_000))) for name in ("part", "batch", "memory")}
    whole = flattened(taken(TWIN, frames, SPOOL))
    for implementation in (NATIVE, TWIN):
        cut = taken(implementation, frames, SPOOL, **sizes)
        assert flattened(cut) == whole
        assert_well_formed(cut)


@UNHURRIED
@given(data=st.data())
def test_joined_batches_show_what_they_showed_one_after_the_other(
    samples: sampled.Samples, data: st.DataObject
) -> None:
    assert NATIVE is not None
    frames = data.draw(streams(samples.types))
    views: list[tuple[Frames, Frames]] = []
    natives, twins = (taken(implementation, frames, SPOOL, batch=1) for implementation in (NATIVE, TWIN))
    for native, twin in zip(natives, twins, strict=True):
        if native.frames is None or twin.frames is None:
            continue
        after = data.draw(st.sampled_from([0, 0, *(item[1] for item in twin.frames.transactions())]))
        drops = {found[0]: data.draw(st.sampled_from([0, 1 << 40])) for found in twin.frames.relations()}
        one, other = native.frames.select(after, drops), twin.frames.select(after, drops)
        if one is not None and other is not None:
            views.append((one, other))
    catalogs = NATIVE.Catalog(samples.given), TWIN.Catalog(samples.given)
    while views:
        (one, other), count = views.pop(0), data.draw(st.integers(0, 4))
        later, views = views[:count], views[count:]
        joined, alike = one.join([item[0] for item in later]), other.join([item[1] for item in later])
        definitions: dict[int, object] = {}
        names: dict[object, int] = {}
        agree = all(
            definitions.setdefault(found[0], found) == found
            and names.setdefault(found[1:3], found[0]) == found[0]
            for item in (other, *(item[1] for item in later))
            for found in item.relations()
        )
        assert (joined is not None, alike is not None) == (agree, agree)
        if joined is None or alike is None:
            continue
        assert flattened_frames([joined]) == flattened_frames([one, *(item[0] for item in later)])
        sequence = [one, *(item[0] for item in later)]
        assert joined.transactions() == [found for item in sequence for found in item.transactions()]
        assert_equal_frames(joined, alike, catalogs)
        middle = data.draw(st.sampled_from([0, *(item[1] for item in alike.transactions())]))
        rest, rest_alike = joined.select(middle, {}), alike.select(middle, {})
        assert (rest is None) == (rest_alike is None)
        if rest is not None and rest_alike is not None:
            assert_equal_frames(rest, rest_alike, catalogs)


def assert_well_formed(deliveries: list[Delivery]) -> None:
    """Positions rise, parts are numbered through, and only the last of them moves the position on."""
    position, expected = (0, 0), 0
    for delivery in deliveries:
        if delivery.frames is None:
            continue
        entries = list(delivery.frames.entries())
        places = [(entry[2], entry[3]) for entry in entries]
        assert places == sorted(places)
        assert not places or places[0] > position
        position = (delivery.commit_lsn, delivery.ordinal)
        assert not places or places[-1] <= position
        if delivery.part is None:
            assert expected == 0
        else:
            number, last = delivery.part
            assert number == expected
            assert delivery.frames.transaction_count() == 1
            expected = 0 if last else expected + 1
        whole = delivery.part is None or delivery.part[1]
        assert (delivery.through > 0) == whole
    assert expected == 0


def _outside(delivery: Delivery) -> tuple[object, ...]:
    return (
        delivery.kind,
        delivery.commit_lsn,
        delivery.ordinal,
        delivery.through,
        delivery.part,
        delivery.error,
    )
