"""The folders that models are looked for in: our own, those that people added, and other programs'. Torch-free.

What people added is a list of paths in `models.toml` of the config folder, in the order they gave. Nothing here
ever touches a file of a model.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from engine.checkpoints import elsewhere
from engine.checkpoints.source import MAX_DEPTH, open_source, sources_in
from engine.config_file import only_writer, read_table, write_table
from engine.errors import CheckpointError
from presets.library.paths import user_preset_dir

MODELS, ADDED, HUGGING_FACE, COMFYUI = "models folder", "added", "Hugging Face cache", "ComfyUI"
TOKENIZER = "tokenizer.json"

_NOTE = "Where modiff looks for models beyond its own folder; `modiff models add` and `remove` write it."


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, or one added file. origin: `models folder`, `added`, `Hugging Face cache` or another program's name."""

    path: Path
    origin: str
    exists: bool


def models_folder() -> Path:
    """The folder that relative checkpoint paths are looked up in (set MODIFF_MODELS to move it)."""
    return Path(os.environ.get("MODIFF_MODELS") or platformdirs.user_data_path("modiff") / "models")


def places() -> list[Place]:
    """Every place, the first to be preferred, whether it is there or not.

    Raises CheckpointError where the list of added ones is damaged.
    """
    found = [(models_folder(), MODELS)]
    found += [(path, ADDED) for path in added_paths()]
    found += [(elsewhere.hugging_face_cache(), HUGGING_FACE)]
    found += [(path, COMFYUI) for path in elsewhere.comfyui_folders()]
    found += [(path, origin) for path, origin in elsewhere.other_folders()]
    first: dict[Path, str] = {}
    for path, origin in found:
        first.setdefault(Path(os.path.abspath(path)), origin)
    # os.path.exists: False where the system cannot tell; Path.exists raises
    return [Place(path, origin, os.path.exists(path)) for path, origin in first.items()]


def list_file() -> Path:
    """The file that holds what people added; it need not exist yet."""
    return user_preset_dir().parent / "models.toml"


def added_paths() -> list[Path]:
    """What people added, absolute. Raises CheckpointError where the list cannot be read."""
    file = list_file()
    correct_it = "correct it, or delete it and add the folders again"
    table = read_table(file, CheckpointError, correct_it)
    if unknown := sorted(table.keys() - {"paths"}):
        raise CheckpointError(
            f"{file}: unknown key {unknown[0][:80]!r}, expected paths; {correct_it}"
        )
    paths = table.get("paths", [])
    if not isinstance(paths, list) or not all(
        isinstance(p, str) and p and "\0" not in p for p in paths
    ):
        raise CheckpointError(
            f'{file}: paths is not a list of texts, such as ["/models"]; {correct_it}'
        )
    return [Path(os.path.abspath(os.path.expanduser(path))) for path in paths]


def add(path: Path) -> tuple[Place, bool]:
    """Remembers a folder, or one file, to look for models in; returns its place and True.

    Where a known place holds it already, nothing is changed: that place and False. Raises CheckpointError where
    there is nothing at the path, a folder cannot be read or is too large, or a file is no complete checkpoint.
    """
    path = _absolute(path)
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such file or folder")
    if known := holder(path):
        return known, False
    if os.path.isdir(path):
        sources_in(path)
    elif path.name != TOKENIZER:
        open_source(path)
    with _only_writer():
        _write([*added_paths(), path])
    return Place(path, ADDED, exists=True), True


def remove(path: Path) -> Path:
    """Forgets a folder or file that was added, whether or not it is still there; returns it as it was listed.

    Raises CheckpointError where it was not added.
    """
    wanted = _absolute(path)
    with _only_writer():
        known = added_paths()
        same = [p for p in known if p == wanted] or [
            p for p in known if os.path.realpath(p) == os.path.realpath(wanted)
        ]
        if not same:
            told = f"added are {', '.join(map(str, known))}" if known else "nothing was added"
            raise CheckpointError(f"{wanted}: was not added with `modiff models add`; {told}")
        _write([p for p in known if p not in same])
    return same[0]


def holder(path: Path) -> Place | None:
    """The place in which `path` is found without adding it, if there is one."""
    target = Path(os.path.realpath(path))
    for place in places():
        home = Path(os.path.realpath(place.path))
        if target == home:
            return place
        if place.origin == HUGGING_FACE or not target.is_relative_to(home):
            continue  # of the cache only what seems to be Wan is looked at
        below = target.relative_to(home).parts
        if len(below) <= MAX_DEPTH and not any(part.startswith(".") for part in below):
            return place
    return None


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _only_writer() -> AbstractContextManager[None]:
    """Raises CheckpointError where another process holds the list for too long."""
    return only_writer(list_file(), CheckpointError)


def _write(paths: list[Path]) -> None:
    table = {"paths": [str(path) for path in dict.fromkeys(paths)]}
    write_table(list_file(), table, _NOTE, CheckpointError)
