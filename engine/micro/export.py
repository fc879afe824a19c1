"""Writes the trained model as it ships: bf16 safetensors under the published original key names.

The latents' statistics are folded into the VAE's two 1x1x1 convolutions, so that the published constants (the VAE
config's defaults) normalise this model's latents too, and no code has to know that it is a small one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.micro.tokenizer import save_tokenizer
from engine.models.vae.wanvae import LATENTS_MEAN, LATENTS_STD

FILES = {"dit": "dit.safetensors", "text": "text_encoder.safetensors", "vae": "vae.safetensors"}
CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
MAX_BYTES = 16_000_000


def fold_statistics(vae: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """VAE weights whose latents have the published mean and std where `vae`'s have `mean`, `std` [z].

    Exact up to rounding: encoding and normalising with the published constants gives what `vae`
    with its own statistics gives, and decoding undoes it. The log-variance follows.
    """
    mean, std = mean.double().flatten(), std.double().flatten()
    published_mean = torch.tensor(LATENTS_MEAN, dtype=torch.float64)
    published_std = torch.tensor(LATENTS_STD, dtype=torch.float64)
    gain = published_std / std
    folded = {name: tensor.float().clone() for name, tensor in vae.items()}
    weight, bias = (vae[f"conv1.{part}"].double().clone() for part in ("weight", "bias"))
    channels = len(mean)
    weight[:channels] *= gain.view(-1, 1, 1, 1, 1)
    bias[:channels] = (bias[:channels] - mean) * gain + published_mean
    bias[channels:] += 2 * gain.log()
    folded["conv1.weight"], folded["conv1.bias"] = weight.float(), bias.float()
    weight, bias = (vae[f"conv2.{part}"].double() for part in ("weight", "bias"))
    shift = weight[:, :, 0, 0, 0] @ (mean - published_mean / gain)
    folded["conv2.weight"] = (weight / gain.view(1, -1, 1, 1, 1)).float()
    folded["conv2.bias"] = (bias + shift).float()
    return folded


def shipped_weights(
    vae: Mapping[str, Any], dit: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """The averaged weights of two training checkpoints as bf16, by part: dit, text, vae."""
    parts: dict[str, dict[str, Tensor]] = {"dit": {}, "text": {}}
    for name, tensor in dit["ema"].items():
        part, _, original = name.partition(".")
        parts[part][original] = tensor
    parts["vae"] = fold_statistics(vae["ema"], dit["latent_mean"], dit["latent_std"])
    return {
        part: {name: t.to(torch.bfloat16).contiguous() for name, t in weights.items()}
        for part, weights in parts.items()
    }


def export_weights(vae: Mapping[str, Any], dit: Mapping[str, Any], folder: Path) -> int:
    """Writes the model of two training checkpoints into `folder`; returns its size in bytes.

    Raises ValueError when it is larger than a package should carry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, weights in shipped_weights(vae, dit).items():
        path = folder / FILES[part]
        partial = path.with_name(path.name + ".partial")
        save_file(weights, partial)
        partial.replace(path)
    save_tokenizer(folder / TOKENIZER_FILE)
    config = {
        "format": 1,
        "dit": dict(dit["model"]),
        "text_encoder": dict(dit["text"]),
        "vae": dict(vae["model"]),
        "training": {part: dict(c["progress"]) for part, c in (("vae", vae), ("dit", dit))},
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    size = sum((folder / name).stat().st_size for name in (*FILES.values(), TOKENIZER_FILE))
    if size > MAX_BYTES:
        raise ValueError(f"the model has {size} bytes, expected at most {MAX_BYTES}")
    return size


def read_weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The weights that `export_weights` wrote, by part."""
    return {part: load_file(folder / name) for part, name in FILES.items()}
