"""What the server is sent: bodies that are good, and such that are none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from engine.remote.contract import JSON, TENSORS, Condition, Prompt, condition_shape, path_of
from engine.remote.wire import encoded


def request_of(kind: str) -> tuple[str, str]:
    """Path and content type of the first thing that a kind is asked for."""
    names = {
        "text_encoder": "encode_text", "image_encoder": "encode_image", "denoiser": "denoise", "vae": "vae_decode"
    }  # fmt: skip
    return path_of(names[kind]), JSON if kind == "text_encoder" else TENSORS


def good_body(kind: str) -> bytes:
    """One that is good but for the sizes, which are anybody's."""
    if kind == "text_encoder":
        return msgspec.json.encode(Prompt(prompt="a red circle"))
    if kind == "image_encoder":
        return b"".join(encoded({"picture.0": torch.zeros(3, 16, 16)}))
    tensor = torch.zeros(1, 4, 2, 4, 4)
    if kind == "vae":
        return b"".join(encoded({"latents": tensor}))
    return b"".join(encoded({"timestep": torch.zeros(1), "x": tensor}))


def renamed(body: bytes) -> bytes:
    """With another name of its tensor, as long as the right one."""
    for name, other in ((b'"latents"', b'"lateral"'), (b'"x"', b'"y"'), (b"picture.", b"drawing.")):
        body = body.replace(name, other)
    return body


def overlapping() -> bytes:
    """Tensors of every kind's names that share their bytes."""
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        for name in ("latents", "picture.0", "timestep", "x")
    }
    text = msgspec.json.encode(header)
    return len(text).to_bytes(8, "little") + text + bytes(8)


def waves(*shape: int) -> Tensor:
    """fp32, in [-1, 1]."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float32)).reshape(shape)


def conditions_of(name: str, facts: Mapping[str, Any], size: Sequence[int]) -> list[bytes]:
    """Two bodies of a condition. size: frames, rows and columns of the noisy latents."""
    wanted = condition_shape(name, facts)
    sizes = size if name == "latents" else [3]
    free = iter(sizes)
    shape = [next(free) if length is None else length for length in wanted]
    metadata = None if name == "text" else Condition(name=name)
    return [
        b"".join(encoded({"condition": each.contiguous()}, metadata)) for each in waves(2, *shape)
    ]


def digest_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
