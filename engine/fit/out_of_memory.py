"""The many errors of a full memory as one. Torch-free."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from engine.errors import EngineError, OutOfMemory
from engine.fit.lighter import stage_told

# of allocators without an exception type of their own: each system and library has its words
_WORDS = (
    "not enough memory",
    "can't allocate memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "STATUS_ALLOC_FAILED",
)
_TORCH = "OutOfMemoryError"

T = TypeVar("T")


@dataclass(frozen=True)
class Full:
    """Memory ended there: a stage, a kind of component and which of its copies, as of OutOfMemory."""

    stage: str
    kind: str
    copy: int = 0


@contextmanager
def out_of_memory_explained(stage: str, kind: str = "") -> Iterator[None]:
    """Turns the many errors of a full memory into OutOfMemory. kind: of the component at work."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) and not error.stage:
            copy = error.copy
        elif is_out_of_memory(error):
            copy = 0
        else:
            raise
        text = f"out of memory in {stage_told(stage, kind)}"
        raise OutOfMemory(text, stage, kind, copy) from None


@contextmanager
def out_of_memory_of(copy: int) -> Iterator[None]:
    """The same for one of the copies of a component, in the block of that for its stage."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("out of memory", "", copy=copy) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError) or isinstance(error, EngineError):
        return False
    words = str(error)
    return type(error).__name__ == _TORCH or any(each in words for each in _WORDS)


def attempted(do: Callable[[], T]) -> T | Full:
    """What `do` returns, or where memory ended in it. Its error is gone by then, and with it all that it held of what
    had filled the memory."""
    try:
        return do()
    except OutOfMemory as error:
        return Full(error.stage, error.kind, error.copy)
