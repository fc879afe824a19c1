"""What an execution, its stages and its listeners say to each other. Torch-free to import."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from engine.graph import Node
from store.lineage.events import Event, MemorySampled, Message, StageFinished, StageStarted

if TYPE_CHECKING:
    from torch import Tensor

    from store.index.previews import Preview

Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Control:
    """How a run talks and listens. check: raises RunCancelled or RunPaused once somebody asked for it; is_asked: says
    so. Both are for the run's own thread."""

    emit: Emit
    check: Callable[[], None]
    is_asked: Callable[[], bool] = lambda: False
    _told: set[str] = field(default_factory=set)

    def warn(self, text: str) -> None:
        """Tells it once, however often it happens in the run."""
        if text not in self._told:
            self._told.add(text)
            self.emit(Message(level="warning", text=text))

    @contextmanager
    def stage(self, name: str, *, cached: bool = False, spent: float = 0.0) -> Iterator[None]:
        """One stage from its first event to its last. spent: seconds of it before this."""
        self.check()
        self.emit(StageStarted(stage=name))
        begun = time.perf_counter() - spent
        yield
        self.emit(StageFinished(stage=name, seconds=time.perf_counter() - begun, cached=cached))
        self.emit(memory_sample())


@dataclass(frozen=True)
class NodeResult:
    """What a stage made of a node. outputs: by name, tensors by name or bytes; transient ones anything. resume_at: from
    how many steps done on the rest of its extensions' state is made again, None without such. clean: the clean latents
    that a step points to, for a preview; preview: makes that of another result, for people to watch. told: events, once
    it is kept."""

    node: Node
    outputs: Mapping[str, Any]
    seconds: float
    environment: str = ""
    resume_at: int | None = None
    clean: Callable[[], Tensor] | None = None
    preview: Callable[[], Preview] | None = None
    sigma: float | None = None
    timestep: float | None = None
    told: tuple[Event, ...] = ()


def memory_sample() -> MemorySampled:
    """Resident memory of this process, and what torch holds on all cards together."""
    torch = sys.modules.get("torch")
    on_cards = 0
    if torch is not None and torch.cuda.is_available():
        on_cards = sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count())))
    return MemorySampled(rss_bytes=psutil.Process().memory_info().rss, device_bytes=on_cards)
