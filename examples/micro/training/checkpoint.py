"""Training checkpoints: one torch file each, written atomically and read without unpickling code.

Networks are stored under their published original parameter names, in fp32. `raw` weights continue the training,
`ema` weights are the model; `optimizer` and `progress` let a run go on as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Writes tensors and plain values with torch.save: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def save_checkpoint(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint of the given kind (`vae`, `dit` or `latents`)."""
    write_tensors(path, {"format": FORMAT, "kind": kind, **content})


def load_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; ValueError when it is of another kind or format."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    found = (content.get("kind"), content.get("format"))
    if found != (kind, FORMAT):
        raise ValueError(f"{path}: expected a {kind} checkpoint of format {FORMAT}, found {found}")
    return content


def digest(weights: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of named tensors, independent of their order in the mapping."""
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode())
        state.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def encoder_digest(vae_weights: Mapping[str, Tensor]) -> str:
    """Identity of the half of a VAE that latents depend on; a decoder finetune keeps it."""
    return digest({k: v for k, v in vae_weights.items() if k.startswith(("encoder.", "conv1."))})
