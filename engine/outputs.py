"""What a run writes and where, from its output path. Torch-free: the runner writes these, a viewer checks them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def output_paths(path: Path, kinds: Collection[str]) -> dict[str, Path]:
    """The file or folder of each kind (`video`, `frames`, `latents`), the main one first.

    The path itself belongs to the video; frames go into a folder beside it, or the path itself where they are
    all there is; latents into a file beside it.
    """
    frames = path if set(kinds) == {"frames"} else path.with_name(f"{path.stem}-frames")
    named = {"video": path, "frames": frames, "latents": path.with_suffix(".safetensors")}
    return {kind: target for kind, target in named.items() if kind in kinds}


def default_output(kinds: Collection[str]) -> str:
    """The name of an output that nobody named; `{run}` in it becomes the run's id."""
    if "video" in kinds:
        return "modiff-{run}.mp4"
    return "modiff-{run}.safetensors" if "latents" in kinds else "modiff-{run}"
