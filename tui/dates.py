"""Dates as people type them: `2d` for two days ago, `2026-11-01`, `2026-11-01T14:30`."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta

import click

_AGO = re.compile(r"(\d{1,6}) ?(s|min|h|d|w)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UNIT_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def since(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """The moment in ns since 1970 that an option names; a bare date is the beginning of that day."""
    return None if text is None else moment(text.strip(), days=0)


def until(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """As `since`, but a bare date is the end of that day."""
    return None if text is None else moment(text.strip(), days=1)


def moment(text: str, *, days: int) -> int:
    """ns since 1970. days: added to a bare date. A time without a zone is local. Raises click.BadParameter.

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
        raise click.BadParameter(
            f"{text!r} is no moment; expected an age like 30min, 6h, 2d or 3w, or a date like "
            "2026-11-01 or 2026-11-01T14:30"
        ) from None


def _held(ns: int) -> int:
    """What of a time fits the 64 bits of the database."""
    return max(-(2**63), min(ns, 2**63 - 1))
