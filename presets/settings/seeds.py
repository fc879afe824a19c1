"""Seeds that nobody chose."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

# as words of a list of seeds; -1 means the same elsewhere
RANDOM = ("random", "-1")
MAX_DRAWN = 10_000

_SEVERAL = re.compile(r"(\d{1,5})\s+random")


def random_seed() -> int:
    """A seed that is short enough to be read and said, below 2**31."""
    return random.randrange(2**31)


def with_drawn(values: str, draw: Callable[[], int] = random_seed) -> tuple[str, list[int]]:
    """A list of seeds, `1..4, random, 8 random`, with a drawn one for each that is to be random; and those.

    What asks for none, and more than MAX_DRAWN at once, stays as it is.
    """
    drawn: list[int] = []
    parts = []
    for part in values.split(","):
        word = part.strip()
        several = _SEVERAL.fullmatch(word)
        count = 1 if word in RANDOM else int(several[1]) if several else 0
        if not 0 < count <= MAX_DRAWN:
            parts.append(part)
            continue
        fresh = [draw() for _ in range(count)]
        drawn += fresh
        parts += map(str, fresh)
    return ",".join(parts), drawn
