"""Sizes and ages on the command line: `20GB`, `512MiB`, `30d`. For the `callback` of an option."""

from __future__ import annotations

import re

import click

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_AGE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(s|min|h|d|w)", re.IGNORECASE | re.ASCII)
_UNIT_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def size_option(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Bytes, from decimal units (kB, MB, GB, TB) or binary ones (KiB, ...)."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value)
    if not match or (match[3] and not match[2]):
        raise click.BadParameter(f"{value!r} is not a size; expected one such as 20GB, 512MiB or 0")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


def age_option(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Nanoseconds, from seconds, minutes, hours, days or weeks."""
    if value is None:
        return None
    match = _AGE.fullmatch(value)
    if not match:
        raise click.BadParameter(f"{value!r} is not an age; expected one such as 30d, 2w or 12h")
    return int(float(match[1]) * _UNIT_SECONDS[match[2].lower()] * 10**9)
