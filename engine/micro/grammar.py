"""The micro world in words: its attributes, which of them go together, and the sentences that describe them.

Torch-free, so that the command line can tell a user which words of a prompt mean nothing to the micro model.
The order of every table is part of the trained weights (attribute indices, the held-out rule): append, never
reorder.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from types import MappingProxyType

RGB = tuple[int, int, int]

FOREGROUNDS: Mapping[str, RGB] = MappingProxyType(
    {
        "red": (220, 40, 40),
        "green": (40, 190, 70),
        "blue": (50, 90, 235),
        "yellow": (245, 220, 50),
        "orange": (245, 140, 30),
        "purple": (150, 60, 210),
        "pink": (250, 130, 190),
        "white": (245, 245, 245),
    }
)
BACKGROUNDS: Mapping[str, RGB] = MappingProxyType(
    {
        "black": (12, 12, 16),
        "gray": (120, 120, 125),
        "dark blue": (18, 28, 90),
        "dark green": (14, 70, 36),
        "light blue": (150, 205, 240),
        "brown": (110, 66, 34),
    }
)
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")

# Direction of travel per motion: x to the right, y downwards.
DIRECTIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "left": (-1, 0),
        "right": (1, 0),
        "up": (0, -1),
        "down": (0, 1),
        "up left": (-1, -1),
        "up right": (1, -1),
        "down left": (-1, 1),
        "down right": (1, 1),
    }
)
MOTIONS = (*DIRECTIONS, "still", "grow", "shrink", "spin")

MIN_CONTRAST = 132.0  # Euclidean distance in RGB
SAME_HUE = frozenset({("blue", "dark blue"), ("green", "dark green")})
# Pairs whose colours a model likes to swap: each colour word also fits the other half of the picture.
SWAP_PAIRS = (("green", "dark blue"), ("blue", "dark green"), ("green", "light blue"))

SIZE_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"small": ("small", "small", "little"), "large": ("large", "large", "big", "huge")}
)
MOTION_PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "left": (
            "moves left",
            "moving left",
            "slides to the left",
            "goes left",
            "drifts to the left",
            "travels from right to left",
        ),
        "right": (
            "moves right",
            "moving right",
            "slides to the right",
            "goes right",
            "drifts to the right",
            "travels from left to right",
        ),
        "up": ("moves up", "moving up", "rises", "goes upwards", "floats up"),
        "down": ("moves down", "moving down", "falls", "goes downwards", "sinks down"),
        "still": ("stands still", "staying still", "does not move", "stays in place"),
        "grow": ("grows", "growing", "gets bigger", "expands"),
        "shrink": ("shrinks", "shrinking", "gets smaller", "contracts"),
        "spin": ("spins", "spinning", "rotates", "turns around"),
        **{
            f"{v} {h}": (
                f"moves diagonally {v} and {h}",
                f"moving {v} {h}",
                f"goes {v} and to the {h}",
                f"drifts {v} {h}",
            )
            for v in ("up", "down")
            for h in ("left", "right")
        },
    }
)
# {article} is a or an, {object} is size, colour and shape. The first one is the canonical sentence.
TEMPLATES = (
    "{article} {object} {motion} over a {background} background",
    "{article} {object} {motion} on a {background} background",
    "{object} {motion}, {background} background",
    "on a {background} background, {article} {object} {motion}",
    "a video of {article} {object} that is on {background}, {motion}",
    "{background} background with {article} {object} that {motion}",
    "{article} {object} {motion} in front of a {background} backdrop",
)
WITHOUT_BACKGROUND = ("{article} {object} {motion}", "{object} {motion}")
WITHOUT_MOTION = "{article} {object} on a {background} background"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What one clip shows. Every field is a word of the table of the same name."""

    foreground: str
    background: str
    shape: str
    size: str
    motion: str


def attribute_indices(attributes: Attributes) -> tuple[int, int, int, int, int]:
    """Positions of the five words in their tables, in field order."""
    foreground, background, shape, size, motion = (
        list(table).index(word) for table, word in zip(tables(), astuple(attributes), strict=True)
    )
    return foreground, background, shape, size, motion


def attributes_from_indices(indices: Sequence[int]) -> Attributes:
    """Inverse of `attribute_indices`."""
    return Attributes(*(list(table)[int(i)] for table, i in zip(tables(), indices, strict=True)))


def tables() -> tuple[Sequence[str], ...]:
    """The five word tables in the field order of `Attributes`."""
    return tuple(FOREGROUNDS), tuple(BACKGROUNDS), SHAPES, SIZES, MOTIONS


