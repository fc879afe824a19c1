"""Expected tensors: the published counts, and the very parameters of diffusers', transformers' and our modules.

Counts: of the published models, each instantiated from its own code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engine.checkpoints.known import expected
from engine.checkpoints.known.expected import PUBLISHED, CLIPShape, DiTShape, UMT5Shape
from engine.checkpoints.names import to_original
from engine.models.diffusion.wandit import WanDiT, WanDiTConfig
from engine.models.vae.wanvae import WanVAE, WanVAEConfig
from tests.oracles.later import diffusers, transformers

Shape = tuple[int, ...]

DIT_COUNTS = {
    "wan2.1-t2v-1.3b": (825, 1_418_996_800),
    "wan2.1-t2v-14b": (1095, 14_288_491_584),
    "wan2.1-i2v-14b": (1303, 16_394_878_784),
    "wan2.1-flf2v-14b": (1304, 16_395_536_704),
    "wan2.1-vace-1.3b": (1264, 2_153_972_032),
    "wan2.1-vace-14b": (1331, 17_337_592_896),
    "wan2.2-t2v-a14b": (1095, 14_288_491_584),
    "wan2.2-i2v-a14b": (1095, 14_288_901_184),
    "wan2.2-ti2v-5b": (825, 4_999_787_712),
}
# the VAE's smallest of each generation that diffusers builds, with every kind of layer
VAE22_DIFFUSERS: dict[str, Any] = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12,
    "out_channels": 12, "patch_size": 2, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip


def count(tensors: Mapping[str, Shape]) -> tuple[int, int]:
    return len(tensors), sum(math.prod(shape) for shape in tensors.values())


def on_meta(build: Callable[..., nn.Module], *args: Any, **sizes: Any) -> nn.Module:
    with torch.device("meta"):
        return build(*args, **sizes)


def state_shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def originals(component: str, naming: str, module: nn.Module) -> dict[str, Shape]:
    """The module's tensors under their original names, parts joined, axes of one left out."""
    joined: dict[str, dict[int, Shape]] = {}
    for name, shape in state_shapes(module).items():
        target = to_original(component, naming, name)
        if target is not None:
            original, part = target
            assert part not in joined.setdefault(original, {}), f"{name} is there twice"
            joined[original][part] = shape
    for parts in joined.values():
        assert sorted(parts) == list(range(len(parts)))
    return {
        name: without_ones((sum(part[0] for part in parts.values()), *parts[0][1:]))
        for name, parts in joined.items()
    }


def without_ones(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)


def squeezed(tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name: without_ones(shape) for name, shape in tensors.items()}


def diffusers_dit(shape: DiTShape) -> nn.Module:
    sizes: dict[str, Any] = {
        "num_attention_heads": shape.dim // 128,
        "attention_head_dim": 128,
        "in_channels": shape.in_dim,
        "out_channels": shape.out_dim,
        "ffn_dim": shape.ffn_dim,
        "num_layers": shape.num_layers,
    }
    if shape.image_branch:
        sizes |= {"image_dim": 1280, "added_kv_proj_dim": shape.dim}
        sizes |= {"pos_embed_seq_len": 514 if shape.emb_pos else None}
    if shape.vace_layers:
        step = shape.num_layers // shape.vace_layers
        layers = list(range(0, shape.num_layers, step))
        return on_meta(
            diffusers.WanVACETransformer3DModel, **sizes, vace_layers=layers, vace_in_channels=96
        )
    return on_meta(diffusers.WanTransformer3DModel, **sizes)


