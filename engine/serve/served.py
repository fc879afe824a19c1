"""The components that a server has, and the work at each: one request at a time, the others wait in a short queue."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.checkpoints.library import scan_places
from engine.components.choice import settled
from engine.components.descriptions import Descriptions
from engine.components.memory.halves import used
from engine.components.memory.residents import Residents
from engine.components.protocols import Description
from engine.errors import ComponentError, EngineError
from engine.remote.contract import Load, Told, digest_of
from presets.spec.run import RunSpec
from store.index.index import Index

DEFAULT_WAITING = 8

_DTYPES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}

T = TypeVar("T")


class Busy(Exception):
    """As many requests wait as may."""


class Gone(Exception):
    """Whoever asked does not wait any more."""


@dataclass
class Served:
    """One component. max_waiting: requests beside the one that is worked at."""

    kind: str
    part: Any
    about: Description
    component: Any
    describe: Descriptions
    max_waiting: int
    executor: ThreadPoolExecutor
    places: int = 0
    busy: bool = False
    answered: int = 0
    seconds: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def told(self) -> Told:
        # whatever it is called here, fp32 is what leaves a VAE and a denoiser
        dtype: Any = _DTYPES[self.part.dtype] if self.kind.endswith("_encoder") else "F32"
        identity, facts = dict(self.about.identity), dict(self.about.facts)
        return Told(identity=identity, facts=facts, dtype=dtype, digest=digest_of(identity, facts))

    @property
    def waiting(self) -> int:
        return max(0, self.places - self.busy)

    @property
    def load(self) -> Load:
        return Load(
            busy=self.busy, waiting=self.waiting, answered=self.answered, seconds=self.seconds
        )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Among those who wait, before anything of what they ask is read. Raises Busy where there is none."""
        if self.places > self.max_waiting:
            raise Busy
        self.places += 1
        try:
            yield
        finally:
            self.places -= 1

    async def work(self, do: Callable[[], T], gone: threading.Event) -> T:
        """What `do` gives, in the component's own thread, once it is its turn. gone: set once nobody waits for it.

        Raises Gone, and what `do` raises. Once it is cancelled, it ends when the thread is free.
        """
        async with self.turn:
            if gone.is_set():
                raise Gone
            return await self._done(do, gone)

    async def _done(self, do: Callable[[], T], gone: threading.Event) -> T:
        self.describe.check_unchanged(self.kind, self.part)
        self.busy, begun = True, time.perf_counter()
        try:
            running = asyncio.get_running_loop().run_in_executor(self.executor, do)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                # the turn is over only once the thread is free
                gone.set()
                await asyncio.wait([running])
                running.exception()  # that nobody waits for
                raise
        finally:
            self.busy = False
            self.answered += 1
            self.seconds += time.perf_counter() - begun


@contextmanager
def loaded(
    spec: RunSpec, kinds: Sequence[str], index: Index, *, max_waiting: int = DEFAULT_WAITING
) -> Iterator[dict[str, Served]]:
    """The components of a run's settings, in memory. Raises ComponentError, CheckpointError."""
    for kind in kinds:
        if getattr(spec.components, kind).name == "remote":
            raise ComponentError(
                "is itself served elsewhere; serve it there", key=f"components.{kind}"
            )
    scan = functools.cache(scan_places)
    chosen = ((kind, getattr(spec.components, kind)) for kind in kinds)
    parts = {kind: settled(kind, part, scan) for kind, part in chosen}
    describe = Descriptions(index)
    about = {kind: describe(kind, part) for kind, part in parts.items()}
    residents = Residents()
    with ExitStack() as stack:
        found = {}
        for kind, part in parts.items():
            component = stack.enter_context(used(residents, kind, part, about[kind]))
            executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix=kind))
            found[kind] = Served(
                kind, part, about[kind], component, describe, max_waiting, executor
            )
        yield found


def refusal_of(error: Exception) -> str:
    """What is told of an error: ours are lines for people, of others only what they are."""
    return str(error) if isinstance(error, EngineError) else f"it failed ({type(error).__name__})"
