"""Floats as PostgreSQL prints them: the fewest digits that can only be this float, laid out like C's %g.

PostgreSQL's digits lie strictly between the float's neighbours' midpoints, where Python's repr also takes the
midpoints: 1e+23 is 9.999999999999999e+22.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from struct import pack, unpack

_DOUBLE_DIGITS = 15
_SINGLE_DIGITS = 6
_LEAST = {4: 2.0**-149, 8: 5e-324}


def float8_text(value: float) -> str:
    if not math.isfinite(value) or value == 0:
        return _special(value)
    found = repr(value)
    if Decimal(found) != value:
        low, high = _bounds(value, math.nextafter(value, 0.0), 8)
        if not low < abs(Fraction(found)) < high:
            found = _shortest(value, low, high, 17)
    return _laid_out(found, _DOUBLE_DIGITS)


def float4_text(value: float) -> str:
    """`value` is a single, widened."""
    if not math.isfinite(value) or value == 0:
        return _special(value)
    (bits,) = unpack(">I", pack(">f", abs(value)))
    (below,) = unpack(">f", pack(">I", bits - 1))
    return _laid_out(_shortest(value, *_bounds(value, below, 4), 9), _SINGLE_DIGITS)


def _bounds(value: float, below: float, size: int) -> tuple[Fraction, Fraction]:
    """What rounds to the absolute value. The gap above is twice the one below a power of two, else the same."""
    exact, lower = Fraction(abs(value)), Fraction(abs(below))
    gap = exact - lower
    is_power = math.frexp(abs(value))[0] == 0.5 and gap > Fraction(_LEAST[size])
    return exact - gap / 2, exact + (gap if is_power else gap / 2)


def _shortest(value: float, low: Fraction, high: Fraction, most: int) -> str:
    """The fewest digits strictly within the bounds; of those the nearest. The nearest of a length may miss where the next
    one hits, because the bounds of a power of two are not equally far."""
    exact = Fraction(abs(value))
    for precision in range(1, most + 1):
        nearest = f"{abs(value):.{precision - 1}e}"
        step = Decimal(1).scaleb(int(nearest.partition("e")[2]) - precision + 1)
        hits = _within(low, high, (Decimal(nearest) + step * move for move in (0, 1, -1)))
        if hits:
            found = min(hits, key=lambda hit: abs(Fraction(hit) - exact))
            return f"{'-' if value < 0 else ''}{found}"
    return repr(value)


def _within(low: Fraction, high: Fraction, candidates: Iterable[Decimal]) -> list[Decimal]:
    return [candidate for candidate in candidates if low < Fraction(candidate) < high]


def _special(value: float) -> str:
    if value == 0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _laid_out(shortest: str, fixed_below: int) -> str:
    """Scientific from 10 ** `fixed_below` on, and below 0.0001."""
    sign, digits, exponent = Decimal(shortest).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(text)
    minus = "-" if sign else ""
    scientific = exponent + len(text) - 1
    if not -4 <= scientific < fixed_below:
        point = f".{text[1:]}" if len(text) > 1 else ""
        return f"{minus}{text[0]}{point}e{'-' if scientific < 0 else '+'}{abs(scientific):02}"
    if exponent >= 0:
        return minus + text + "0" * exponent
    if scientific < 0:
        return f"{minus}0.{'0' * (-scientific - 1)}{text}"
    return f"{minus}{text[: scientific + 1]}.{text[scientific + 1 :]}"
