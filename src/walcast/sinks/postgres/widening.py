"""Which types hold which: exactly, after a cast, or once the copy's column is altered."""

from __future__ import annotations

from typing import Literal

_INT2, _INT4, _INT8, _NUMERIC, _FLOAT4, _FLOAT8 = 21, 23, 20, 1700, 700, 701
_TEXT, _VARCHAR, _BPCHAR, _NAME, _VARBIT = 25, 1043, 1042, 19, 1562
_TIMES = (1083, 1114, 1184, 1186, 1266)
_DIGITS = {_INT2: 5, _INT4: 10, _INT8: 19}
_WIDER = {
    _INT2: (_INT4, _INT8, _NUMERIC),
    _INT4: (_INT8, _NUMERIC),
    _INT8: (_NUMERIC,),
    _FLOAT4: (_FLOAT8,),
    _VARCHAR: (_TEXT,),
    _NAME: (_TEXT,),
}

Fit = Literal["same", "wider", "no"]


def fit(source: tuple[int, int], target: tuple[int, int]) -> Fit:
    """Whether a column of type `target` (oid, typmod) holds every value of `source` without changing it.

    same: the binary form is the same, too. wider: it has to be cast.
    """
    if source[0] == target[0]:
        return "same" if _holds(source[0], source[1], target[1]) else "no"
    if target[0] == _TEXT and source[0] != _BPCHAR:  # the cast of bpchar drops blanks
        return "wider"
    return "wider" if _casts(source, target) else "no"


def widens(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether `alter column type` from `old` to `new` does to the copy's values what it did to the source's."""
    if old[0] != new[0]:
        return _casts(old, new)
    if old[0] == _NUMERIC and min(old[1], new[1]) >= 0:
        (p, s), (q, t) = _precision(old[1]), _precision(new[1])
        return t >= s and q - t >= p - s
    return new[1] == -1 or old[1] <= new[1]


def survives(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether a column's values are the same after the source changed its type from `old` to `new`, `using` nothing."""
    return old == new or widens(old, new) or (old[0] in _DIGITS and new[0] in _DIGITS)


def _casts(source: tuple[int, int], target: tuple[int, int]) -> bool:
    if target[0] not in _WIDER.get(source[0], ()):
        return False
    if target[0] == _NUMERIC and target[1] >= 0:
        precision, scale = _precision(target[1])
        return precision - scale >= _DIGITS[source[0]]
    return True


def _holds(oid: int, source: int, target: int) -> bool:
    if source == target or target == -1:
        return True
    if oid == _NUMERIC and source >= 0:
        (p, s), (q, t) = _precision(source), _precision(target)
        return s == t and q >= p
    return oid in (_VARCHAR, _VARBIT, *_TIMES) and 0 <= source <= target


def _precision(typmod: int) -> tuple[int, int]:
    """A numeric's precision and scale; the scale has 11 bits and a sign since 15."""
    scale = (typmod - 4) & 0x7FF
    return (typmod - 4) >> 16 & 0xFFFF, (scale ^ 1024) - 1024
