"""Names of dtypes and devices -> torch's. The precision policy per model is its `keeps_fp32`."""

from __future__ import annotations

import torch

from engine.errors import ComponentError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def torch_dtype(name: str) -> torch.dtype:
    """`fp32`, `bf16` or `fp16` -> torch's dtype. Raises ComponentError for another name."""
    if name not in DTYPES:
        raise ComponentError(f"unknown dtype {name!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def torch_device(name: str) -> torch.device:
    """`auto` (the first CUDA card, then Apple's GPU, then the CPU), `cpu`, `cuda` (its first card), `cuda:N` or `mps`
    -> torch's device, a card always with its number.

    Raises ComponentError where this machine has no such device.
    """
    if name == "auto":
        # not the current one: packages of kernels change which that is
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    index = int(number or 0)
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(kind, 0)
    if index >= count:
        raise ComponentError(
            f"device {name!r} was asked for, but this machine has {count} of that type; "
            "use auto or cpu"
        )
    return torch.device(kind, index) if kind == "cuda" else torch.device(kind)