def shortened(shape: DiTShape) -> DiTShape:
    """The model with the fewest blocks that have every kind of tensor; its widths stay."""
    return replace(shape, num_layers=4, vace_layers=2 if shape.vace_layers else 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_dit_counts(name: str) -> None:
    assert count(expected.dit(PUBLISHED[name])) == DIT_COUNTS[name]
    assert PUBLISHED.keys() == DIT_COUNTS.keys()


def test_published_counts_of_the_other_components() -> None:
    assert count(expected.vae()) == (194, 126_892_531)
    assert count(expected.vae22()) == (196, 704_688_668)
    assert count(expected.umt5(UMT5Shape())) == (242, 5_680_910_336)
    # 519 at Hugging Face, which has queries, keys and values apart: 32 times two matrices and two biases more
    assert count(expected.clip(CLIPShape())) == (519 - 32 * 4, 630_766_080)


def test_the_experts_of_wan22_have_the_shape_of_the_wan21_model_which_comes_first() -> None:
    same = [name for name, shape in PUBLISHED.items() if shape == PUBLISHED["wan2.1-t2v-14b"]]
    assert same == ["wan2.1-t2v-14b", "wan2.2-t2v-a14b"]
    assert len(set(PUBLISHED.values())) == len(PUBLISHED) - 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_dit_is_that_of_diffusers(name: str) -> None:
    shape = shortened(PUBLISHED[name])
    theirs = originals("denoiser", "diffusers", diffusers_dit(shape))
    assert theirs == squeezed(expected.dit(shape))


def test_a_whole_published_dit_is_that_of_diffusers() -> None:
    shape = PUBLISHED["wan2.1-vace-1.3b"]
    theirs = originals("denoiser", "diffusers", diffusers_dit(shape))
    assert theirs == squeezed(expected.dit(shape))


@pytest.mark.parametrize("model_type", ["t2v", "i2v", "flf2v"])
def test_dit_is_ours_axis_by_axis(model_type: str) -> None:
    shape = replace(PUBLISHED[f"wan2.1-{model_type}-14b"], num_layers=3)
    config = WanDiTConfig(
        model_type=model_type,
        dim=5120,
        ffn_dim=13824,
        num_heads=40,
        num_layers=3,
        in_dim=shape.in_dim,
    )
    assert state_shapes(on_meta(WanDiT, config)) == expected.dit(shape)


def test_vae_is_that_of_diffusers_and_ours() -> None:
    theirs = on_meta(diffusers.AutoencoderKLWan)
    assert originals("vae", "diffusers", theirs) == squeezed(expected.vae())
    assert state_shapes(on_meta(WanVAE, WanVAEConfig())) == expected.vae()
    assert state_shapes(on_meta(WanVAE, WanVAEConfig(dim=12))) == expected.vae(12)


def test_vae22_is_that_of_diffusers() -> None:
    theirs = on_meta(diffusers.AutoencoderKLWan, **VAE22_DIFFUSERS)
    assert originals("vae", "diffusers-2.2", theirs) == squeezed(expected.vae22())


def test_umt5_is_that_of_transformers() -> None:
    config = transformers.UMT5Config(
        vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    theirs = originals(
        "text_encoder", "huggingface", on_meta(transformers.UMT5EncoderModel, config)
    )
    assert theirs == squeezed(expected.umt5(UMT5Shape()))


def test_umt5_with_heads_of_another_width_together_than_the_model() -> None:
    config = transformers.UMT5Config(
        vocab_size=96, d_model=64, d_kv=8, d_ff=80, num_layers=2, num_heads=4,
        relative_attention_num_buckets=16, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    shape = UMT5Shape(vocab=96, dim=64, ffn=80, layers=2, heads=4, buckets=16, inner=32)
    theirs = originals(
        "text_encoder", "huggingface", on_meta(transformers.UMT5EncoderModel, config)
    )
    assert theirs == expected.umt5(shape)


def test_clip_is_that_of_transformers() -> None:
    config = transformers.CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
        image_size=224, patch_size=14,
    )  # fmt: skip
    theirs = on_meta(transformers.CLIPVisionModel, config)
    assert len(state_shapes(theirs)) == 519
    assert originals("image_encoder", "huggingface", theirs) == squeezed(expected.clip(CLIPShape()))


DIT_SHAPES = st.builds(
    DiTShape,
    dim=st.integers(2, 64),
    ffn_dim=st.integers(2, 64),
    num_layers=st.integers(1, 12),
    in_dim=st.integers(1, 52),
    out_dim=st.integers(1, 48),
    text_dim=st.integers(1, 64),
    freq_dim=st.integers(1, 64),
    patch_size=st.sampled_from([(1, 2, 2), (1, 1, 1), (2, 4, 4)]),
    image_branch=st.just(True),
    image_dim=st.integers(2, 64),
    emb_pos=st.booleans(),
    vace_layers=st.integers(1, 4),
    vace_in_dim=st.integers(1, 96),
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_dits_are_read_off_their_tensors(name: str) -> None:
    assert expected.dit_shape(expected.dit(PUBLISHED[name])) == PUBLISHED[name]


@given(shape=DIT_SHAPES)
def test_dit_sizes_are_read_off_their_tensors(shape: DiTShape) -> None:
    assert expected.dit_shape(expected.dit(shape)) == shape


def test_the_other_sizes_are_read_off_their_tensors() -> None:
    text = UMT5Shape(vocab=96, dim=64, ffn=80, layers=3, heads=4, buckets=16, inner=32)
    image = CLIPShape(width=160, layers=3, mlp=96, patch=7, tokens=17)
    assert expected.umt5_shape(expected.umt5(text)) == text
    assert expected.umt5_shape(expected.umt5(UMT5Shape())) == UMT5Shape()
    assert expected.clip_shape(expected.clip(image)) == image
    assert expected.vae_dim(expected.vae(12)) == 12


def test_clip_positions_may_lack_the_leading_axis() -> None:
    """As Hugging Face has them."""
    shapes = expected.clip(CLIPShape()) | {"visual.pos_embedding": (257, 1280)}
    assert expected.clip_shape(shapes) == CLIPShape()


def test_the_vae_of_wan22_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Wan 2\.2"):
        expected.vae_dim(expected.vae22())


def test_a_missing_block_does_not_make_the_model_another() -> None:
    shape = PUBLISHED["wan2.1-t2v-1.3b"]
    shapes = expected.dit(shape)
    gone = {name for name in shapes if name.startswith("blocks.7.")}
    assert len(gone) == 27
    rest = {name: shapes[name] for name in shapes.keys() - gone}
    assert expected.dit_shape(rest) == shape


def test_an_absurd_block_number_makes_no_absurd_model() -> None:
    shapes = expected.dit(DiTShape(dim=8, ffn_dim=8, num_layers=2))
    shapes |= {"blocks.4000000000.modulation": (1, 6, 8), "blocks.x.modulation": (1, 6, 8)}
    assert expected.dit_shape(shapes).num_layers == 2


READERS: list[tuple[Callable[[Any], object], dict[str, Shape]]] = [
    (
        expected.dit_shape,
        expected.dit(
            DiTShape(dim=8, ffn_dim=8, num_layers=1, image_branch=True, emb_pos=True, vace_layers=1)
        ),
    ),
    (expected.umt5_shape, expected.umt5(UMT5Shape(layers=1))),
    (expected.clip_shape, expected.clip(CLIPShape(layers=1))),
    (expected.vae_dim, expected.vae()),
]


@pytest.mark.parametrize(("read", "shapes"), READERS)
def test_what_is_missing_is_named(read: Callable[[Any], object], shapes: dict[str, Shape]) -> None:
    """Every tensor whose absence stops the reading is named; most are not needed for it."""
    named = 0
    for name in shapes:
        try:
            read({other: shape for other, shape in shapes.items() if other != name})
        except ValueError as error:
            assert name in str(error)  # noqa: PT017
            named += 1
    assert 2 <= named <= 6


def wrong_shapes(shape: Shape) -> Iterator[Shape]:
    """Every number of axes up to six, and the right number with each axis empty in turn."""
    yield from ((8,) * num_axes for num_axes in range(7))
    yield from ((*shape[:axis], 0, *shape[axis + 1 :]) for axis in range(len(shape)))


@pytest.mark.parametrize(("read", "shapes"), READERS)
def test_tensors_of_any_shape_are_read_or_refused_by_name(
    read: Callable[[Any], object], shapes: dict[str, Shape]
) -> None:
    """What reads sizes off a stranger's file takes no axis that is not there, and no size of zero that someone
    will divide by."""
    refused = set()
    for name in shapes:
        for shape in wrong_shapes(shapes[name]):
            try:
                sizes = read(shapes | {name: shape})
            except ValueError as error:
                said = str(error)
                assert name in said or "latent channels" in said
                refused.add(name)
                continue
            assert 0 not in numbers_of(sizes), f"{name} as {shape} makes {sizes}"
    assert 2 <= len(refused) <= 8


def numbers_of(sizes: Any) -> list[int]:
    if isinstance(sizes, int):
        return [sizes]
    values = [getattr(sizes, field.name) for field in fields(sizes)]
    return [value for value in values if type(value) is int]
