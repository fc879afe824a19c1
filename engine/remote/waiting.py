"""Waiting for somebody else: in a thread of its own, in slices, with other tries where that may help.

Whoever waits may give up at any moment, which closes the connection and so ends the work on the other side.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from engine.errors import ComponentError

T = TypeVar("T")

AGAIN = (429, 502, 503, 504)
"""The statuses after which a call may be made again."""

_POLL_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 30.0


class Again(Exception):
    """A call that may be made again. after: seconds that the host asks for."""

    def __init__(self, error: ComponentError, after: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


def wait(work: Coroutine[Any, Any, T], check: Callable[[], None]) -> T:
    """What a coroutine gives, run in the thread for that; gives up where `check` raises."""
    with _first:  # of several threads that ask at once, one makes the loop
        loop = _loop(os.getpid())
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        while True:
            concurrent.futures.wait([future], timeout=_POLL_SECONDS)
            if future.done():
                return future.result()
            check()
    finally:
        future.cancel()


def repeated(ask: Callable[[], T], retries: int, check: Callable[[], None]) -> T:
    """What `ask` gives, asked again after a while as often as `retries` says where it raises Again."""
    for attempt in range(retries + 1):
        try:
            return ask()
        except Again as again:
            if attempt == retries:
                raise again.error from None
            _pause(random.uniform(0, min(8.0, 0.5 * 2**attempt)), again.after, check)
    raise AssertionError


def retry_after(text: str) -> float:
    """The seconds of a Retry-After header, within reason; 0 for anything else."""
    try:
        return max(0.0, min(float(text), _MAX_PAUSE_SECONDS))
    except ValueError:
        return 0.0


def _pause(jitter: float, after: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + min(after, _MAX_PAUSE_SECONDS) + jitter
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, _POLL_SECONDS))


_first = threading.Lock()


@functools.cache
def _loop(pid: int) -> asyncio.AbstractEventLoop:
    """The loop that all calls of this process run in: there may be one already where this is called from."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="remote calls", daemon=True).start()
    return loop
