"""Where a checkpoint named in a preset lies on this machine. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from engine.errors import CheckpointError

BUILTIN_MICRO = "builtin:micro"
_MICRO_FOLDER = Path(__file__).parent.parent / "micro" / "weights"
_MICRO_FILES = {
    "text_encoder": "text_encoder.safetensors",
    "tokenizer": "tokenizer.json",
    "denoiser": "dit.safetensors",
    "vae": "vae.safetensors",
}


def models_folder() -> Path:
    """The folder that relative checkpoint paths are looked up in (set MODIFF_MODELS to move it)."""
    return Path(os.environ.get("MODIFF_MODELS") or platformdirs.user_data_path("modiff") / "models")


def locate(kind: str, checkpoint: str) -> Path:
    """The file of a component kind (`text_encoder`, `tokenizer`, `denoiser`, `vae`).

    checkpoint: an absolute path, a path under the home directory (`~/...`), a path relative to the models
    folder, or `builtin:micro`. Raises CheckpointError, naming the key to set, where there is no such file.
    """
    key = "text_encoder.tokenizer" if kind == "tokenizer" else f"{kind}.checkpoint"
    if not checkpoint:
        raise CheckpointError(
            f"components.{key} is empty; set it to a file, for example "
            f"--set components.{key}=/path/to/file"
        )
    if checkpoint == BUILTIN_MICRO:
        return _MICRO_FOLDER / _MICRO_FILES[kind]
    try:
        path = models_folder() / Path(checkpoint).expanduser()
    except RuntimeError as error:  # a home directory that cannot be told, such as ~nobody-here
        raise CheckpointError(f"components.{key}: {checkpoint}: {error}") from None
    if not path.is_file():
        raise CheckpointError(
            f"components.{key}: {path} is not a file; put it there, or set its path with "
            f"--set components.{key}=/path/to/file (relative paths start at {models_folder()})"
        )
    return path
