"""Where the weights that a preset names lie on this machine. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.checkpoints.known import catalogue
from engine.checkpoints.library import Found, absence, find, scan_places
from engine.checkpoints.opened import layout_at
from engine.checkpoints.places import TOKENIZER, models_folder
from engine.checkpoints.source import Source, sources_in
from engine.errors import CheckpointError

BUILTIN = "builtin:"
BUILTIN_MICRO = f"{BUILTIN}micro"
_BUILTIN_FOLDER = Path(__file__).parent.parent / "micro" / "weights"
# what is built in -> kind -> file; the text encoder's tokenizer last
_BUILTIN_FILES = {
    BUILTIN_MICRO: {
        "text_encoder": "text_encoder.safetensors",
        "image_encoder": "image_encoder.safetensors",
        "denoiser": "dit.safetensors",
        "vae": "vae.safetensors",
        "tokenizer": "tokenizer.json",
    },
    f"{BUILTIN_MICRO}-i2v": {"denoiser": "i2v/dit.safetensors"},
    f"{BUILTIN_MICRO}-flf2v": {"denoiser": "flf2v/dit.safetensors"},
}
# Where the publishers of the text encoder put its tokenizer, seen from the encoder's own folder.
_TOKENIZER_FOLDERS = ("", "google/umt5-xxl", "umt5-xxl", "tokenizer", "../tokenizer")
SPIECE_FILE = "spiece.model"


def locate(kind: str, checkpoint: str, scan: Callable[[], Sequence[Found]] | None = None) -> Path:
    """The weights of a component kind (`text_encoder`, `image_encoder`, `denoiser`, `vae`), as `open_source` takes
    them: a file, or the index of shards; of `tokenizer` the file that holds it.

    checkpoint: the name of a published model, which the library finds wherever it is; an absolute path, a path
    under the home directory (`~/...`), a path relative to the models folder, each to a file or to a folder that
    holds one such component; or what is built in, such as `builtin:micro`. scan: what lies in the library's places,
    where whoever asks for several files has one look for all.

    Raises CheckpointError where there is none, naming the key to set, or what to download and where to put it.
    """
    key = "text_encoder.tokenizer" if kind == "tokenizer" else f"{kind}.checkpoint"
    if not checkpoint:
        raise CheckpointError(
            f"is empty; set it to the name of a model (`modiff models list`) or to a path, for "
            f"example --set components.{key}=/path/to/file",
            key=f"components.{key}",
        )
    if is_builtin(checkpoint):
        if kind not in _BUILTIN_FILES[checkpoint]:
            raise CheckpointError(
                f"{checkpoint} has no {kind.replace('_', ' ')}; {' and '.join(builtin_names(kind))} has one",
                key=f"components.{key}",
            )
        return _BUILTIN_FOLDER / _BUILTIN_FILES[checkpoint][kind]
    if catalogue.model(checkpoint, kind) is not None:
        among = (scan or scan_places)()
        found = find(kind, checkpoint, among)
        if not found:
            lack = absence(kind, checkpoint, among, brief=True)
            raise CheckpointError(lack, key=f"components.{key}")
        return found[0].path
    try:
        path = models_folder() / Path(checkpoint).expanduser()
    except RuntimeError as error:  # a home directory that cannot be told, such as ~nobody-here
        raise CheckpointError(f"{checkpoint}: {error}", key=f"components.{key}") from None
    if kind == "tokenizer":
        path = tokenizer_in(path) or tokenizer_in(path, SPIECE_FILE) or path
    elif os.path.isdir(path):
        return open_component(kind, path).path
    if not os.path.isfile(path):
        raise CheckpointError(
            f"{path} is not there; put the file there, name another with "
            f"--set components.{key}=/path/to/file (relative paths start at {models_folder()}), "
            f"or name a model: {', '.join(model.name for model in catalogue.MODELS if model.kind == kind)}",
            key=f"components.{key}",
        )
    return path


def builtin_files(name: str) -> list[Path]:
    """The files that a name such as `builtin:micro` stands for: the weights of its components, then its tokenizer.
    Raises CheckpointError where nothing built in has that name."""
    if not is_builtin(name):
        known = ", ".join(_BUILTIN_FILES)
        raise CheckpointError(f"{name}: nothing built in is named so; there is {known}")
    return [_BUILTIN_FOLDER / file for file in _BUILTIN_FILES[name].values()]


def builtin_names(kind: str) -> tuple[str, ...]:
    """What is built in that has a component of that kind."""
    return tuple(name for name, files in _BUILTIN_FILES.items() if kind in files)


def is_builtin(checkpoint: str) -> bool:
    """Whether a checkpoint is one that comes with modiff, of its micro world."""
    return checkpoint in _BUILTIN_FILES


def tokenizer_in(folder: Path, name: str = TOKENIZER) -> Path | None:
    """The tokenizer.json, or the file of another name, that was published with a text encoder, where it lies in its
    usual place seen from the encoder's folder."""
    places = (folder / place / name for place in _TOKENIZER_FOLDERS)
    return next((place for place in places if os.path.isfile(place)), None)


def open_component(kind: str, path: Path) -> Source:
    """The one checkpoint of `kind` at `path`: a file, or somewhere in a folder such as a whole published
    repository. Raises CheckpointError where there is none, or more than one."""
    if not os.path.isdir(path):
        return layout_at(path)[0]
    held: list[Source] = []
    others: list[str] = []
    faults: list[str] = []
    for candidate in sources_in(path):
        try:
            source, layout = layout_at(candidate)
            is_wanted = layout.component == kind
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if is_wanted:
            held.append(source)
        else:
            others.append(f"{layout.component.replace('_', ' ')} {candidate.relative_to(path)}")
    if len(held) == 1:
        return held[0]
    if held:
        names = ", ".join(str(source.path.relative_to(path)) for source in held[:4])
        raise CheckpointError(
            f"{path}: holds {len(held)} checkpoints of a {kind} ({names}); name one of them"
        )
    told = [*faults[:1], *(f"but a {other}" for other in others[:1])]
    reason = f" ({'; '.join(told)})" if told else ""
    raise CheckpointError(f"{path}: holds no checkpoint of a {kind}{reason}")
