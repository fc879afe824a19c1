"""Reading whole weight files while an engine is idle, so that a flipped byte in one is noticed. Torch-free.

One file at a time, in a thread that lasts as long as there is something to read and nothing to run. It only
ever costs time: whatever goes wrong is a line in the log.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Self

from engine.checkpoints.digests import (
    Identity,
    claimed_digest,
    full_digest,
    identity,
    remember_digest,
    remembered,
)
from engine.errors import CheckpointError
from engine.process.logs import one_line
from presets.encoding import decode_spec
from store.index.index import Index, open_index

JOIN_SECONDS = 1.0
_NICENESS = 10

log = logging.getLogger("engine.process.digesting")


class Digester:
    """The files that are to be read in full, and the thread that does. Used by one thread, the engine's."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._waiting: deque[Path] = deque()
        self._read: set[Identity] = set()  # where the index cannot be written, once is enough too
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def add(self, spec_json: bytes) -> None:
        """Hand over the files that an executed run used."""
        # a tenth of a second, which the run has spent already
        from engine.components.choice import chosen
        from engine.components.descriptions import Descriptions

        try:
            with open_index(self._root) as index:
                describe = Descriptions(index)
                for kind, part in chosen(decode_spec(spec_json)).items():
                    try:
                        files = describe(kind, part).files
                    except CheckpointError as error:  # moved since then; the others are there
                        log.warning("no digests of the %s: %s", kind, one_line(error))
                        continue
                    self._waiting += [path for path in files if path not in self._waiting]
        except Exception as error:  # noqa: BLE001  # the run is done: nothing here may undo that
            log.warning("no digests of what the run used: %s", one_line(error))

    def resume(self) -> None:
        """Go on reading, if anything is left, from the beginning of the file that `pause` interrupted."""
        if self._waiting and (self._thread is None or not self._thread.is_alive()):
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._work, args=(self._stop,), name="digests", daemon=True
            )
            self._thread.start()

    def pause(self) -> None:
        """Stop reading after at most one more slice; does not wait for that."""
        self._stop.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pause()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def _work(self, stop: threading.Event) -> None:
        try:
            if sys.platform == "linux":  # where a thread has a niceness of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            with open_index(self._root) as index:
                while self._waiting and not stop.is_set():
                    self._digest(index, self._waiting[0], stop)
                    if not stop.is_set():
                        self._waiting.popleft()
        except Exception:  # of a thread that nobody waits for: its log says what went wrong
            log.exception("the digests are given up")
            self._waiting.clear()

    def _digest(self, index: Index, path: Path, stop: threading.Event) -> None:
        try:
            before = identity(path)
            known = remembered(index, path)
            if before in self._read or (known is not None and known.sha256 is not None):
                return
            started = time.monotonic()
            sha256 = full_digest(path, should_stop=stop.is_set)
            if sha256 is None:
                return
            remember_digest(index, path, sha256, of=before)
        except (OSError, RuntimeError) as error:
            log.warning("no digest: %s", one_line(error))
            return
        self._read.add(before)
        log.info("%s: sha256 %s (%.1f s)", path, sha256, time.monotonic() - started)
        claimed = claimed_digest(path)
        if claimed is not None and claimed != sha256:
            log.warning("%s: is not what the cache names it, damaged? Download it again", path)
