"""The parts of a run's settings as people see them, in the order of the pipeline.

A field says in `Meta(extra={"section": NAME})` which one it is in, with all that it holds.
"""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """about: what this stage does, in a line."""

    name: str
    title: str
    about: str


SECTIONS = (
    Section("preset", "preset", "Where the settings start from."),
    Section("prompt", "prompt", "What to show, in words."),
    Section("media", "pictures & clips", "What to begin from, beside words."),
    Section("expansion", "expansion", "Has the prompt written out by a language model first."),
    Section(
        "encoder", "text encoder", "Turns the prompt into numbers that the denoiser understands."
    ),
    Section("denoiser", "denoiser", "The diffusion transformer: takes noise away, step by step."),
    Section("scheduler", "scheduler", "Which noise levels, and how to go on."),
    Section("guidance", "guidance", "How strictly the prompt is followed."),
    Section("extensions", "extensions", "What changes the denoiser's work, in this order."),
    Section("size", "size & seed", "How large, how long, from which noise."),
    Section("decode", "decode", "The video autoencoder: latents to pixels."),
    Section("keep", "keep", "Which steps stay stored, to be gone back to."),
    Section("output", "output", "What is written, and where."),
)
