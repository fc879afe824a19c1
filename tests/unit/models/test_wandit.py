"""The DiT against diffusers' `WanTransformer3DModel` on random weights.

fp32: 1e-5 relative, ten times the sum-order rounding seen (6e-7 to 2e-6 over two blocks). bf16: 4e-3 against
our own fp32, half of what diffusers reaches, because the residual stream stays in fp32.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.models.attention import biased, sdpa
from engine.models.diffusion.config import WanDiTConfig, keeps_fp32
from engine.models.diffusion.wandit import WanDiT, rope_table
from tests.oracles.parity import dit_pair, randomise, relative_error

SMALL = {"dim": 256, "num_heads": 2, "ffn_dim": 384, "num_layers": 2, "text_dim": 48}
LARGE = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
IMAGE_TOKENS = {"i2v": 257, "flf2v": 514}


def config(model_type: str = "t2v", **changes: object) -> WanDiTConfig:
    in_dim = 16 if model_type == "t2v" else 36
    return WanDiTConfig(**{**SMALL, "model_type": model_type, "in_dim": in_dim, **changes})


def inputs(cfg: WanDiTConfig, batch: int, size: tuple[int, int, int], length: int, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latents = randn(batch, cfg.in_dim, *size)
    timestep = torch.randint(0, 1000, (batch,), generator=generator)
    context = randn(batch, length, cfg.text_dim)
    image = None
    if cfg.has_image_branch:
        image = randn(batch, IMAGE_TOKENS[cfg.model_type], cfg.image_dim)
    return latents, timestep, context, image


def velocity(model: WanDiT, latents, timestep, text, image=None) -> torch.Tensor:
    """latents: noisy ones, and the given frames' behind them where the model takes such."""
    noisy, given = (
        latents.split([16, latents.shape[1] - 16], 1) if image is not None else (latents, None)
    )
    conditions = (
        {"text": text} if image is None else {"text": text, "image": image, "latents": given}
    )
    return model(noisy, timestep, model.prepare(conditions))


def reference(theirs, latents, timestep, context, image):
    padded = torch.nn.functional.pad(context, (0, 0, 0, 512 - context.shape[1]))
    pairs = None if image is None else image.view(-1, 257, image.shape[-1])
    with torch.no_grad():
        return theirs(latents, timestep, padded, encoder_hidden_states_image=pairs).sample


@pytest.mark.parametrize("model_type", ["t2v", "i2v", "flf2v"])
@pytest.mark.parametrize(
    ("batch", "size", "length"),
    [(1, (1, 2, 2), 1), (2, (3, 6, 10), 77), (1, (2, 10, 6), 512)],
)
def test_equals_diffusers(model_type: str, batch: int, size, length: int) -> None:
    cfg = config(model_type)
    ours, theirs = dit_pair(cfg)
    latents, timestep, context, image = inputs(cfg, batch, size, length)
    expected = reference(theirs, latents, timestep, context, image)
    assert expected.std() > 0.1
    actual = velocity(ours, latents, timestep, context, image)
    assert actual.dtype == torch.float32
    assert relative_error(actual, expected) < 1e-5


def test_defaults_are_the_published_ones() -> None:
    cfg = WanDiTConfig()
    assert (cfg.eps, cfg.text_len, cfg.freq_dim, cfg.text_dim) == (1e-6, 512, 256, 4096)
    assert (cfg.patch_size, cfg.head_dim) == ((1, 2, 2), 128)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 3e-3])
def test_block_equals_diffusers_at_every_magnitude(batch: int, scale: float) -> None:
    """Small inputs are where the epsilons of the norms count."""
    cfg = config(num_layers=1)
    ours, theirs = dit_pair(cfg)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 8, cfg.dim, generator=generator) * scale
    time = torch.randn(batch, 6, cfg.dim, generator=generator)
    text = torch.randn(batch, 512, cfg.dim, generator=generator)
    latents = torch.zeros(1, 16, 2, 4, 4)
    expected = theirs.blocks[0](x, text, time, theirs.rope(latents))
    block = ours.blocks[0]
    rope = rope_table(2, 2, 2, cfg.head_dim, torch.device("cpu"))
    keys_values = block.cross_attn.keys_values(text)
    actual = block(x, time, rope, sdpa, lambda q: biased(q, *keys_values, None))
    # what the block adds is what the norms shape; the input itself would hide it
    assert relative_error(actual - x, expected.detach() - x) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_image_embedding_equals_diffusers_at_every_magnitude(scale: float) -> None:
    cfg = config("i2v")
    ours, theirs = dit_pair(cfg)
    tokens = torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(3)) * scale
    expected = theirs.condition_embedder.image_embedder(tokens).detach()
    assert relative_error(ours.img_emb(tokens, torch.float32), expected) < 1e-5


