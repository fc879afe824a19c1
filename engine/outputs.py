"""What a run writes and where, from its output path. Torch-free: the runner writes these, a viewer checks them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryFile


def output_paths(path: Path, kinds: Collection[str]) -> dict[str, Path]:
    """The file or folder of each kind (`video`, `frames`, `latents`), the main one first.

    The path itself belongs to the video; frames go into a folder beside it, or the path itself where they are
    all there is; latents into a file beside it.
    """
    frames = path if set(kinds) == {"frames"} else path.with_name(f"{path.stem}-frames")
    named = {"video": path, "frames": frames, "latents": path.with_suffix(".safetensors")}
    return {kind: target for kind, target in named.items() if kind in kinds}


def folder_problem(path: Path) -> str:
    """Why there can be no new file at `path`, with what to do; "" where there can.

    A nameless file is made beside it: the rights on a folder say nothing of a full or special file system, and
    nothing at all to root.
    """
    folder = path.parent
    if not os.path.isdir(folder):
        return f"there is no folder {folder}; make it, or choose another"
    try:
        with TemporaryFile(prefix=".modiff-", dir=folder):
            return ""
    except OSError as error:
        return f"the folder {folder} cannot be written ({error.strerror}); choose another"


def default_output(kinds: Collection[str]) -> str:
    """The name of an output that nobody named; `{run}` in it becomes the run's id."""
    if "video" in kinds:
        return "modiff-{run}.mp4"
    return "modiff-{run}.safetensors" if "latents" in kinds else "modiff-{run}"
