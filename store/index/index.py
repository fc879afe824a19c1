"""The disposable index above the store: small values by key, which may vanish at any moment.

It lives in <store>/index and speeds things up; the truth is elsewhere. So nothing here raises: what cannot be
read is a miss and what cannot be written is dropped, told once in the log. An index that is damaged or not
ours is moved to quarantine/ and begun anew. Each value carries a checksum, because the writes wait for no disk.

An index as a whole is bounded, and forgets what was stored least recently. So the previews, of which every run adds
many, lie in one of their own, <store>/previews: they must not push out what took minutes to find out.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from store import locks

MAX_VALUE_BYTES = 1 << 20
SIZE_LIMIT_BYTES = 64 << 20
PREVIEWS_LIMIT_BYTES = 512 << 20
# How long a lookup may wait for another process that is writing: it is there to save time.
LOCK_SECONDS = 2.0
# How long an index that has failed is left alone: one wait in a while for who uses it for days.
OFF_SECONDS = 30.0
_CHECKSUM_BYTES = 16

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def open_index(root: Path) -> Index:
    """The index of the store at `root`, whose folders exist (`store.paths.prepare`); never fails.

    Nothing is opened before it is needed: asking an index that was never written costs one `stat`.
    """
    return Index(root)


class Index:
    """For one thread at a time; close it, or use it in a `with`.

    root: of the store. name: of its folder there. size_limit: in bytes, of its database.
    """

    def __init__(self, root: Path, name: str = "index", size_limit: int = SIZE_LIMIT_BYTES) -> None:
        self.folder = root / name
        self.root = root
        self._size_limit = size_limit
        self._previews: Index | None = None
        self._cache: Any = None
        self._opened: tuple[int, int] | None = (
            None  # device and inode of the file that _cache has open
        )
        # after a failure, so that each lookup of many does not wait for the next
        self._off_until = -math.inf

    @property
    def previews(self) -> Index:
        """The index of the previews (store.index.previews), which is closed with this one."""
        if self._previews is None:
            self._previews = Index(self.root, "previews", PREVIEWS_LIMIT_BYTES)
        return self._previews

    @property
    def is_off(self) -> bool:
        """Whether it is not used for now, after a failure that was told in the log."""
        return time.monotonic() < self._off_until

    def get(self, key: str) -> bytes | None:
        """The value of a key, None when it is not known."""
        return self._guarded(lambda: self._get(key), None)

    def put(self, key: str, value: bytes) -> None:
        """Remember a value of at most MAX_VALUE_BYTES; a larger one is dropped."""
        if len(value) > MAX_VALUE_BYTES:
            _tell(f"{self.folder}: a value of more than {MAX_VALUE_BYTES:,} bytes was dropped")
            return
        self._guarded(lambda: self._put(key, value), None)

    def delete(self, key: str) -> None:
        self._guarded(lambda: self._delete(key), None)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that start with `prefix`, in no order."""
        nothing: list[str] = []
        return iter(self._guarded(lambda: self._keys(prefix), nothing))

    def disconnect(self) -> None:
        """Close the connection of this thread, for another to go on: at a tenth of the cost of opening the index."""
        if self._cache is not None:
            self._cache.close()
        if self._previews is not None:
            self._previews.disconnect()

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._cache = self._opened = None
        if self._previews is not None:
            self._previews.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _get(self, key: str) -> bytes | None:
        cache = self._for_reading()
        row = None if cache is None else cache.get(key)
        if row is None:
            return None
        checksum, value = row[:_CHECKSUM_BYTES], row[_CHECKSUM_BYTES:]
        if checksum != _checksum(key, value):
            _tell(f"{self.folder}: holds damaged values; they are not used")
            return None
        return bytes(value)

    def _put(self, key: str, value: bytes) -> None:
        with self._lock():
            self._for_writing().set(key, _checksum(key, value) + value)

    def _delete(self, key: str) -> None:
        if self._in_place() is not None:
            with self._lock():
                self._for_writing().delete(key)

    def _keys(self, prefix: str) -> list[str]:
        cache = self._for_reading()
        keys = [] if cache is None else list(cache)
        return [key for key in keys if key is not None and key.startswith(prefix)]

    def _guarded(self, action: Callable[[], _T], otherwise: _T) -> _T:
        """What `action` returns, or `otherwise` when it fails, whatever the database makes of it."""
        for _ in range(2):  # once more on a new database
            if self.is_off:
                break
            try:
                return action()
            except Exception as error:  # noqa: BLE001  # a library's, on data that anybody may have written
                if not self._is_replaced_after(error):
                    break
        return otherwise

    def _is_replaced_after(self, error: Exception) -> bool:
        """Cope with a failure: whether it was damage, and the index has begun anew."""
        from store.index.inline_disk import ForeignRow, is_damage

        if isinstance(error, ForeignRow):
            _tell(f"{self.folder}: holds rows that are not ours; they are not used")
            return False
        reason = (str(error) or type(error).__name__).splitlines()[0]
        damaged = self._opened
        try:
            self.close()
            if is_damage(error):
                with self._lock():
                    if self._in_place() == damaged:  # else another process was faster
                        self._rotate(reason)
                return True
        except Exception as second:  # noqa: BLE001  # as above
            reason = f"{reason}; {second}"
        self._off_until = time.monotonic() + OFF_SECONDS
        _tell(f"{self.folder}: the index is not used ({reason})")
        return False

    def _for_reading(self) -> Any:
        """The open database, None where there is none."""
        found = self._in_place()
        if found is None:
            self.close()
        elif found != self._opened:
            with self._lock():
                return self._for_writing()
        return self._cache

    def _for_writing(self) -> Any:
        """The open database, made when absent; the lock must be held."""
        if self._cache is None or self._in_place() != self._opened:
            from store.index.inline_disk import (  # 40 ms, for who has an index only
                is_ours,
                open_cache,
            )

            self.close()
            if not is_ours(self.folder, self._size_limit):
                self._rotate("damaged, or not written by this version")
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._opened = self._in_place()  # what is damaged, if opening it fails
            self._cache = open_cache(self.folder, self._size_limit)
            self._opened = self._in_place()
        return self._cache

    def _in_place(self) -> tuple[int, int] | None:
        """Device and inode of the database: a process must not go on with one that was moved away."""
        try:
            status = os.lstat(self.folder / "cache.db")
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _rotate(self, reason: str) -> None:
        aside = self.root / "quarantine" / f"{self.folder.name}.{time.time_ns()}"
        os.rename(self.folder, aside)
        log.warning("%s: begun anew (%s); the old one is %s", self.folder, reason, aside)

    def _lock(self) -> locks.HeldLock:
        path = self.root / "locks" / self.folder.name
        return locks.acquire(path, timeout_seconds=LOCK_SECONDS)


def _checksum(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + value).digest()[:_CHECKSUM_BYTES]


@functools.cache
def _tell(message: str) -> None:
    """One line in the log for each thing that is wrong, however often it is met."""
    log.warning("%s", message)
