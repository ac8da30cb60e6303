"""Binary to canonical text: dates, times, intervals. ISO, in UTC, IntervalStyle postgres."""

from __future__ import annotations

import re
from struct import Struct

from walcast.decode.values.cursor import I32, I64, Cursor, whole
from walcast.model import DecodeError

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_EPOCH_JULIAN_DAY = 2_451_545
"""2000-01-01."""
_DAYS_BEFORE_2000 = 730_425
"""From 0000-03-01."""
_ISO_DATE = re.compile(r"(\d{4,7})-(\d\d)-(\d\d)( BC)?", re.ASCII)
_CLOCK = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?", re.ASCII)
_INTERVAL = Struct(">qii")
_TIMETZ = Struct(">qi")
_INFINITY32 = {2**31 - 1: "infinity", -(2**31): "-infinity"}
_INFINITY64 = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_INFINITE_INTERVALS = {
    (2**63 - 1, 2**31 - 1, 2**31 - 1): "infinity",
    (-(2**63), -(2**31), -(2**31)): "-infinity",
}


def date(data: bytes) -> str:
    days = whole(I32, data)
    if days in _INFINITY32:
        return _INFINITY32[days]
    return date_text(days)


def time(data: bytes) -> str:
    return time_text(whole(I64, data))


def timetz(data: bytes) -> str:
    """The zone is sent as seconds west of Greenwich."""
    cursor = Cursor(data)
    micros, west = cursor.unpack(_TIMETZ)
    cursor.end()
    minutes, seconds = divmod(abs(west), 60)
    hours, minutes = divmod(minutes, 60)
    zone = f"{'-' if west > 0 else '+'}{hours:02}"
    if minutes or seconds:
        zone += f":{minutes:02}"
    if seconds:
        zone += f":{seconds:02}"
    return time_text(micros) + zone


def timestamp(data: bytes) -> str:
    return _timestamp_text(whole(I64, data), "")


def timestamptz(data: bytes) -> str:
    return _timestamp_text(whole(I64, data), "+00")


def interval(data: bytes) -> str:
    cursor = Cursor(data)
    value = cursor.unpack(_INTERVAL)
    cursor.end()
    if value in _INFINITE_INTERVALS:
        return _INFINITE_INTERVALS[value]
    micros, days, months = value
    year = abs(months) // 12 * (1 if months >= 0 else -1)
    parts: list[str] = []
    negative = False
    for number, unit in ((year, "year"), (months - 12 * year, "mon"), (days, "day")):
        if number:
            plus = "+" if negative and number > 0 else ""
            parts.append(f"{plus}{number} {unit}{'' if number == 1 else 's'}")
            negative = number < 0
    if micros or not parts:
        sign = "-" if micros < 0 else "+" if negative else ""
        parts.append(sign + time_text(abs(micros)))
    return " ".join(parts)


def _timestamp_text(micros: int, zone: str) -> str:
    if micros in _INFINITY64:
        return _INFINITY64[micros]
    days, rest = divmod(micros, _DAY)
    text, before_christ, _ = date_text(days).partition(" BC")
    return f"{text} {time_text(rest)}{zone}{before_christ}"


def date_text(days: int) -> str:
    """The proleptic Gregorian date of a day counted from 2000-01-01."""
    # From the Julian day by Fliegel and Van Flandern's method on 400-year cycles, as PostgreSQL's j2date.
    shifted = days + _EPOCH_JULIAN_DAY + 32_044
    cycle, rest = divmod(shifted, 146_097)
    century = (rest * 4 + 3) // 146_097
    rest -= century * 146_097 // 4
    year = (rest * 4 + 3) // 1_461
    rest -= year * 1_461 // 4
    month = (rest * 5 + 2) // 153
    day = rest - (month * 153 + 2) // 5 + 1
    year += cycle * 400 + century * 100 - 4_800 + month // 10
    month = month + 3 - 12 * (month // 10)
    if year > 0:
        return f"{year:04}-{month:02}-{day:02}"
    return f"{1 - year:04}-{month:02}-{day:02} BC"


def day_of(text: str) -> int | None:
    """The day, counted from 2000-01-01, of an ISO date with or without " BC"; None for infinity."""
    if text in ("infinity", "-infinity"):
        return None
    found = _ISO_DATE.fullmatch(text)
    if found is None:
        raise DecodeError("text that is not an ISO date", offset=0)
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    year = (1 - year if found[4] else year) - (month <= 2)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return year * 365 + year // 4 - year // 100 + year // 400 + day_of_year - _DAYS_BEFORE_2000


def microseconds_of(text: str) -> int:
    """Microseconds of hh:mm:ss with or without a fraction."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise DecodeError("text that is not a time of day", offset=0)
    seconds = (int(found[1]) * 60 + int(found[2])) * 60 + int(found[3])
    return seconds * _SECOND + int((found[4] or "").ljust(6, "0"))


def time_text(micros: int) -> str:
    """hh:mm:ss of microseconds since midnight, with a fraction when there is one."""
    seconds, fraction = divmod(micros, _SECOND)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour:02}:{minute:02}:{second:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text
