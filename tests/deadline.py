"""The end of patience with a test of processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """A test that waits for what never comes fails instead of hanging. Raises TimeoutError within, once."""

    def expired(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"the test was still waiting after {seconds} s")

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
