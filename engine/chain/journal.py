"""The steps of a running run on their way into the store, beside the computation and never in its way.

One thread writes what the run hands over, in order: blob first, durable, then the row that speaks of it. A full queue
slows the run rather than growing memory; a store that fails costs the steps their place in the store, not the run.
A step's preview is made here too, and is there before the row: whoever is told of the row finds it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from engine.chain.rebuild import latents_digest
from store.blobs import blobs
from store.blobs.tensors import encoded_parts
from store.errors import StoreError
from store.index.index import Index
from store.index.previews import Preview, put_preview
from store.lineage.records import COMPUTED, LinkRecord
from store.store import Store, open_store
from store.upkeep.gc import with_room, writing

# A 720p latent has 19 MB: a handful in flight is nothing beside a model.
QUEUE_LENGTH = 4
# As long as the engine itself waits: a busy moment must not cost a long run its steps.
BUSY_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A step to be stored. tensors: of its blob; is_keyframe: whether they are the solver's full state.
    preview: makes the step's; None where nobody knows how. replaces: whether it takes the place of a result on record
    that does not hold here."""

    link: LinkRecord
    index: int
    sigma: float | None
    timestep: float | None
    latents: Tensor
    tensors: Mapping[str, Tensor]
    is_keyframe: bool
    preview: Callable[[], Preview] | None = None
    replaces: bool = False


class Journal:
    """Use it in a `with`: leaving it waits until everything is stored. warn: told once, in one line, when the
    store takes no more. index: of the store, which nobody else uses meanwhile."""

    def __init__(self, root: Path, run_id: str, warn: Callable[[str], None], index: Index) -> None:
        self._root = root
        self._run_id = run_id
        self._warn = warn
        self._index = index
        self._entries: queue.Queue[Entry | None] = queue.Queue(QUEUE_LENGTH)
        self._failure = ""
        self._has_previews = True
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)

    def put(self, entry: Entry) -> None:
        """Hands a step over; waits while the store is more than a few steps behind."""
        self._entries.put(entry)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entries.put(None)
        self._thread.join()
        if self._failure:
            self._warn(f"steps could not be stored: {self._failure}")

    def _write(self) -> None:
        is_over = False
        try:
            # a connection belongs to the thread that opened it
            with open_store(self._root, busy_seconds=BUSY_SECONDS) as store:
                while (entry := self._entries.get()) is not None:
                    if not self._failure:
                        self._keep_preview(entry)
                        self._store(store, entry)
                is_over = True
        except Exception as error:  # noqa: BLE001  # whatever it is, the run must not wait for a thread that is gone
            self._failure = self._failure or str(error) or type(error).__name__
            while not is_over and self._entries.get() is not None:
                pass  # so that nobody waits for room
        finally:
            self._index.disconnect()

    def _keep_preview(self, entry: Entry) -> None:
        """A preview that cannot be made costs the run its previews, and nothing else."""
        if entry.preview is None or not self._has_previews:
            return
        try:
            put_preview(self._index, entry.link.key, entry.preview())
        except Exception as error:  # noqa: BLE001  # a plugin's scheduler is asked too
            self._has_previews = False
            log.warning("no more previews of run %s: %s", self._run_id, error)

    def _store(self, store: Store, entry: Entry) -> None:
        link = replace(entry.link, latents=latents_digest(entry.latents))
        parts = encoded_parts(entry.tensors) if entry.tensors else []
        num_bytes = sum(map(len, parts))

        def store_it() -> None:
            stored = link
            with writing(self._root):
                if parts:
                    digest = blobs.put(self._root, *parts)
                    stored = replace(link, num_bytes=num_bytes)
                    stored = (
                        replace(stored, state=digest)
                        if entry.is_keyframe
                        else replace(stored, digest=digest)
                    )
                store.record_link(
                    self._run_id,
                    stored,
                    stage="step",
                    index=entry.index,
                    source=COMPUTED,
                    seconds=link.seconds,
                    sigma=entry.sigma,
                    timestep=entry.timestep,
                    replaces=entry.replaces,
                )

        try:
            with_room(self._root, num_bytes, store_it)
        except StoreError as error:
            self._failure = str(error)
