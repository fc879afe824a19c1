"""What is typed into the form of variants, as `modiff sweep --over` and `--stop-at` take it. No Textual."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from presets.errors import PresetError
from presets.settings.seeds import random_seed, with_drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class SeedsKept:
    """Draws seeds, the same ones again after each `rewind`: while one types, `8 random` must not be other seeds with
    every letter."""

    def __init__(self, draw: Callable[[], int] = random_seed) -> None:
        self._draw = draw
        self._drawn: list[int] = []
        self._places = itertools.count()

    def rewind(self) -> None:
        self._places = itertools.count()

    def __call__(self) -> int:
        place = next(self._places)
        if place >= len(self._drawn):
            self._drawn.append(self._draw())
        return self._drawn[place]


def over_of(seeds: str, settings: Sequence[str], kept: SeedsKept) -> list[str]:
    """`KEY=VALUES` for each that is given. seeds: `1..8`, `7,9`, `8 random`. settings: `guidance.scale=2,4`.

    Raises PresetError where nothing is varied; what the values mean is for `engine.runs.sweep.parse_axes` to say.
    """
    kept.rewind()
    values = seeds.strip().removeprefix("seed=").strip()
    found = [f"seed={values}"] if values else []
    found += [text.strip() for text in settings if text.strip()]
    if not found:
        raise PresetError("nothing is varied yet: give seeds, or a setting like guidance.scale=2,4")
    return [_drawn(text, kept) for text in found]


def _drawn(text: str, kept: SeedsKept) -> str:
    key, _, values = text.partition("=")
    return f"seed={with_drawn(values, kept)[0]}" if key.strip() == "seed" else text


def stop_of(text: str) -> int | None:
    """The step that is typed, None for none. Raises PresetError for what is no step."""
    if not text.strip():
        return None
    if not text.strip().isdecimal() or not 1 <= int(text) < 10**9:
        raise PresetError(f"expected a step from 1 on, or nothing, got {text.strip()[:20]!r}")
    return int(text)
