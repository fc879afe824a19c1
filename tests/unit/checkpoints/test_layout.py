"""From a file's names to entries: scales stay with the part that they belong to, and numbers that need one have it."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints.known import expected
from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.layout import Layout, lay_out
from engine.checkpoints.load import Weights
from engine.checkpoints.names import from_original
from engine.checkpoints.source import open_source
from engine.errors import CheckpointError

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
CLIP = expected.CLIPShape(width=8, layers=1, mlp=16, patch=2, tokens=5)
UMT5 = expected.UMT5Shape(vocab=8, dim=4, ffn=8, layers=1, heads=2, buckets=4, inner=4)


def tensors_of(component: str, naming: str, shapes) -> dict[str, torch.Tensor]:
    """Ones under another naming, what is several tensors there cut into as many."""
    tensors = {}
    for name, shape in shapes.items():
        names = from_original(component, naming, name)
        part = (shape[0] // len(names), *shape[1:]) if len(names) > 1 else shape
        tensors |= {each: torch.ones(part) for each in names}
    return tensors


def laid_out(path: Path, tensors: dict[str, torch.Tensor], **options) -> Layout:
    save_file(tensors, path, **options)
    return lay_out(open_source(path))


@pytest.mark.parametrize("by_row", [False, True])
def test_each_joined_part_has_its_own_scale(tmp_path: Path, by_row: bool) -> None:
    tensors = tensors_of("image_encoder", "huggingface", expected.clip(CLIP))
    factors = {}
    for number, part in enumerate("qkv", 1):
        name = f"vision_model.encoder.layers.0.self_attn.{part}_proj"
        rows = torch.arange(1.0, 9.0)[:, None] if by_row else torch.ones(())
        factors[part] = number * rows
        tensors |= {f"{name}.weight": tensors[f"{name}.weight"].to(FP8)}
        tensors |= {f"{name}.scale_weight": factors[part].clone()}
    held = laid_out(tmp_path / "clip.safetensors", tensors)
    assert held.faults == {}
    with Weights(held.entries) as weights:
        joined = weights.tensor("visual.transformer.0.attn.to_qkv.weight", device=CPU)
    assert torch.equal(joined, torch.cat([torch.ones(8, 8) * factors[part] for part in "qkv"]))


def test_a_part_without_a_scale_is_left_as_it_is(tmp_path: Path) -> None:
    tensors = tensors_of("image_encoder", "huggingface", expected.clip(CLIP))
    tensors["vision_model.encoder.layers.0.self_attn.k_proj.scale_weight"] = torch.tensor(2.0)
    with Weights(laid_out(tmp_path / "clip.safetensors", tensors).entries) as weights:
        joined = weights.tensor("visual.transformer.0.attn.to_qkv.weight", device=CPU)
    assert joined[:, 0].tolist() == [1.0] * 8 + [2.0] * 8 + [1.0] * 8


@pytest.mark.parametrize("name", ["shared", "encoder.embed_tokens"])
def test_the_scale_of_a_tied_table_goes_with_it(tmp_path: Path, name: str) -> None:
    tensors = tensors_of("text_encoder", "huggingface", expected.umt5(UMT5))
    tensors[f"{name}.weight"] = tensors.pop("shared.weight").to(FP8)
    tensors[f"{name}.scale_weight"] = torch.tensor(3.0)
    held = laid_out(tmp_path / "umt5.safetensors", tensors)
    assert held.faults == {}
    with Weights(held.entries) as weights:
        assert weights.tensor("token_embedding.weight", device=CPU).unique().tolist() == [3.0]


def test_of_two_tables_the_one_that_is_read_keeps_its_own_scale(tmp_path: Path) -> None:
    tensors = tensors_of("text_encoder", "huggingface", expected.umt5(UMT5))
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].to(FP8)
    tensors["encoder.embed_tokens.scale_weight"] = torch.tensor(3.0)
    with Weights(laid_out(tmp_path / "umt5.safetensors", tensors).entries) as weights:
        assert weights.tensor("token_embedding.weight", device=CPU).unique().tolist() == [1.0]


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool]
)
def test_integers_without_a_scale_are_no_weights(tmp_path: Path, dtype) -> None:
    path = tmp_path / "umt5.safetensors"
    tensors = tensors_of("text_encoder", "original", expected.umt5(UMT5))
    tensors["blocks.0.ffn.fc1.weight"] = tensors["blocks.0.ffn.fc1.weight"].to(dtype)
    held = laid_out(path, tensors)
    (reason,) = held.faults.values()
    assert reason.endswith("without a scale")
    found = recognise(open_source(path))
    assert not found.supported
    assert found.unexpected[0].startswith("blocks.0.ffn.fc1.weight (stored as ")
    with pytest.raises(CheckpointError, match=r"fc1\.weight is stored as .* without a scale"):
        Weights(held.entries)


def test_int8_with_a_scale_is_one(tmp_path: Path) -> None:
    tensors = tensors_of("text_encoder", "original", expected.umt5(UMT5))
    tensors["blocks.0.ffn.fc1.weight"] = tensors["blocks.0.ffn.fc1.weight"].to(torch.int8)
    tensors["blocks.0.ffn.fc1.scale_weight"] = torch.tensor(0.5)
    held = laid_out(tmp_path / "umt5.safetensors", tensors)
    assert held.faults == {}
    with Weights(held.entries) as weights:
        assert weights.tensor("blocks.0.ffn.fc1.weight", device=CPU).unique().tolist() == [0.5]


def test_counters_that_no_model_reads_may_be_integers(tmp_path: Path) -> None:
    tensors = tensors_of("image_encoder", "huggingface", expected.clip(CLIP))
    tensors["vision_model.embeddings.position_ids"] = torch.arange(5)
    assert laid_out(tmp_path / "clip.safetensors", tensors).faults == {}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "dit.", "pipe.dit.", "clip_vision.", "vae."]
)
def test_prefixes_of_trainers_and_of_programs(tmp_path: Path, prefix: str) -> None:
    shapes = expected.dit(expected.DiTShape(dim=16, ffn_dim=32, num_layers=1, text_dim=8))
    component, naming = "denoiser", "original"
    if prefix == "clip_vision.":
        shapes, component, naming = expected.clip(CLIP), "image_encoder", "huggingface"
    tensors = tensors_of(component, naming, shapes)
    held = laid_out(
        tmp_path / "x.safetensors", {f"{prefix}{name}": t for name, t in tensors.items()}
    )
    told = "" if prefix in ("module.", "_orig_mod.") else prefix  # a wrapper's name is of no file
    assert (held.component, held.naming, held.prefix) == (component, naming, told)
    assert held.entries.keys() == shapes.keys()


@pytest.mark.parametrize("shape", [(16 * 16, 1, 2, 2), (16, 64), (16, 16, 2, 2), (4, 256)])
def test_patches_that_a_gguf_flattened_get_their_axes_back(tmp_path: Path, shape) -> None:
    """GGUF has at most four axes, and not every converter says what the fifth was."""
    shapes = expected.dit(expected.DiTShape(dim=16, ffn_dim=32, num_layers=1, text_dim=8))
    patches = torch.randn(16, 16, 1, 2, 2)
    writer = gguf.GGUFWriter(tmp_path / "wan.gguf", "wan")
    for name, size in shapes.items():
        values = patches.reshape(shape) if name == "patch_embedding.weight" else torch.ones(size)
        writer.add_tensor(name, values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    held = lay_out(open_source(tmp_path / "wan.gguf"))
    assert {name: entry.shape for name, entry in held.entries.items()} == shapes
    with Weights(held.entries) as weights:
        assert torch.equal(weights.tensor("patch_embedding.weight", device=CPU), patches)
