"""CLIP's image tower against transformers', from files of every layout, and what it is shown of a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from engine.components.providers import clip
from engine.errors import CheckpointError
from engine.models.image_encoders.clip import looked_at
from engine.models.image_encoders.config import CLIPConfig as Sizes
from presets.spec.components import ImageEncoderSpec
from store.index.index import open_index
from tests.oracles.later import transformers

Tensors = dict[str, Tensor]

WIDTH, LAYERS, SIDE = 160, 3, 16
VISION = {
    "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "image_size": SIDE, "patch_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
# published name <- those of transformers, joined; {i}: the number of a layer
_ORIGINAL = {
    "cls_embedding": ["embeddings.class_embedding"],
    "pos_embedding": ["embeddings.position_embedding.weight"],
    "patch_embedding.weight": ["embeddings.patch_embedding.weight"],
    "pre_norm.{p}": ["pre_layrnorm.{p}"],
    "post_norm.{p}": ["post_layernorm.{p}"],
    "transformer.{i}.norm1.{p}": ["encoder.layers.{i}.layer_norm1.{p}"],
    "transformer.{i}.norm2.{p}": ["encoder.layers.{i}.layer_norm2.{p}"],
    "transformer.{i}.attn.to_qkv.{p}": [f"encoder.layers.{{i}}.self_attn.{each}_proj.{{p}}" for each in "qkv"],
    "transformer.{i}.attn.proj.{p}": ["encoder.layers.{i}.self_attn.out_proj.{p}"],
    "transformer.{i}.mlp.0.{p}": ["encoder.layers.{i}.mlp.fc1.{p}"],
    "transformer.{i}.mlp.2.{p}": ["encoder.layers.{i}.mlp.fc2.{p}"],
}  # fmt: skip


def vision_model() -> transformers.CLIPVisionModel:
    torch.manual_seed(0)
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)).eval()
    with torch.no_grad():  # what it begins with is small and has no biases
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    return model


@cache
def weights() -> Tensors:
    """Under the names that files of transformers have."""
    held = vision_model().state_dict()
    return {
        f"vision_model.{name.removeprefix('vision_model.')}": tensor
        for name, tensor in held.items()
        if not name.endswith("position_ids")
    }


def original(tensors: Tensors) -> Tensors:
    found: Tensors = {}
    for ours, theirs in _ORIGINAL.items():
        for i in range(LAYERS) if "{i}" in ours else [0]:
            for p in ("weight", "bias") if "{p}" in ours else [""]:
                parts = [tensors[f"vision_model.{each.format(i=i, p=p)}"] for each in theirs]
                found[f"visual.{ours.format(i=i, p=p)}"] = torch.cat(parts)
    found["visual.cls_embedding"] = found["visual.cls_embedding"].view(1, 1, -1)
    found["visual.pos_embedding"] = found["visual.pos_embedding"][None]
    return found


def published_pth(folder: Path) -> Tensors:
    """With the text tower, the projection and the scale in it, as Wan-AI has it."""
    others = {
        "visual.head": torch.ones(WIDTH, 32),
        "textual.token_embedding.weight": torch.ones(8, 4),
        "textual.blocks.0.attn.q.weight": torch.ones(4, 4),
        "log_scale": torch.tensor(1.0),
    }
    torch.save(original(weights()) | others, folder / "models_clip_open-clip-huge-14.pth")
    return weights()


def huggingface(folder: Path) -> Tensors:
    vision_model().save_pretrained(folder)
    return weights()


def huggingface_whole(folder: Path) -> Tensors:
    """Both towers; its post norm, which nobody asks for, included."""
    text = transformers.CLIPTextConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )  # fmt: skip
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=text,
            vision_config=transformers.CLIPVisionConfig(**VISION),
            projection_dim=8,
        )
    )
    stems = {f"vision_model.{name.removeprefix('vision_model.')}" for name in weights()}
    model.load_state_dict({name: weights()[name] for name in stems}, strict=False)
    model.save_pretrained(folder)
    return weights()


def comfyui(folder: Path) -> Tensors:
    half = {name: tensor.half() for name, tensor in weights().items()}
    more = {"visual_projection.weight": torch.ones(8, WIDTH).half()}
    save_file(half | more, folder / "clip_vision_h.safetensors")
    return {name: tensor.float() for name, tensor in half.items()}


def kijai(folder: Path) -> Tensors:
    half = {name: tensor.half() for name, tensor in weights().items()}
    save_file(original(half), folder / "open-clip_visual_fp16.safetensors")
    return {name: tensor.float() for name, tensor in half.items()}


def fp8_scaled(folder: Path) -> Tensors:
    stored: Tensors = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    meant: Tensors = {}
    for name, tensor in weights().items():
        if ".layers." in name and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            squeezed = (tensor / scale).to(torch.float8_e4m3fn)
            stored[name] = squeezed
            stored[f"{name.removesuffix('weight')}scale_weight"] = scale
            meant[name] = squeezed.float() * scale
        else:
            stored[name] = tensor.half()
            meant[name] = tensor.half().float()
    save_file(stored, folder / "clip_vision_h_fp8_scaled.safetensors")
    return meant


@pytest.mark.parametrize(
    "write", [published_pth, huggingface, huggingface_whole, comfyui, kijai, fp8_scaled]
)
def test_its_tokens_are_those_of_transformers(
    tmp_path: Path, write: Callable[[Path], Tensors]
) -> None:
    meant = write(tmp_path)
    theirs = vision_model()
    has_prefix = any(name.startswith("vision_model.") for name in theirs.state_dict())
    theirs.load_state_dict(
        meant
        if has_prefix
        else {name.removeprefix("vision_model."): each for name, each in meant.items()}
    )
    spec = ImageEncoderSpec(checkpoint=str(tmp_path), device="cpu", dtype="fp32")
    with open_index(tmp_path / "store") as index:
        about = clip.describe(spec, index)
    assert about.facts == {"image_dim": WIDTH, "image_tokens": 17}
    pictures = [torch.rand(3, 20, 31) * 2 - 1, torch.rand(3, SIDE, SIDE) * 2 - 1]
    found = clip.use(clip.load(spec, about), spec).encode(pictures)
    with torch.no_grad():
        pixels = torch.stack([looked_at(picture, SIDE) for picture in pictures])
        wanted = theirs(pixels, output_hidden_states=True).hidden_states[-2]
    assert found.shape == (2 * 17, WIDTH)
    assert float((found - wanted.flatten(0, 1)).abs().max()) == 0.0


def test_half_precision_is_near(tmp_path: Path) -> None:
    huggingface(tmp_path)
    pictures = [torch.rand(3, 20, 31) * 2 - 1]
    found = {}
    for dtype in ("fp32", "fp16", "bf16"):
        spec = ImageEncoderSpec(checkpoint=str(tmp_path), device="cpu", dtype=dtype)
        found[dtype] = clip.use(clip.load(spec), spec).encode(pictures)
    assert [each.dtype for each in found.values()] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]
    for dtype, bound in (("fp16", 0.01), ("bf16", 0.08)):
        assert float((found[dtype].float() - found["fp32"]).abs().max()) < bound


def test_how_it_looks_counts_where_it_is_not_the_published_way(tmp_path: Path) -> None:
    comfyui(tmp_path)
    with open_index(tmp_path / "store") as index:
        stretched, cropped = (
            clip.describe(ImageEncoderSpec(checkpoint=str(tmp_path), fit=fit), index)
            for fit in ("stretch", "crop")
        )
    assert cropped.identity == {**stretched.identity, "fit": "crop"}
    assert cropped.resident == stretched.resident  # one model in memory serves both


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("embeddings.position_embedding.weight", (6, WIDTH), "with 6 tokens, expected a multiple of 80 and a square"),
        ("embeddings.position_embedding.weight", (17, 8), "misshapen"),
        ("pre_layrnorm.bias", None, "1 missing tensor (visual.pre_norm.bias)"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, words: str
) -> None:
    tensors = dict(weights())
    del tensors[f"vision_model.{name}"]
    if shape is not None:
        tensors[f"vision_model.{name}"] = torch.zeros(shape)
    save_file(tensors, tmp_path / "clip.safetensors")
    spec = ImageEncoderSpec(checkpoint=str(tmp_path / "clip.safetensors"))
    with pytest.raises(CheckpointError) as told, open_index(tmp_path / "store") as index:
        clip.describe(spec, index)
    assert words in str(told.value)
    assert told.value.key == "components.image_encoder.checkpoint"


@pytest.mark.parametrize("size", [(480, 832), (224, 224), (97, 33), (1, 500)])
def test_a_picture_is_stretched_as_published(size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size) * 2 - 1
    # wan/modules/clip.py: interpolate, back to [0,1], normalise
    wanted = F.interpolate(picture[None], (224, 224), mode="bicubic", align_corners=False)[0]
    wanted = wanted.mul(0.5).add(0.5)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    assert torch.equal(looked_at(picture, 224), (wanted - mean) / std)


@pytest.mark.parametrize("size", [(480, 832), (832, 480), (300, 300), (225, 640)])
def test_the_middle_of_a_picture_is_what_transformers_crops(size: tuple[int, int]) -> None:
    """Theirs rounds to 8 bits after the resize, which is up to 0.5/255/std, and clamps."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    image = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
    wanted = transformers.CLIPImageProcessor()(image, return_tensors="pt")["pixel_values"][0]
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    difference = (looked_at(picture, 224, "crop") - wanted).abs()
    assert float(difference.mean()) < 0.02
    assert float(difference.max()) < 0.2


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 2)])
def test_of_a_very_long_picture_the_middle_alone_is_enlarged(size: tuple[int, int]) -> None:
    """Whole, it would be 70 GB."""
    picture = torch.full((3, *size), -1.0)
    rows, columns = (length // 2 for length in size)
    picture[:, max(0, rows - 9) : rows + 9, max(0, columns - 9) : columns + 9] = 1.0
    assert float(looked_at(picture, 224, "crop").min()) > 1.0


def test_the_published_sizes_look_at_224_pixels() -> None:
    assert Sizes().side == 224
