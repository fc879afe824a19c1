"""The Python face: build from a preset, run, save. The engine's own executor, without store or process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from torch import Tensor

from engine import media
from engine.components import choice
from engine.components.descriptions import Descriptions
from engine.components.residents import Residents
from engine.environment import set_threads
from engine.execute import Control, Execution, Keeping
from engine.results import MemoryResults
from engine.tasks.route import route_of
from engine.tasks.wan import graph_of, num_tokens
from presets.library import load_preset
from presets.spec import RunSpec
from presets.validation import validate
from store.index.index import open_index
from store.paths import prepare, store_root


@dataclass(frozen=True)
class Video:
    """frames: uint8 [T,H,W,3]; latents: fp32 [1,C,F,h,w], what `frames` were decoded from."""

    frames: Tensor
    latents: Tensor
    spec: RunSpec

    def save(self, path: str | Path) -> Path:
        """Writes an mp4 (H.264, yuv420p); raises OSError or EngineError where it cannot."""
        path = Path(path)
        media.write_video(path, self.frames, fps=self.spec.fps, comment=self.spec.prompt)
        return path


@dataclass(frozen=True)
class TextToVideo:
    """A preset and the models that it runs on, which stay in memory between two calls."""

    spec: RunSpec
    residents: Residents = field(default_factory=Residents)

    @classmethod
    def from_preset(cls, preset: str, overrides: Sequence[str] = ()) -> TextToVideo:
        """preset: a name or a path; overrides: `key=value` as on the command line.

        Raises PresetError, ComponentError or CheckpointError before any weights are read.
        """
        spec = choice.settle(load_preset(preset, overrides))
        with open_index(prepared_root()) as index:
            choice.check(spec, Descriptions(index))
        return cls(spec)

    def __call__(self, prompt: str | None = None, *, seed: int | None = None) -> Video:
        """A video of the prompt; what is not given is the preset's. Raises RunFailed, PresetError."""
        spec = self.spec
        if prompt is not None:
            spec = msgspec.structs.replace(spec, prompt=prompt)
        if seed is not None:
            spec = msgspec.structs.replace(spec, seed=seed)
        wanted = msgspec.structs.replace(spec.output, kinds=("frames", "latents"))
        spec = validate(msgspec.structs.replace(spec, output=wanted))
        with open_index(prepared_root()) as index:
            describe = Descriptions(index)
            set_threads(num_tokens(spec, choice.check(spec, describe)))
            targets = graph_of(route_of(spec), describe)
            control = Control(lambda event: None, lambda: None)
            execution = Execution(
                targets, MemoryResults(), describe, lambda: self.residents, control, Keeping()
            )
            execution.run(execution.plan())
            latents = execution.tensors(execution.plan(), targets["latents"])["latents"]
            return Video(execution.read("frames"), latents, spec)


@functools.cache
def prepared_root() -> Path:
    """The user's store, whose index remembers what weights are."""
    root = store_root().absolute()
    prepare(root)
    return root
