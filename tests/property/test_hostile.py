"""Damaged frames and COPY data: refused with their place, or shown; the same by both decoders. Longer: `make fuzz`."""

from __future__ import annotations

from tests import fuzz


def test_damaged_input_is_refused_or_shown_and_never_crashes_hangs_or_swells() -> None:
    report = fuzz.run(20, seconds=15.0, inputs=1_500)
    assert not report.findings, str(report)
    assert report.inputs > 100
    assert report.refused < report.inputs


def test_the_native_decoder_stands_a_hundred_thousand_of_them() -> None:
    assert fuzz.native(21, 100_000, 20.0) == 0