def is_visible(foreground: str, background: str) -> bool:
    """Whether the two colours contrast enough: a distance above `MIN_CONTRAST` and not one hue."""
    distance = math.dist(FOREGROUNDS[foreground], BACKGROUNDS[background])
    return distance > MIN_CONTRAST and (foreground, background) not in SAME_HUE


def in_world(attributes: Attributes) -> bool:
    """Whether the combination can be shown: enough contrast, and a motion that can be seen."""
    spinning_circle = attributes.shape == "circle" and attributes.motion == "spin"
    return is_visible(attributes.foreground, attributes.background) and not spinning_circle


def is_heldout(attributes: Attributes) -> bool:
    """Whether the (foreground, shape, motion) triple is never trained on: about one in nine."""
    foreground, _, shape, _, motion = attribute_indices(attributes)
    return (7 * foreground + 5 * shape + 3 * motion) % 9 == 0


def sample_attributes(rng: random.Random, *, swap_share: float = 0.0) -> Attributes:
    """One combination of the world, uniform but for a `swap_share` of draws from `SWAP_PAIRS`."""
    while True:
        words = [rng.choice(table) for table in tables()]
        if rng.random() < swap_share:
            words[:2] = rng.choice(SWAP_PAIRS)
        attributes = Attributes(*words)
        if in_world(attributes):
            return attributes


def sample_training_attributes(rng: random.Random, *, swap_share: float = 0.0) -> Attributes:
    """One combination that training may see."""
    while True:
        attributes = sample_attributes(rng, swap_share=swap_share)
        if not is_heldout(attributes):
            return attributes


def canonical_sentence(attributes: Attributes) -> str:
    """The plain description, as in `a large red circle moves left over a dark blue background`."""
    return _sentence(
        TEMPLATES[0], attributes, attributes.size, MOTION_PHRASES[attributes.motion][0]
    )


def paraphrase(attributes: Attributes, rng: random.Random) -> str:
    """A description in random words that still names every attribute."""
    return _sentence(
        rng.choice(TEMPLATES),
        attributes,
        rng.choice(SIZE_WORDS[attributes.size]),
        rng.choice(MOTION_PHRASES[attributes.motion]),
    )


def training_caption(attributes: Attributes, rng: random.Random) -> str:
    """A paraphrase that now and then leaves the size, background or motion out.

    The size is missing in 12%, the background in 6%, the motion in 3%; 10% start with a capital
    and 15% end with a full stop.
    """
    size = "" if rng.random() < 0.12 else rng.choice(SIZE_WORDS[attributes.size])
    motion = rng.choice(MOTION_PHRASES[attributes.motion])
    kind = rng.random()
    if kind < 0.06:
        template = rng.choice(WITHOUT_BACKGROUND)
    elif kind < 0.09:
        template = WITHOUT_MOTION
    else:
        template = rng.choice(TEMPLATES)
    text = _sentence(template, attributes, size, motion)
    if rng.random() < 0.1:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.15 else text


def heldout_prompts(
    count: int, seed: int, *, paraphrased: bool = False, heldout: bool = True
) -> list[tuple[Attributes, str]]:
    """`count` combinations with a prompt each, the same for the same seed.

    `heldout=False` draws combinations that training saw, for comparison.
    """
    rng = random.Random(seed)
    prompts: list[tuple[Attributes, str]] = []
    while len(prompts) < count:
        attributes = sample_attributes(rng)
        if is_heldout(attributes) == heldout:
            text = paraphrase(attributes, rng) if paraphrased else canonical_sentence(attributes)
            prompts.append((attributes, text))
    return prompts


def words_in(text: str) -> list[str]:
    """The words of a text, lower-cased and normalised as the tokenizer does, in order."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", folded)


def unknown_words(prompt: str) -> list[str]:
    """Words of the prompt that mean nothing to the micro model, once each, in order."""
    return list(dict.fromkeys(word for word in words_in(prompt) if word not in WORDS))


def _sentence(template: str, attributes: Attributes, size: str, motion: str) -> str:
    thing = " ".join(part for part in (size, attributes.foreground, attributes.shape) if part)
    return template.format(
        article="an" if thing[0] in "aeiou" else "a",
        object=thing,
        motion=motion,
        background=attributes.background,
    )


def _grammar_texts() -> Iterator[str]:
    yield from ("a", "an")
    yield from (re.sub(r"{\w+}", " ", t) for t in (*TEMPLATES, WITHOUT_MOTION))
    for table in tables()[:3]:
        yield from table
    for words in (*SIZE_WORDS.values(), *MOTION_PHRASES.values()):
        yield from words


WORDS: frozenset[str] = frozenset(word for text in _grammar_texts() for word in words_in(text))
