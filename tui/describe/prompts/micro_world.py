"""What the micro model cannot show although it knows every word: what it was never trained on. Torch-free."""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.micro.grammar import (
    BACKGROUNDS,
    FOREGROUNDS,
    MOTION_PHRASES,
    SHAPES,
    SIZE_WORDS,
    canonical_sentence,
    is_visible,
    sample_training_attributes,
    words_in,
)

_GROUND_WORDS = ("background", "backdrop")
_SHADES = ("dark", "light")
_SPINS = tuple(phrase.split()[0] for phrase in MOTION_PHRASES["spin"])


@dataclass(frozen=True, slots=True)
class Named:
    """The attributes that a prompt names, each once, in its order. unknown_background: a colour that no background
    has, "" for none."""

    foregrounds: tuple[str, ...]
    backgrounds: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[str, ...]
    spins: bool
    unknown_background: str = ""


def random_sentence() -> str:
    """One of those that the model was trained on."""
    return canonical_sentence(sample_training_attributes(random.SystemRandom()))


def combination_warning(text: str) -> str:
    """Why a prompt of known words makes no picture of the micro world; "" where it does, and for an empty one."""
    named = named_in(text)
    if not text.strip():
        return ""
    for word, values, known in (
        ("shape", named.shapes, SHAPES),
        ("colour", named.foregrounds, FOREGROUNDS),
        ("size", named.sizes, SIZE_WORDS),
        ("background", named.backgrounds, BACKGROUNDS),
    ):
        if len(values) > 1:
            return f"the micro model shows one {word}, and this names {' and '.join(values)}"
        if not values and word in ("shape", "colour"):
            return f"the micro model needs a {word}: {', '.join(known)}"
    if named.unknown_background:
        return (
            f"the micro model knows no {named.unknown_background} background; "
            f"it knows {', '.join(BACKGROUNDS)}"
        )
    foreground = named.foregrounds[0]
    if named.backgrounds and not is_visible(foreground, named.backgrounds[0]):
        fits = [ground for ground in BACKGROUNDS if is_visible(foreground, ground)]
        return (
            f"the micro model was never shown {foreground} on {named.backgrounds[0]}, which are too much alike; "
            f"with {foreground} go {', '.join(fits)}"
        )
    if named.spins and named.shapes == ("circle",):
        return "the micro model was never shown a circle that spins, because nobody would see it"
    return ""


def named_in(text: str) -> Named:
    """What a prompt names: a colour before `background`, or after `on` where no shape follows, is that of the
    background."""
    words = words_in(text)
    backgrounds: list[str] = []
    unknown = ""
    at = 0
    rest: list[str] = []
    while at < len(words):
        length = _colour_at(words, at)
        after = words[at + length] if at + length < len(words) else ""
        is_on = bool(rest) and (rest[-1] == "on" or rest[-2:] == ["on", "a"])
        if length and (after in _GROUND_WORDS or (is_on and after not in SHAPES)):
            colour = " ".join(words[at : at + length])
            if colour in BACKGROUNDS:
                backgrounds.append(colour)
            else:
                unknown = colour
            at += length
        else:
            rest.append(words[at])
            at += 1
    sizes = [size for word in rest for size, names in SIZE_WORDS.items() if word in names]
    return Named(
        foregrounds=_once([word for word in rest if word in FOREGROUNDS]),
        backgrounds=_once(backgrounds),
        shapes=_once([word for word in rest if word in SHAPES]),
        sizes=_once(sizes),
        spins=any(word in _SPINS for word in rest),
        unknown_background=unknown,
    )


def _colour_at(words: list[str], at: int) -> int:
    """How many words from here on name a colour."""
    known = (*FOREGROUNDS, *BACKGROUNDS)
    if words[at] in _SHADES and at + 1 < len(words) and words[at + 1] in known:
        return 2
    return int(words[at] in known)


def _once(words: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
