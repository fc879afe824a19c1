"""Writes the image-to-video models as they ship, beside the text-to-video model whose text encoder and VAE they use.

One training gives both transformers: they differ in `img_emb.emb_pos`, what is added to the image encoder's tokens of
two pictures, of which the half of the first picture is zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from examples.micro.model.architecture import DiTShape, picture_config
from examples.micro.model.export import CONFIG_FILE, FILES, config_of, write_whole
from examples.micro.pictures.train import LAST

IMAGE_ENCODER_FILE = "image_encoder.safetensors"
MODELS = ("i2v", "flf2v")


def export_pictures(clip: Mapping[str, Any], i2v: Mapping[str, Any], folder: Path) -> int:
    """The averaged weights of two training checkpoints as bf16: the image encoder, and a folder for each transformer
    with its configuration. Returns their size in bytes."""
    weights = dict(i2v["ema"])
    last = weights.pop(LAST)
    positions = torch.cat([torch.zeros_like(last), last], dim=1)
    files = {IMAGE_ENCODER_FILE: _saved(clip["ema"])}
    for model, extra in zip(MODELS, ({}, {"img_emb.emb_pos": positions}), strict=True):
        config = config_of(picture_config(DiTShape(), model))
        files[f"{model}/{FILES['dit']}"] = _saved(weights | extra)
        files[f"{model}/{CONFIG_FILE}"] = (json.dumps(config, indent=2) + "\n").encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    return sum(map(len, files.values()))


def _saved(weights: Mapping[str, Tensor]) -> bytes:
    return save({name: t.to(torch.bfloat16).contiguous() for name, t in weights.items()})
