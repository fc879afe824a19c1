"""Colours of a theme made readable: each text at least 4.5 to 1 against what is behind it, as WCAG 2.2 AA asks.

Textual's themes give muted, disabled and coloured text less, most of all the light ones. Colours keep their hue and
go towards black or white as far as they must; colours of a terminal's own palette, which nobody here knows, stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.color import BLACK, WHITE, Color, ColorParseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENOUGH = 4.5
# What text may be on.
_GROUNDS = ("background", "surface", "panel")
_TEXTS = (
    *("text-primary", "text-secondary", "text-warning", "text-error", "text-success"),
    *("text-accent", "footer-key-foreground"),
)
# The share of the foreground that is left of it: as little as is readable in light themes too.
_SHARES = {"foreground-muted": 0.75, "foreground-disabled": 0.7}
# What Textual leaves of white or black text on a cursor.
_CURSOR_SHARE = 0.87
_STEP = 0.02


def ratio(one: Color, other: Color) -> float:
    """Of the luminances of two opaque colours, from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def readable_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of a theme that must be others, by name."""
    try:
        grounds = [Color.parse(variables[name]) for name in _GROUNDS]
        foreground = Color.parse(variables["foreground"])
        cursor = Color.parse(variables["block-cursor-background"])
    except (ColorParseError, KeyError):
        return {}
    if any(color.ansi is not None for color in (*grounds, foreground)):
        return {}
    changed = {"text-disabled": "auto 70%"}
    for name in _TEXTS:
        color = _parsed(variables.get(name, ""))
        if color is not None:
            changed[name] = readable(color, grounds).hex
    for name, share in _SHARES.items():
        changed[name] = foreground.with_alpha(share).hex
    changed["block-cursor-background"] = _under_text(cursor).hex
    return changed


def readable(color: Color, grounds: Sequence[Color]) -> Color:
    """The colour, as far towards black or white as it must be on these."""
    goal = BLACK if _luminance(grounds[0]) > _luminance(color) else WHITE
    share = 0.0
    found = color
    while min(ratio(found, ground) for ground in grounds) < ENOUGH and share < 1.0:
        share += _STEP
        found = color.blend(goal, share)
    return found


def _under_text(ground: Color) -> Color:
    """The ground, as far from its text, black or white, as it must be."""
    text = ground.get_contrast_text()
    goal = BLACK if text.brightness > 0.5 else WHITE
    share, found = 0.0, ground
    while ratio(found.blend(text.with_alpha(1.0), _CURSOR_SHARE), found) < ENOUGH and share < 1.0:
        share += _STEP
        found = ground.blend(goal, share)
    return found


def _parsed(text: str) -> Color | None:
    try:
        color = Color.parse(text)
    except ColorParseError:
        return None
    return color if color.ansi is None and color.a == 1 else None


def _luminance(color: Color) -> float:
    red, green, blue = (_linear(value / 255) for value in color.rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
