"""Writes the trained model as it ships: bf16 safetensors under the published original key names.

The latents' statistics are folded into the VAE's two 1x1x1 convolutions, so that the published constants (the VAE
config's defaults) normalise this model's latents too, and no code has to know that it is a small one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from engine.models.diffusion.config import WanDiTConfig
from engine.models.vae.wanvae import LATENTS_MEAN, LATENTS_STD
from examples.micro.model.architecture import DiTShape, dit_config
from examples.micro.model.model_card import model_card
from examples.micro.model.tokenizer import build_tokenizer

FILES = {"dit": "dit.safetensors", "text": "text_encoder.safetensors", "vae": "vae.safetensors"}
TOKENIZER_FILE, CONFIG_FILE, CARD_FILE = "tokenizer.json", "config.json", "MODEL_CARD.md"
MAX_BYTES = 16_000_000
PUBLISHED_FIELDS = (
    "model_type", "patch_size", "text_len", "in_dim", "dim", "ffn_dim", "freq_dim", "text_dim",
    "out_dim", "num_heads", "num_layers", "qk_norm", "cross_attn_norm", "eps",
)  # fmt: skip


def fold_statistics(vae: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """VAE weights whose latents have the published mean and std where `vae`'s have `mean`, `std` [z].

    Exact up to rounding to the weights' dtype: encoding and normalising with the published
    constants gives what `vae` with its own statistics gives, and decoding undoes it. The
    log-variance follows.
    """
    mean, std = mean.double().flatten(), std.double().flatten()
    published_mean = torch.tensor(LATENTS_MEAN, dtype=torch.float64)
    published_std = torch.tensor(LATENTS_STD, dtype=torch.float64)
    gain = published_std / std
    weight, bias = (vae[f"conv1.{part}"].double().clone() for part in ("weight", "bias"))
    channels = len(mean)
    weight[:channels] *= gain.view(-1, 1, 1, 1, 1)
    bias[:channels] = (bias[:channels] - mean) * gain + published_mean
    bias[channels:] += 2 * gain.log()
    changed = {"conv1.weight": weight, "conv1.bias": bias}
    weight, bias = (vae[f"conv2.{part}"].double() for part in ("weight", "bias"))
    shift = weight[:, :, 0, 0, 0] @ (mean - published_mean / gain)
    changed |= {"conv2.weight": weight / gain.view(1, -1, 1, 1, 1), "conv2.bias": bias + shift}
    folded = {name: tensor.clone() for name, tensor in vae.items()}
    return folded | {name: tensor.to(vae[name].dtype) for name, tensor in changed.items()}


def shipped_weights(vae: Mapping[str, Any], dit: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
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


def published_config(shape: DiTShape) -> dict[str, Any]:
    """The transformer's config.json: the published field names and nothing else."""
    return config_of(dit_config(shape))


def config_of(config: WanDiTConfig) -> dict[str, Any]:
    """A configuration by the published names."""
    values = asdict(config)
    return {"_class_name": "WanModel", **{name: values[name] for name in PUBLISHED_FIELDS}}


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file: all of it or nothing, with the permissions of any new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def export_weights(
    vae: Mapping[str, Any],
    dit: Mapping[str, Any],
    folder: Path,
    *,
    evaluation: Mapping[str, Any] | None = None,
    notes: str = "",
) -> int:
    """Writes the model of two training checkpoints into `folder`; returns its size in bytes.

    `evaluation` is what `Evaluation.as_dict` gave and `notes` Markdown on the training, both for
    the model card. Raises ValueError when the files are larger than a package should carry.
    """
    parts = shipped_weights(vae, dit)
    files = {FILES[part]: save(weights) for part, weights in parts.items()}
    files[TOKENIZER_FILE] = build_tokenizer().to_str(pretty=False).encode()
    size = sum(map(len, files.values()))
    if size > MAX_BYTES:
        raise ValueError(f"the model has {size} bytes, expected at most {MAX_BYTES}")
    config = published_config(DiTShape(**dit["model"]))
    files[CONFIG_FILE] = (json.dumps(config, indent=2) + "\n").encode()
    card = model_card(
        config=config,
        vae_dim=vae["model"]["dim"],
        parameters={
            FILES[part]: sum(t.numel() for t in weights.values()) for part, weights in parts.items()
        },
        history=[*vae.get("history", ()), *dit.get("history", ())],
        evaluation=evaluation,
        notes=notes,
    )
    files[CARD_FILE] = card.encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    return size
