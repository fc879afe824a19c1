"""The steps of a running run on their way into the store, beside the computation and never in its way.

One thread writes what the run hands over, in order: blob first, durable, then the row that speaks of it. A full queue
slows the run rather than growing memory. A step that the store does not take is kept in memory and tried again, with
those behind it, until the store works again or the run is over: it costs the steps their place, not the run.
A step's preview is made here too, and is there before the row: whoever is told of the row finds it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from engine.chain.rebuild import latents_digest
from engine.reports import Control
from store.blobs import blobs
from store.blobs.tensors import encoded_parts
from store.breaker import Breaker
from store.errors import StoreError
from store.index.index import Index
from store.index.previews import Preview, put_preview
from store.lineage.events import Message
from store.lineage.records import COMPUTED, LinkRecord
from store.store import Store, open_store
from store.upkeep.gc import with_room, writing

# A 720p latent has 19 MB: a handful in flight is nothing beside a model.
QUEUE_LENGTH = 4
# As long as the engine itself waits: a busy moment must not cost a long run its steps.
BUSY_SECONDS = 60.0
# All 50 steps of a 720p run; a small part of the memory of a machine that makes one.
HELD_BYTES = 1 << 30
# How often a store that takes nothing is asked again while no new step comes.
RETRY_SECONDS = 1.0
# How soon a run that waits for the journal notices that it is to end.
CHECK_SECONDS = 0.1
# A paused run goes on from its last steps, so they get as long as who works with the store holds it, and no longer.
LEAVE_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A step to be stored. tensors: of its blob; is_keyframe: whether they are the solver's full state.
    state: that state, for where the steps before this one are lost. preview: makes the step's; None where nobody knows
    how. replaces: whether it takes the place of a result on record that does not hold here."""

    link: LinkRecord
    index: int
    sigma: float | None
    timestep: float | None
    latents: Tensor
    tensors: Mapping[str, Tensor]
    is_keyframe: bool
    state: Mapping[str, Tensor]
    preview: Callable[[], Preview] | None = None
    replaces: bool = False


@dataclass(frozen=True)
class Held:
    """A step as it is kept until the store takes it: on the CPU, and its latents by their digest."""

    link: LinkRecord
    index: int
    sigma: float | None
    timestep: float | None
    parts: Sequence[memoryview]
    is_keyframe: bool
    replaces: bool

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.parts))


