"""Matrices as published files pack them, in our own spelling of each layout: fp32 [rows, columns] and the name of its
layer -> the tensors of a file."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

Packer = Callable[[Tensor, str], dict[str, Tensor]]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
_NUMBERS_OF_4_BITS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def note(**said: object) -> Tensor:
    """A note of ComfyUI, as it lies beside a weight."""
    return torch.tensor([*json.dumps(said).encode()], dtype=torch.uint8)


def fp8(dtype: torch.dtype, ending: str, *, shape: tuple[int, ...] = (), **said: object) -> Packer:
    """One scale for a matrix. ending: of the scale's name. said: a note, where there is any."""

    def pack(weight: Tensor, layer: str) -> dict[str, Tensor]:
        scale = (weight.abs().max() / torch.finfo(dtype).max).reshape(shape)
        tensors = {f"{layer}.weight": (weight / scale).to(dtype), layer + ending: scale}
        return tensors | ({f"{layer}.comfy_quant": note(**said)} if said else {})

    return pack


def by_row(weight: Tensor, layer: str) -> dict[str, Tensor]:
    """LightX2V's int8."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-5) / 127
    numbers = (weight / scale).round().to(torch.int8)
    return {f"{layer}.weight": numbers, f"{layer}.weight_scale": scale}


def quanto(weight: Tensor, layer: str) -> dict[str, Tensor]:
    """WanGP's int8."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return {
        f"{layer}.weight._data": (weight / scale).round().to(torch.int8),
        f"{layer}.weight._scale": scale,
        f"{layer}.input_scale": torch.ones(()),
        f"{layer}.output_scale": torch.ones(()),
    }


def musubi(weight: Tensor, layer: str) -> dict[str, Tensor]:
    """musubi-tuner's fp8: a scale for each 64 numbers of a row."""
    parts = weight.reshape(len(weight), -1, 64)
    scale = parts.abs().amax(2, keepdim=True) / 448
    numbers = (parts / scale).to(E4M3).reshape(weight.shape)
    return {f"{layer}.weight": numbers, f"{layer}.scale_weight": scale}


def in_squares(size: int, dtype: torch.dtype, **said: object) -> Packer:
    """convert_to_quant's: a scale for each square of `size` rows and columns."""
    largest = 127 if dtype == torch.int8 else torch.finfo(dtype).max

    def pack(weight: Tensor, layer: str) -> dict[str, Tensor]:
        squares = weight.reshape(len(weight) // size, size, -1, size)
        scale = squares.abs().amax((1, 3)) / largest
        numbers = squares / scale[:, None, :, None]
        numbers = (numbers.round() if dtype == torch.int8 else numbers).to(dtype)
        tensors = {f"{layer}.weight": numbers.reshape(weight.shape), f"{layer}.weight_scale": scale}
        return tensors | ({f"{layer}.comfy_quant": note(**said)} if said else {})

    return pack


def mxfp8(weight: Tensor, layer: str, *, as_bytes: bool = True) -> dict[str, Tensor]:
    """ComfyUI's: for each 32 numbers of a row a power of two, in tiles."""
    parts = weight.reshape(len(weight), -1, 32)
    exponents = (parts.abs().amax(2) / 448).clamp(min=2.0**-126).log2().ceil()
    numbers = (parts / exponents.exp2()[..., None]).to(E4M3).reshape(weight.shape)
    scale = in_tiles((exponents + 127).to(torch.uint8))
    return {
        f"{layer}.weight": numbers,
        f"{layer}.weight_scale": scale if as_bytes else scale.view(torch.float8_e8m0fnu),
        f"{layer}.comfy_quant": note(format="mxfp8"),
    }


def nvfp4(weight: Tensor, layer: str, *, as_bytes: bool = True) -> dict[str, Tensor]:
    """ComfyUI's: 4 bits a number, for each 16 of a row a scale in fp8, in tiles, and one for all."""
    parts = weight.reshape(len(weight), -1, 16)
    second = weight.abs().max() / (448 * 6)
    scale = (parts.abs().amax(2) / 6 / second).to(E4M3)
    wanted = parts / (scale.float() * second)[..., None]
    codes = (wanted.abs()[..., None] - _NUMBERS_OF_4_BITS).abs().argmin(-1) + 8 * (wanted < 0)
    codes = codes.reshape(len(weight), -1, 2).to(torch.uint8)
    tiles = in_tiles(scale.view(torch.uint8))
    return {
        f"{layer}.weight": codes[..., 0] * 16 + codes[..., 1],
        f"{layer}.weight_scale": tiles if as_bytes else tiles.view(E4M3),
        f"{layer}.weight_scale_2": second,
        f"{layer}.input_scale": torch.ones(()),
        f"{layer}.comfy_quant": note(format="nvfp4"),
    }


def in_tiles(scale: Tensor) -> Tensor:
    """Bytes [rows, blocks] in the order in which tensor cores read them, padded to tiles of 128 by 4."""
    rows, blocks = scale.shape
    down, across = -(-rows // 128), -(-blocks // 4)
    row, block = torch.arange(rows)[:, None], torch.arange(blocks)[None]
    tiles = torch.zeros(down * across, 32, 16, dtype=torch.uint8)
    tiles[row // 128 * across + block // 4, row % 32, 4 * (row % 128 // 32) + block % 4] = scale
    return tiles.reshape(down * 128, across * 4)
