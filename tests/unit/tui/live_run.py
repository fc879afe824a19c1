"""A run in a store whose log a test writes, as an engine would: for screens that watch it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.process.version import installed_version
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.index.index import open_index
from store.index.previews import Preview, put_preview
from store.lineage.events import (
    Event,
    MemorySampled,
    PlanMade,
    StageFinished,
    StageStarted,
    StepFinished,
)
from store.lineage.records import LinkRecord
from store.store import Store, open_store

PROMPT = "a small yellow star"


def picture(shade: int) -> Preview:
    """Two frames of 8x8 pixels of one shade each."""
    return Preview(2, 8, 8, bytes([shade]) * 192 + bytes([255 - shade]) * 192)


class LiveRun:
    """A queued run; `lease` makes this process its engine."""

    def __init__(self, store: Store, *, steps: int = 8, output: str = "/v/out.mp4") -> None:
        self.store, self.num_steps = store, steps
        spec = load_preset("micro", [f"scheduler.steps={steps}", f"prompt={PROMPT}"])
        self.id = store.enqueue(encode_spec(spec), preset="micro", output=output)

    def say(self, *events: Event) -> None:
        self.store.append(self.id, list(events))

    @contextmanager
    def leased(self) -> Iterator[LiveRun]:
        """At work, its denoising begun; the engine ends with the block."""
        engine = f"engine{self.id}"
        with self.store.register_engine(engine, pid=os.getpid(), version=installed_version()):
            self.store.lease(engine)
            self.say(
                PlanMade(
                    0,
                    self.num_steps,
                    {"text_encode": "stored", "denoise": "compute", "decode": "compute"},
                ),
                StageStarted("load"),
                StageFinished("load", 1.5, False),
                StageStarted("text_encode"),
                StageFinished("text_encode", 0.0, True),
                StageStarted("denoise"),
            )
            yield self
            self.store.unregister_engine(engine)

    def step(self, number: int, *, has_preview: bool = True) -> None:
        """One more step, computed, stored and with a picture."""
        key = f"{self.id}-{number}"
        if has_preview:
            with open_index(self.store.root) as index:
                put_preview(index, key, picture(number))
        self.say(
            StepFinished(number, self.num_steps, 1 - number / 10, 9, 0.5, 0.01, 0.9, change=0.1),
            MemorySampled(number << 20, 0),
        )
        self.store.record_link(
            self.id,
            LinkRecord(key, "step", f"sha256:{number:064x}", f"sha256:{number:064x}"),
            stage="step",
            index=number - 1,
            source="computed",
            seconds=0.5,
        )

    def decode(self) -> None:
        """Its video, with a picture; the bytes of it are nowhere."""
        key = f"{self.id}-video"
        with open_index(self.store.root) as index:
            put_preview(index, key, picture(99))
        link = LinkRecord(key, "video", f"sha256:{99:064x}")
        self.store.record_link(
            self.id, link, stage="video", index=0, source="computed", seconds=0.5
        )


@contextmanager
def live_run(root: Path, **options: object) -> Iterator[LiveRun]:
    """A run at work in a store of its own at `root`."""
    with open_store(root) as store, LiveRun(store, **options).leased() as run:  # type: ignore[arg-type]
        yield run