class Journal:
    """Use it in a `with`: leaving it waits until everything is stored, or the store has had its chance; not for a run
    that ends early. control: of the run; used by the thread of whoever uses this. index: of the store, which nobody
    else uses meanwhile. breaker: of the lock that keeps clean-ups away, as whoever uses this has found it."""

    def __init__(
        self, root: Path, run_id: str, control: Control, index: Index, breaker: Breaker
    ) -> None:
        self._root = root
        self._run_id = run_id
        self._control = control
        self._index = index
        self._entries: queue.Queue[Entry | None] = queue.Queue(QUEUE_LENGTH)
        self._is_over = threading.Event()
        self._is_left = threading.Event()  # nobody waits for the store any more
        self._breaker = breaker
        self._breakers = (
            Breaker(BUSY_SECONDS, self._is_left.is_set),
            replace(breaker, should_stop=self._is_left.is_set),
        )
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        # What follows is the thread's alone.
        self._store: Store | None = None
        self._held: deque[Held] = deque()
        self._is_broken = False  # whether what the next velocity follows on is lost
        self._trouble = ""
        self._num_late = 0
        self._num_lost = 0
        self._untold: list[Message] = []
        self._has_previews = True

    def put(self, entry: Entry) -> None:
        """Hands a step over; waits while the store is more than a few steps behind.

        Raises RunCancelled or RunPaused.
        """
        while self._thread.is_alive():
            try:
                self._entries.put(entry, timeout=CHECK_SECONDS)
            except queue.Full:
                self._control.check()
            else:
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        with contextlib.suppress(queue.Full):  # then it will see in time that nothing follows
            self._entries.put_nowait(None)
        if error is not None:
            self._thread.join(LEAVE_SECONDS)
            self._is_left.set()
        try:
            while self._thread.is_alive():
                self._thread.join(CHECK_SECONDS)
                if error is None:
                    self._control.check()
        finally:
            self._is_left.set()
            self._thread.join()
            self._breaker.is_open = self._breakers[1].is_open
            for message in self._untold:
                self._control.warn(message.text)

    def _write(self) -> None:
        try:
            while not (self._is_over.is_set() and self._entries.empty()):
                with contextlib.suppress(queue.Empty):
                    entry = self._entries.get(timeout=RETRY_SECONDS)
                    if entry is not None:
                        self._take(entry)
                self._store_held()
            if self._held:
                text = f"{len(self._held)} of the steps could not be stored: {self._trouble}"
                self._tell(Message("warning", text))
        except Exception:  # the run must not wait for a thread that is gone
            log.exception("run %s: the journal is given up", self._run_id)
            self._untold.append(Message("warning", "steps could not be stored: see the log"))
        finally:
            if self._store is not None:
                self._store.close()
            self._index.disconnect()

    def _take(self, entry: Entry) -> None:
        """Make a step ready for the store; what is in memory stays within its bound."""
        self._keep_preview(entry)
        thinned = thin(self._held, HELD_BYTES)
        if thinned:
            self._num_lost += thinned
            self._is_broken = not any(each.is_keyframe and each.parts for each in self._held)
        try:
            held = _prepared(entry, is_broken=self._is_broken)
        except Exception as error:  # noqa: BLE001  # no memory for it, say: the run goes on, and so do the steps after it
            self._is_broken = True
            reason = str(error) or type(error).__name__
            self._tell(Message("warning", f"step {entry.index + 1} could not be stored: {reason}"))
            return
        if held.is_keyframe:
            self._is_broken = False
        self._held.append(held)

    def _keep_preview(self, entry: Entry) -> None:
        """A preview that cannot be made costs the step its preview, and nothing else."""
        if entry.preview is None:
            return
        try:
            put_preview(self._index, entry.link.key, entry.preview())
        except Exception as error:  # noqa: BLE001  # a plugin's scheduler is asked too
            if self._has_previews:
                log.warning("no previews of run %s: %s", self._run_id, error)
            self._has_previews = False
        else:
            self._has_previews = True

    def _store_held(self) -> None:
        """Store what is held as far as the store takes it, and tell of its troubles as they begin and end."""
        while self._held:
            try:
                self._put_in_store(self._held[0])
            except Exception as error:  # noqa: BLE001  # whatever it is, it may pass
                self._note_trouble(error)
                return
            self._held.popleft()
            self._num_late += bool(self._trouble)
        if self._trouble:
            text = f"steps are stored again, {self._num_late} of them late"
            self._trouble, self._num_late = "", 0
            level = "info"
            if self._num_lost:
                level = "warning"
                text += f"; {self._num_lost} could not be kept in memory, to be computed again when needed"
                self._num_lost = 0
            self._tell(Message(level, text))
        elif self._untold:
            self._tell()

    def _note_trouble(self, error: Exception) -> None:
        is_new = not self._trouble
        self._trouble = str(error) or type(error).__name__
        if is_new:
            number = self._held[0].index + 1
            text = f"step {number} could not be stored yet ({self._trouble}); it is tried again"
            self._tell(Message("warning", text))

    def _tell(self, *messages: Message) -> None:
        """In the log of the engine at once, and in that of the run as soon as the store takes it."""
        for message in messages:
            log.warning("run %s: %s", self._run_id, message.text)
        self._untold += messages
        with contextlib.suppress(StoreError):
            self._connected().append(self._run_id, self._untold)
            self._untold = []

    def _put_in_store(self, held: Held) -> None:
        store = self._connected()

        def store_it() -> None:
            link = held.link
            with writing(self._root, self._breakers[1]):
                if held.parts:
                    digest = blobs.put(self._root, *held.parts)
                    link = replace(link, num_bytes=held.num_bytes)
                    link = (
                        replace(link, state=digest)
                        if held.is_keyframe
                        else replace(link, digest=digest)
                    )
                store.record_link(
                    self._run_id,
                    link,
                    stage="step",
                    index=held.index,
                    source=COMPUTED,
                    seconds=link.seconds,
                    sigma=held.sigma,
                    timestep=held.timestep,
                    replaces=held.replaces,
                )

        if self._trouble:  # what a clean-up can free, the first attempt has freed
            store_it()
        else:
            with_room(self._root, held.num_bytes, store_it)

    def _connected(self) -> Store:
        if self._store is None:
            # a connection belongs to the thread that opened it
            self._store = open_store(
                self._root, busy_seconds=BUSY_SECONDS, breaker=self._breakers[0]
            )
        return self._store


def thin(held: MutableSequence[Held], max_bytes: int) -> int:
    """Lets go of bytes of the oldest steps until at most max_bytes are left, in place; returns of how many steps.

    A velocity is of use behind what it follows on only, so that where one goes those behind it go too, to the next
    keyframe. Of each step stays that it was made, and what it led to.
    """
    num_bytes = sum(each.num_bytes for each in held)
    num_thinned = 0
    for index, each in enumerate(held):
        if num_bytes <= max_bytes and (not num_thinned or each.is_keyframe):
            break
        if each.parts:
            num_bytes -= each.num_bytes
            num_thinned += 1
            held[index] = replace(each, parts=(), is_keyframe=False)
    return num_thinned


def _prepared(entry: Entry, *, is_broken: bool) -> Held:
    """is_broken: whether what the step's velocity follows on is lost; then its state is kept instead."""
    tensors, is_keyframe = entry.tensors, entry.is_keyframe
    if tensors and not is_keyframe and is_broken:
        tensors, is_keyframe = entry.state, True
    return Held(
        replace(entry.link, latents=latents_digest(entry.latents)),
        entry.index,
        entry.sigma,
        entry.timestep,
        encoded_parts(tensors) if tensors else (),
        is_keyframe and bool(tensors),
        entry.replaces,
    )
