"""The Python face: build from a preset, run, save. The same stages as the engine's, without store or process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import Tensor

from engine import media, registry
from engine.component import VAE, Denoiser, TextEncoder
from engine.pipelines import stages
from presets.library import load_preset
from presets.spec import RunSpec
from presets.validation import validate


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
    spec: RunSpec
    text_encoder: TextEncoder
    denoiser: Denoiser
    vae: VAE

    @classmethod
    def from_preset(cls, preset: str, overrides: Sequence[str] = ()) -> TextToVideo:
        """preset: a name or a path; overrides: `key=value` as on the command line.

        Raises PresetError, ComponentError or CheckpointError before any weights are read.
        """
        spec = registry.settle(load_preset(preset, overrides))
        registry.check(spec)
        parts = spec.components
        return cls(
            spec=spec,
            text_encoder=registry.load("text_encoder", parts.text_encoder),
            denoiser=registry.load("denoiser", parts.denoiser),
            vae=registry.load("vae", parts.vae),
        )

    def __call__(self, prompt: str | None = None, *, seed: int | None = None) -> Video:
        """A video of the prompt; what is not given is the preset's. Raises RunFailed, PresetError."""
        spec = self.spec
        if prompt is not None:
            spec = msgspec.structs.replace(spec, prompt=prompt)
        if seed is not None:
            spec = msgspec.structs.replace(spec, seed=seed)
        spec = validate(spec)
        contexts = stages.encode_prompts(self.text_encoder, spec)
        latents = noise = stages.initial_noise(spec, self.denoiser)
        for step in stages.denoise(self.denoiser, spec, contexts, noise):
            latents = step.state.latents
        return Video(media.to_uint8(stages.decode(self.vae, latents)), latents, spec)
