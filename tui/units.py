"""Sizes, ages, dates and durations: read from people (`20GB`, `30d`, `2026-11-01`), and written for people.

What is read raises ValueError with a line for the one who typed it.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_AGE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(s|min|h|d|w)", re.IGNORECASE | re.ASCII)
_AGO = re.compile(r"(\d{1,6}) ?(s|min|h|d|w)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UNIT_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def read_size(text: str) -> int:
    """Bytes, from decimal units (kB, MB, GB, TB) or binary ones (KiB, ...)."""
    match = _SIZE.fullmatch(text)
    if not match or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not a size; expected one such as 20GB, 512MiB or 0")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


def read_age(text: str) -> int:
    """Nanoseconds, from seconds, minutes, hours, days or weeks."""
    match = _AGE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not an age; expected one such as 30d, 2w or 12h")
    return int(float(match[1]) * _UNIT_SECONDS[match[2].lower()] * 10**9)


def read_since(text: str) -> int:
    """The moment in ns since 1970 that is named; a bare date is the beginning of that day."""
    return _moment(text.strip(), days=0)


def read_until(text: str) -> int:
    """As `read_since`, but a bare date is the end of that day."""
    return _moment(text.strip(), days=1)


def _moment(text: str, *, days: int) -> int:
    """ns since 1970. days: added to a bare date. A time without a zone is local.

    A moment before the first that the store can hold, in 1677, or after the last, in 2262, is that one.
    """
    if found := _AGO.fullmatch(text):
        return _held(time.time_ns() - int(found[1]) * _UNIT_SECONDS[found[2]] * 1_000_000_000)
    try:
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text)
            day += min(timedelta(days=days), date.max - day)
            moment = datetime(day.year, day.month, day.day)
        else:
            moment = datetime.fromisoformat(text)
        if not 1 < moment.year < date.max.year:  # in a zone it may be outside the calendar
            moment = moment.replace(tzinfo=UTC)
        return _held(int(moment.timestamp()) * 1_000_000_000)
    except (ValueError, OverflowError, OSError):  # no date, or a year beyond the clock's
        raise ValueError(
            f"{text!r} is no moment; expected an age like 30min, 6h, 2d or 3w, or a date like "
            "2026-11-01 or 2026-11-01T14:30"
        ) from None


def _held(ns: int) -> int:
    """What of a time fits the 64 bits of the database."""
    return max(-(2**63), min(ns, 2**63 - 1))


def duration(seconds: float) -> str:
    """Seconds for people: `0.42 s`, `12.3 s`, `4:05`, `1:02:09`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(num_bytes: int) -> str:
    """Bytes in binary units: `15 KiB`, `812 MiB`, `11.4 GiB`."""
    if num_bytes < 1 << 20:
        return f"{num_bytes / (1 << 10):.0f} KiB"
    if num_bytes < 1 << 30:
        return f"{num_bytes / (1 << 20):.0f} MiB"
    return f"{num_bytes / (1 << 30):.1f} GiB"


def age(ns: int) -> str:
    """As `lasting`, and `now` for less than a minute."""
    seconds = ns / 1e9
    return lasting(seconds) if seconds >= 60 else "now"


def lasting(seconds: float) -> str:
    """Whole units, the largest that fits, which no time of the clock looks like: `42 s`, `15 min`, `3 h`, `9 d`."""
    unit = next((each for each in ("d", "h", "min") if seconds >= _UNIT_SECONDS[each]), "s")
    return f"{max(0, int(seconds // _UNIT_SECONDS[unit]))} {unit}"


def moment(ns: int) -> str:
    """A time of the clock on the wall: `2026-11-01 14:30`."""
    return datetime.fromtimestamp(ns / 1e9).isoformat(" ", "minutes")


def span(seconds: float) -> str:
    """Seconds for people, below one in milliseconds: `13 ms`, `0.4 ms`, `2.31 s`, `4:05`."""
    if seconds >= 0.9995:
        return duration(seconds)
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.00095 else f"{seconds * 1e3:.1f} ms"
