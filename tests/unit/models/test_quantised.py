"""Packed weights against the libraries that others unpack them with, and products against whole numbers."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from engine.checkpoints.formats.table import BLOCKS
from engine.models.quantised import linear, products
from engine.models.quantised.gguf_blocks import UNPACKED, unpacked
from engine.models.quantised.linear import QuantLinear
from engine.models.quantised.products import fp8_products, integer_products
from engine.models.quantised.rounding import rounded_rows
from engine.models.quantised.scheme import Scheme
from tests.oracles.later import comfy_layouts

E4M3 = torch.float8_e4m3fn


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_every_type_of_gguf_that_is_read_is_unpacked() -> None:
    assert UNPACKED.keys() == BLOCKS.keys()


@pytest.mark.parametrize("kind", UNPACKED)
def test_blocks_of_any_bytes_are_those_of_the_gguf_package_bit_for_bit(kind: str) -> None:
    num_bytes, num_weights = BLOCKS[kind]
    data = np.random.default_rng(0).integers(0, 256, (500, num_bytes), np.uint8)
    with np.errstate(all="ignore"):  # some scales of random bytes are infinite
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    actual = unpacked(kind, torch.from_numpy(data))
    assert actual.shape == (500, num_weights)
    same = actual.view(torch.int32).numpy() == expected.view(np.int32)
    assert (same | (np.isnan(expected) & np.isnan(actual.numpy()))).all()


def test_int8_rows_are_comfyuis() -> None:
    values = random(7, 96)
    values[3] = 0
    codes, scale = rounded_rows(values, torch.int8)
    theirs, stored = comfy_layouts.TensorWiseINT8Layout.quantize(values, per_channel=True)
    assert torch.equal(codes, theirs)
    assert torch.equal(scale, stored.scale)
    assert ((codes.float() * scale - values).abs() <= scale / 2 * 1.0001).all()


def test_fp8_rows_use_all_of_e4m3() -> None:
    values = random(7, 96) * torch.logspace(-6, 6, 7)[:, None]
    codes, scale = rounded_rows(values, E4M3)
    assert (codes.float().abs().amax(1) == 448).all()
    error = (codes.float() * scale - values).abs()
    assert (error <= values.abs() / 16 + scale / 512).all()  # 3 bits of mantissa


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 5), (40, 3000, 24)])
@pytest.mark.parametrize("has_vnni", [False, True])
def test_products_of_int8_are_whole_numbers(monkeypatch, shape, has_vnni: bool) -> None:
    monkeypatch.setattr(products, "_has_vnni", lambda: has_vnni)
    rows, columns, others = shape
    a = torch.full((rows, columns), -127, dtype=torch.int8)
    b = torch.randint(-128, 128, (others, columns), dtype=torch.int8)
    b[0] = -127  # the largest sum there is
    assert torch.equal(integer_products(a, b), a.long() @ b.long().T)


@pytest.mark.parametrize("is_public", [False, True])
def test_products_of_fp8_have_both_scales(monkeypatch, is_public: bool) -> None:
    """On the CPU torch has the same operation, slowly."""
    if is_public and not hasattr(torch.nn.functional, "scaled_mm"):
        pytest.skip("torch before 2.10")
    if not is_public:
        monkeypatch.delattr(torch.nn.functional, "scaled_mm", raising=False)
    a, of_a = rounded_rows(random(5, 32), E4M3)
    b, of_b = rounded_rows(random(16, 32, seed=1), E4M3)
    actual = fp8_products(a, b, of_a, of_b.T.contiguous(), dtype=torch.float32)
    assert torch.allclose(actual, (a.float() * of_a) @ (b.float() * of_b).T, atol=1e-5)


def layer(codes: torch.Tensor, scale: torch.Tensor | None, scheme: Scheme, dtype=torch.float32):
    like = nn.Linear(codes.shape[1], codes.shape[0])
    like.bias.data = random(codes.shape[0], seed=9).to(dtype)
    held = {"weight": codes} | ({} if scale is None else {"weight_scale": scale})
    return QuantLinear(like, scheme, dtype, held)


@pytest.mark.parametrize("block", [(0, 0), (1, 0), (1, 16), (4, 16), (3, 0)])
def test_a_scale_multiplies_its_block_in_slices_of_any_size(monkeypatch, block) -> None:
    rows, columns = block
    codes = torch.randint(-127, 128, (10, 40), dtype=torch.int8)
    shape = (-(-10 // rows), -(-40 // columns) if columns else 1) if rows else (1,)
    scale = random(*shape, seed=2)
    expected = torch.empty(10, 40)
    for row in range(10):
        for column in range(40):
            place = (row // rows, column // columns if columns else 0) if rows else 0
            expected[row, column] = codes[row, column].float() * scale[place]
    quant = layer(codes, scale, Scheme(block=block))
    for weights in (1, 80, 160, 1 << 20):
        monkeypatch.setattr(linear, "SLICE_WEIGHTS", weights)
        assert torch.equal(quant.numbers(), expected)


@pytest.mark.parametrize("rotation", [0, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantised_int8_activations_are_near_the_plain_ones(dtype, rotation: int) -> None:
    weight, x = random(24, 64), random(2, 9, 64, seed=3).to(dtype)
    stored = comfy_layouts.TensorWiseINT8Layout.quantize(
        weight, per_channel=True, convrot=bool(rotation), convrot_groupsize=rotation or 256
    )
    codes, scale = stored[0], stored[1].scale
    plain = layer(codes, scale, Scheme(block=(1, 0), rotation=rotation), dtype)(x).float()
    rounded = layer(
        codes, scale, Scheme(block=(1, 0), rotation=rotation, rounds_activations=True), dtype
    )(x)
    assert rounded.dtype == dtype
    assert 0 < (rounded.float() - plain).norm() / plain.norm() < 0.015


def test_int8_activations_are_integers_times_both_scales() -> None:
    codes, scale = rounded_rows(random(24, 64), torch.int8)
    quant, x = layer(codes, scale, Scheme(block=(1, 0), rounds_activations=True)), random(9, 64)
    of_x, each = rounded_rows(x, torch.int8)
    sums = (of_x.long() @ codes.long().T).float()
    assert torch.equal(quant(x), sums * each * scale.flatten() + quant.bias)


@pytest.mark.parametrize("block", [(0, 0), (1, 0)])
def test_quantised_fp8_activations_without_such_products_are_rounded_alike(block) -> None:
    codes, scale = rounded_rows(random(24, 64), E4M3)
    scale = scale if block[0] else scale[:1, 0]
    quant, x = layer(codes, scale, Scheme(block=block, rounds_activations=True)), random(9, 64)
    of_x, each = rounded_rows(x, E4M3)
    weight = codes.float() * scale
    assert torch.equal(quant(x), nn.functional.linear(of_x.float() * each, weight, quant.bias))


def test_nothing_looks_at_a_number() -> None:
    """Under a dry run there is none."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for device in ("cpu", "cuda"):
        with FakeTensorMode(), torch.no_grad(), torch.device(device):
            x = torch.empty(2, 20, 256, dtype=torch.bfloat16)
            like = nn.Linear(256, 24, bias=False, device="meta")
            for dtype in (torch.int8, E4M3):
                held = {
                    "weight": torch.empty(24, 256, dtype=dtype),
                    "weight_scale": torch.empty(24, 1),
                }
                for rounds in (False, True):
                    scheme = Scheme(block=(1, 0), rounds_activations=rounds)
                    assert QuantLinear(like, scheme, x.dtype, held)(x).shape == (2, 20, 24)
            for kind, (num_bytes, num_weights) in BLOCKS.items():
                blocks = torch.empty(24, 256 // num_weights, num_bytes, dtype=torch.uint8)
                quant = QuantLinear(like, Scheme(kind), x.dtype, {"weight": blocks})
                assert quant(x).shape == (2, 20, 24)