def test_published_head_width_and_depth_equal_diffusers() -> None:
    cfg = config(dim=384, num_heads=3, num_layers=4, ffn_dim=512)
    ours, theirs = dit_pair(cfg, seed=3)
    args = inputs(cfg, 1, (5, 8, 8), 33)
    assert relative_error(velocity(ours, *args), reference(theirs, *args)) < 1e-5


def test_prompts_of_different_lengths_share_a_batch() -> None:
    cfg = config()
    ours, theirs = dit_pair(cfg)
    latents, timestep, context, _ = inputs(cfg, 2, (2, 4, 4), 40)
    context[1, 7:] = 0
    expected = reference(theirs, latents, timestep, context, None)
    assert relative_error(velocity(ours, latents, timestep, context), expected) < 1e-5
    known = ours.prepare({"text": context}, lengths=torch.tensor([40, 7]))
    assert relative_error(ours(latents, timestep, known), expected) < 1e-5


def test_one_padding_key_stands_for_all_of_them() -> None:
    cfg = config()
    ours, _ = dit_pair(cfg)
    latents, timestep, context, _ = inputs(cfg, 1, (2, 4, 4), 12)
    collapsed = ours.prepare({"text": context})
    assert collapsed.text[0][0].shape[2] == 13
    padded = torch.nn.functional.pad(context, (0, 0, 0, 500))
    written_out = ours.prepare({"text": padded}, lengths=torch.tensor([512]))
    assert written_out.text[0][0].shape[2] == 513  # 512 rows and one unused padding key
    distance = relative_error(
        ours(latents, timestep, collapsed), ours(latents, timestep, written_out)
    )
    assert distance < 1e-5


def test_one_timestep_serves_a_batch() -> None:
    cfg = config()
    ours, _ = dit_pair(cfg)
    latents, _, context, _ = inputs(cfg, 2, (2, 4, 4), 12)
    shared = velocity(ours, latents, torch.tensor([300]), context)
    repeated = velocity(ours, latents, torch.tensor([300, 300]), context)
    assert relative_error(shared, repeated) < 1e-5


def in_dtype(model: WanDiT, dtype: torch.dtype) -> WanDiT:
    """What loading does: the large matrices in `dtype`, what was published in fp32 in fp32."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if keeps_fp32(name) else dtype)
    return model


def test_bf16_stays_close_to_fp32_and_closer_than_diffusers() -> None:
    cfg = config(dim=256, num_heads=2, num_layers=4, ffn_dim=512)
    ours, theirs = dit_pair(cfg)
    latents, timestep, context, _ = inputs(cfg, 1, (2, 8, 8), 20)
    exact = velocity(ours, latents, timestep, context)
    distance = relative_error(
        velocity(in_dtype(ours, torch.bfloat16), latents, timestep, context), exact
    )
    theirs.to(torch.bfloat16)
    for name, parameter in theirs.named_parameters():
        if any(part in name for part in theirs._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    theirs_low = reference(theirs, latents.bfloat16(), timestep, context.bfloat16(), None)
    assert distance <= 4e-3
    assert distance < relative_error(theirs_low, exact)


def test_bf16_image_branch_stays_close_to_fp32() -> None:
    cfg = config("i2v")
    ours, _ = dit_pair(cfg)
    args = inputs(cfg, 1, (3, 6, 10), 60)
    low = in_dtype(ours, torch.bfloat16)
    assert low.img_emb.proj[0].weight.dtype == torch.float32
    assert low.img_emb.proj[1].weight.dtype == torch.bfloat16
    assert relative_error(velocity(low, *args), velocity(ours, *args)) <= 6e-3


class NoFloat64(TorchDispatchMode):
    """Stands in for a device without float64: no tensor on `meta` may have it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.is_meta:
                assert leaf.dtype not in (torch.float64, torch.complex128), func
        return out


