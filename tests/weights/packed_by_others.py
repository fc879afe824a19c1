"""Writes tests/data/packed_by_others.safetensors: weights as quanto and musubi-tuner pack them, with the numbers that
they themselves make of these. Both are too large to be installed for tests:

    git clone https://github.com/kohya-ss/musubi-tuner && git -C musubi-tuner checkout 30c658c
    pip install optimum-quanto==0.2.7 tqdm
    PYTHONPATH=musubi-tuner/src python -m tests.weights.packed_by_others
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FILE = Path(__file__).parents[1] / "data" / "packed_by_others.safetensors"
NUMBERS = "numbers:"  # before the name of a layer: what its packer reads


def _of_quanto(dtype: torch.dtype, kind: str, generator: torch.Generator) -> dict[str, Tensor]:
    from optimum.quanto import freeze, qtypes, quantize

    layer = torch.nn.Linear(64, 24, bias=False, dtype=dtype)
    layer.weight.data = torch.randn(24, 64, generator=generator).to(dtype)
    name = f"quanto-{kind}-{str(dtype).removeprefix('torch.')}"
    model = torch.nn.Sequential()
    model.add_module(name, layer)
    quantize(model, weights=qtypes[kind])
    freeze(model)
    return model.state_dict() | {NUMBERS + name: model[0].weight.dequantize()}


def _of_musubi(
    dtype: torch.dtype, exponent_bits: int, columns: int, generator: torch.Generator
) -> dict[str, Tensor]:
    from musubi_tuner.modules.fp8_optimization_utils import (
        fp8_linear_forward_patch,
        optimize_state_dict_with_fp8,
    )

    name = (
        f"musubi-e{exponent_bits}m{7 - exponent_bits}-{columns}-{str(dtype).removeprefix('torch.')}"
    )
    weight = torch.randn(24, columns, generator=generator).to(dtype)
    stored = optimize_state_dict_with_fp8(
        {f"{name}.weight": weight}, None, exp_bits=exponent_bits, mantissa_bits=7 - exponent_bits
    )
    layer = torch.nn.Linear(columns, 24, bias=False)
    layer.weight = torch.nn.Parameter(stored[f"{name}.weight"], requires_grad=False)
    layer.scale_weight = stored[f"{name}.scale_weight"]
    numbers = fp8_linear_forward_patch(layer, torch.eye(columns, dtype=dtype)).T.contiguous()
    return stored | {NUMBERS + name: numbers}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for kind in ("qint8", "qfloat8_e4m3fn", "qfloat8_e5m2"):
            tensors |= _of_quanto(dtype, kind, generator)
        for exponent_bits in (4, 5):
            tensors |= _of_musubi(dtype, exponent_bits, 128, generator)
        tensors |= _of_musubi(dtype, 4, 48, generator)  # no whole blocks: by row
    save_file(tensors, FILE)


if __name__ == "__main__":
    main()
