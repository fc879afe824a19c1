"""Seeds that nobody chose."""

from __future__ import annotations

import random


def random_seed() -> int:
    """A seed that is short enough to be read and said, below 2**31."""
    return random.randrange(2**31)
