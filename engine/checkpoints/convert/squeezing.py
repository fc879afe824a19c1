"""Matrices as ComfyUI stores them with its notes: codes, their scale, and a line that says what they are."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from engine.models.quantised.rounding import DTYPES, rounded_rows

# Without the second, ComfyUI would multiply fp8 with activations in fp8.
_NOTES: dict[str, dict[str, object]] = {
    "int8": {"format": "int8_tensorwise"},
    "fp8": {"format": "float8_e4m3fn", "full_precision_matrix_mult": True},
}


def codes_and_scale(values: Tensor, quantise: str, *, by_row: bool) -> tuple[Tensor, Tensor]:
    """fp32 [R, K] -> codes [R, K] and the scale that they are multiplied by, fp32 [R, 1] or one number of no axes.

    quantise: "int8" or "fp8".
    """
    if by_row:
        return rounded_rows(values, DTYPES[quantise])
    codes, scale = rounded_rows(values.reshape(1, -1), DTYPES[quantise])
    return codes.view(values.shape), scale[0, 0]


def note_of(quantise: str) -> Tensor:
    """What lies beside a matrix and says how it is stored, as bytes."""
    return torch.tensor([*json.dumps(_NOTES[quantise]).encode()], dtype=torch.uint8)
