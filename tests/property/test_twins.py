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
    taken,
)
from tests.property.streams import streams

from walcast.decode import NATIVE, TWIN
from walcast.decode.frames import Delivery
from walcast.testing.postgres import Database, PostgresServer

pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native module is not there")

SPOOL = tempfile.gettempdir()
# Not shrunk: a stream is long, and shrinking it may take longer than a test may. Ask for it with Phase.shrink.
UNHURRIED = settings(
    max_examples=50,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
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
