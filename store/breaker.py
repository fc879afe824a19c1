"""A circuit breaker for locks that somebody may hold for as long as they like: a suspended process, say.

The first wait is a long one, because most holders are done in a moment. Once it was in vain, every later one is a short
try, until one succeeds: a holder that does not move costs its victim one wait, not one at each write.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

# Longer than others hold a lock that they use and let go; short enough for each event of a run.
TRY_SECONDS = 0.2
POLL_SECONDS = 0.01

_T = TypeVar("_T")


def _never() -> bool:
    return False


@dataclass(slots=True)
class Breaker:
    """seconds: of the first wait. should_stop: looked at while waiting; where it is true a wait is a short try too.
    is_open: whether the last wait was in vain. May be shared by threads."""

    seconds: float
    should_stop: Callable[[], bool] = _never
    is_open: bool = False

    def wait(self, attempt: Callable[[], _T | None]) -> _T | None:
        """What `attempt` gives, made again and again until it is not None; None where that takes too long."""
        began = time.monotonic()
        while (found := attempt()) is None:
            waited = time.monotonic() - began
            if waited >= self.seconds:
                self.is_open = True
                return None
            if waited >= TRY_SECONDS and (self.is_open or self.should_stop()):
                return None
            time.sleep(POLL_SECONDS)
        self.is_open = False
        return found