def test_needs_no_float64_on_its_device() -> None:
    """Apple's GPU has none. The lengths are known, so that nothing is read back from the device."""
    with torch.device("meta"):
        model = WanDiT(config())
        latents, context = torch.zeros(1, 16, 2, 4, 4), torch.zeros(1, 9, 48)
    with NoFloat64():
        conditioning = model.prepare({"text": context}, lengths=torch.tensor([9]))
        assert conditioning.bias is not None
        predicted = model(latents, torch.tensor([500]), conditioning)
    assert predicted.shape == latents.shape


def test_padding_bias_survives_16_bits() -> None:
    cfg = config()
    ours, _ = dit_pair(cfg)
    context = torch.randn(1, 9, cfg.text_dim, generator=torch.Generator().manual_seed(0))
    bias = in_dtype(ours, torch.bfloat16).prepare({"text": context}).bias
    assert bias is not None
    assert torch.equal(bias.to(torch.bfloat16).float(), bias)
    counted = bias[0, 0, 0, 9:].double().exp().sum()
    assert abs(counted - 503) / 503 < 1e-3


@pytest.mark.parametrize(
    ("model_type", "changes", "parameters", "tensors"),
    [
        ("t2v", {}, 1_418_996_800, 825),
        ("t2v", LARGE, 14_288_491_584, 1095),
        ("i2v", {**LARGE, "in_dim": 36}, 16_394_878_784, 1303),
        ("flf2v", {**LARGE, "in_dim": 36}, 16_395_536_704, 1304),
    ],
)
def test_published_shapes(model_type: str, changes, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        model = WanDiT(WanDiTConfig(model_type=model_type, **changes))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors


def test_rope_shares_the_pairs_out_22_21_21() -> None:
    table = rope_table(5, 7, 9, 128, torch.device("cpu")).view(5, 7, 9, 64)
    angles = table.angle()
    last_row = 1.0 * 10000 ** (-20 / 21)
    assert angles[1, 0, 0, 0] == pytest.approx(1.0)
    assert angles[0, 1, 0, 22] == pytest.approx(1.0)
    assert angles[0, 0, 1, 43] == pytest.approx(1.0)
    assert angles[0, 0, 1, 63] == pytest.approx(last_row, rel=1e-5)
    assert torch.all(angles[3, 0, 0, 22:] == 0)
    assert torch.all(angles[0, 4, 0, :22] == 0)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(1, 15, 1, 4, 4), r"expected \[B,16,F,H,W\]"),
        (torch.zeros(1, 16, 1, 5, 4), "not a multiple of the patch"),
    ],
)
def test_refuses_latents_that_do_not_fit(latents: torch.Tensor, message: str) -> None:
    model = WanDiT(config())
    with pytest.raises(ValueError, match=message):
        velocity(model, latents, torch.tensor([1]), torch.zeros(1, 3, 48))


def test_refuses_context_that_does_not_fit() -> None:
    model = WanDiT(config())
    with pytest.raises(ValueError, match="expected \\[B, at most 512, 48\\]"):
        model.prepare({"text": torch.zeros(1, 513, 48)})
    with pytest.raises(ValueError, match="takes no condition 'image'"):
        model.prepare({"text": torch.zeros(1, 3, 48), "image": torch.zeros(1, 257, 1280)})
    with pytest.raises(ValueError, match="needs the condition 'image'"):
        WanDiT(config("i2v")).prepare({"text": torch.zeros(1, 3, 48)})


def test_refuses_given_frames_of_another_size() -> None:
    model = WanDiT(config("i2v"))
    conditions = {"text": torch.zeros(1, 3, 48), "image": torch.zeros(1, 257, 1280)}
    with pytest.raises(ValueError, match="needs the condition 'latents'"):
        model.prepare(conditions)
    given = model.prepare({**conditions, "latents": torch.zeros(1, 20, 1, 4, 6)})
    with pytest.raises(
        ValueError, match=r"'latents' has size \(1, 4, 6\), expected .* \(1, 4, 4\)"
    ):
        model(torch.zeros(1, 16, 1, 4, 4), torch.tensor([1]), given)


def test_refuses_a_config_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="model_type is 'v2v'"):
        WanDiTConfig(model_type="v2v")
    with pytest.raises(ValueError, match="even head dimension"):
        WanDiTConfig(dim=100, num_heads=3)


def test_gradients_reach_every_parameter() -> None:
    model = WanDiT(config(num_layers=1))
    randomise(model, 0)
    latents, timestep, context, _ = inputs(config(), 2, (1, 4, 4), 5)
    velocity(model, latents, timestep, context).square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
