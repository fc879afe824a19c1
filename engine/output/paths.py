"""What a run writes and where, from its output path. Torch-free: the runner writes these, a viewer checks them."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from presets.output.formats import FORMATS
from presets.output.rules import format_of

if TYPE_CHECKING:
    from presets.spec.output import OutputSpec

LATENTS_ENDING = ".safetensors"

# of an id of the store
_ID_LETTERS = 10


def output_paths(path: Path, kinds: Collection[str]) -> dict[str, Path]:
    """The file or folder of each kind (`video`, `frames`, `latents`), the main one first.

    The path itself belongs to the video; frames go into a folder beside it, or the path itself where they are
    all there is; latents into a file beside it.
    """
    frames = path if set(kinds) == {"frames"} else path.with_name(f"{path.stem}-frames")
    named = {"video": path, "frames": frames, "latents": path.with_suffix(LATENTS_ENDING)}
    return {kind: target for kind, target in named.items() if kind in kinds}


def output_problem(path: Path, kinds: Collection[str]) -> str:
    """Why a run cannot write its output at `path`, with what to do; "" where it can."""
    if not _is_unicode(path):
        # the store keeps it as text; the current folder may have such a name too
        return f"{path} is not valid Unicode (UTF-8); choose another folder or name"
    if "video" in kinds and os.path.isdir(path):
        return f"{path} is a folder; name a file in it, such as video.mp4"
    problems = map(_name_problem, output_paths(path, kinds).values())
    return next(filter(None, problems), "") or folder_problem(path)


def _is_unicode(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def folder_problem(path: Path) -> str:
    """Why there can be no new file at `path`, with what to do; "" where there can.

    A nameless file is made beside it: the rights on a folder say nothing of a full or special file system, and
    nothing at all to root.
    """
    if problem := _name_problem(path):
        return problem
    folder = path.parent
    if not os.path.isdir(folder):
        return f"there is no folder {folder}; make it, or choose another"
    try:
        with TemporaryFile(prefix=".modiff-", dir=folder):
            return ""
    except OSError as error:
        return f"the folder {folder} cannot be written ({error.strerror}); choose another"


def _name_problem(path: Path) -> str:
    """A file system says that a name is too long for it only when it is asked for it. `{run}` counts as the run's id
    in its place."""
    try:
        os.lstat(str(path).replace("{run}", "r" * _ID_LETTERS))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            length = len(os.fsencode(path.name))
            name = f"{path.name[:40]}..." if len(path.name) > 40 else path.name
            return f"{name} is too long for the file system ({length} bytes); choose a shorter name"
    return ""


def default_output(output: OutputSpec) -> str:
    """The name of an output that nobody named; `{run}` in it becomes the run's id."""
    if "video" in output.kinds:
        return f"modiff-{{run}}{FORMATS[format_of(output)].ending}"
    return f"modiff-{{run}}{LATENTS_ENDING}" if "latents" in output.kinds else "modiff-{run}"
