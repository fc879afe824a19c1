"""Counts in place of times: what is read, what a database does. The same on a busy machine as on an idle one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from store.database.database import Lineage

T = TypeVar("T")
_PROC_IO = Path("/proc/self/io")


def bytes_read(call: Callable[[], T]) -> tuple[T, int]:
    """What the call returns, and the bytes that this process got from `read` meanwhile (not what it mapped)."""
    if not _PROC_IO.exists():
        pytest.skip("bytes are counted by the system only on Linux")
    before = _rchar()
    result = call()
    return result, _rchar() - before - _own_bytes()


def instructions(lineage: Lineage, call: Callable[[], T]) -> tuple[T, int]:
    """What the call returns, and the instructions of SQLite's machine that its statements took, to the next thousand.

    A statement that looks at each row once takes some dozen for each; one without the index that it needs, as many
    for each pair of rows.
    """
    count = 0

    def on_progress() -> int:
        nonlocal count
        count += 1000
        return 0

    connection = lineage.db.conn
    connection.set_progress_handler(on_progress, 1000)
    try:
        return call(), count
    finally:
        connection.set_progress_handler(None, 0)


def _rchar() -> int:
    return int(_PROC_IO.read_text().split()[1])


def _own_bytes() -> int:
    """Of a look at the count itself, which is read too."""
    before = _rchar()
    return _rchar() - before
