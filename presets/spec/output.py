"""What a run writes, and which of its steps stay in the store."""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated, Literal

from msgspec import Meta, Struct

from presets.output.formats import choice_of_endings
from presets.spec.values import FilePath


class OutputSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Annotated[
        FilePath,
        Meta(
            description="where to write; empty names a file after the run", extra={"role": "file"}
        ),
    ] = ""
    kinds: Annotated[
        tuple[Literal["video", "frames", "latents"], ...],
        Meta(
            min_length=1,
            max_length=3,
            description="what to write: the video, PNG frames, safetensors",
        ),
    ] = ("video",)
    # the names of `presets.output.formats.FORMATS`, which a test holds to these
    format: Annotated[
        Literal["auto", "h264", "h265", "av1", "x264rgb", "webm", "ffv1", "gif", "webp"],
        Meta(
            description=f"of the video; auto goes by the ending of output.path ({choice_of_endings()})"
        ),
    ] = "auto"
    scale: Annotated[
        int,
        Meta(
            ge=1,
            le=16,
            description="video and frames are written so many times as large, for pictures that are small",
        ),
    ] = 1
    resample: Annotated[
        Literal["nearest", "lanczos"],
        Meta(
            description="how they are enlarged: nearest keeps each pixel as a square, lanczos is smooth"
        ),
    ] = "nearest"
    overwrite: Annotated[bool, Meta(description="replace files that are already there")] = False


class KeepSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which denoising steps stay in the store, to be gone back to: those that any of these names."""

    every: Annotated[
        int, Meta(ge=0, le=1000, description="every n-th step; 1 keeps all, 0 none")
    ] = 1
    first: Annotated[int, Meta(ge=0, le=1000, description="the first n steps")] = 0
    last: Annotated[int, Meta(ge=0, le=1000, description="the last n steps")] = 0
    steps: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=1000)], ...],
        Meta(max_length=1000, description="these steps, counted from 1"),
    ] = ()
    budget_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="at most so many MB of steps a run; where they would take more, fewer are kept",
        ),
    ] = 1024
