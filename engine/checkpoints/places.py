"""The folders that models are looked for in: our own, those that people added, and other programs'. Torch-free.

What people added is a list of paths in `models.toml` of the config folder, in the order they gave. Nothing here
ever touches a file of a model.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import tomli_w

from engine.checkpoints import elsewhere
from engine.checkpoints.source import MAX_DEPTH, open_source, sources_in
from engine.errors import CheckpointError
from presets.paths import user_preset_dir
from store import locks
from store.blobs.leavings import sweep_leavings
from store.errors import StoreBusy, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS, ADDED, HUGGING_FACE, COMFYUI = "models folder", "added", "Hugging Face cache", "ComfyUI"
TOKENIZER = "tokenizer.json"
MAX_LIST_BYTES = 256 * 1024
LOCK_SECONDS = 10.0

_DRAFT = re.compile(r"\.models-\w{8}\.tmp")
_NOTE = "# Where modiff looks for models beyond its own folder; `modiff models add` and `remove` write it.\n"


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
    if not os.path.lexists(file):
        return []
    correct_it = "correct it, or delete it and add the folders again"
    try:
        if not file.is_file():
            raise CheckpointError(f"{file}: not a regular file; {correct_it}")
        with file.open("rb") as stream:
            data = stream.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_LIST_BYTES:
        raise CheckpointError(f"{file}: more than {MAX_LIST_BYTES:,} bytes; {correct_it}")
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid TOML ({error}); {correct_it}") from None
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


@contextlib.contextmanager
def _only_writer() -> Iterator[None]:
    """From the reading of the list to its writing, so that no other process changes it in between.

    Where no lock can be made, the writing will say why. Raises CheckpointError where another holds it for too long.
    """
    file = list_file()
    with contextlib.ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = locks.acquire(file.with_name(f".{file.name}.lock"), timeout_seconds=LOCK_SECONDS)
            held.enter_context(lock)
        except StoreBusy as error:
            raise CheckpointError(
                f"{file}: is being written by another process ({error})"
            ) from None
        except (OSError, StoreError):
            pass
        yield


def _write(paths: list[Path]) -> None:
    """The whole list in one step: a reader sees the old one or the new one."""
    file = list_file()
    data = _NOTE + tomli_w.dumps({"paths": [str(path) for path in dict.fromkeys(paths)]})
    temporary = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep_leavings(file.parent, _DRAFT)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".models-", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data.encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except (
        OSError,
        UnicodeEncodeError,
    ) as error:  # a name that is not UTF-8 cannot be written as TOML
        if temporary:
            os.unlink(temporary)
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{file}: cannot be written ({reason})") from None
