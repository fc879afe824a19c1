"""The sections of a run's form, in the order of the pipeline. Apart from what they hold, so that the first screen can
show them at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the form. keys: fields, or groups of them. about: what this stage does, in a line."""

    name: str
    title: str
    about: str
    keys: tuple[str, ...]


SECTIONS = (
    Section("preset", "preset", "Where the settings start from.", ("task", "format")),
    Section("prompt", "prompt", "What to show, in words.", ("prompt", "negative_prompt")),
    Section(
        "encoder",
        "text encoder",
        "Turns the prompt into numbers that the denoiser understands.",
        ("components.text_encoder",),
    ),
    Section(
        "denoiser",
        "denoiser",
        "The diffusion transformer: takes noise away, step by step.",
        ("components.denoiser",),
    ),
    Section("scheduler", "scheduler", "Which noise levels, and how to go on.", ("scheduler",)),
    Section(
        "guidance",
        "guidance",
        "How strictly the prompt is followed; extensions.",
        ("guidance", "extensions"),
    ),
    Section(
        "size",
        "size & seed",
        "How large, how long, from which noise.",
        ("width", "height", "frames", "fps", "seed", "noise"),
    ),
    Section("decode", "decode", "The video autoencoder: latents to pixels.", ("components.vae",)),
    Section("keep", "keep", "Which steps stay stored, to be gone back to.", ("keep",)),
    Section("output", "output", "What is written, and where.", ("output",)),
)
