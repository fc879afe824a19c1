"""The configuration that a DiT is built with: its heads above all, and that inspecting, checking and running agree."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.known import expected
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.known.expected import DiTShape
from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.layout import lay_out
from engine.checkpoints.names import from_original
from engine.checkpoints.source import open_source
from engine.errors import CheckpointError
from engine.models.diffusion.config import WanDiTConfig
from tests.weights import synthetic
from tests.weights.model_files import write_safetensors

CUSTOM = DiTShape(dim=64, ffn_dim=128, num_layers=2, text_dim=32)


def dit_file(folder: Path, shape: DiTShape, config: object = None) -> Path:
    tensors = {name: ("BF16", axes) for name, axes in expected.dit(shape).items()}
    if config is not None:
        (folder / "config.json").write_text(
            config if isinstance(config, str) else json.dumps(config)
        )
    return write_safetensors(folder / "dit.safetensors", tensors)


def configured(path: Path) -> WanDiTConfig:
    source = open_source(path)
    return dit_config(source, lay_out(source))


def original(shape: DiTShape, num_heads: object, **more: object) -> dict[str, Any]:
    sizes = {"dim": shape.dim, "ffn_dim": shape.ffn_dim, "num_layers": shape.num_layers}
    return {"_class_name": "WanModel", **sizes, "num_heads": num_heads, "eps": 1e-6, **more}


@pytest.mark.parametrize(
    "kind", ["without", "with its own", "with another's", "with a damaged one"]
)
@pytest.mark.parametrize(
    ("variant", "num_heads"),
    [
        ("wan2.1-t2v-1.3b", 12),
        ("wan2.2-ti2v-5b", 24),
        ("wan2.1-t2v-14b", 40),
        ("wan2.1-i2v-14b", 40),
    ],
)
def test_heads_of_the_published_models(tmp_path, variant, num_heads, kind) -> None:
    shape = expected.PUBLISHED[variant]
    config = {
        "without": None,
        "with its own": original(shape, num_heads),
        "with another's": original(CUSTOM, 4),
        "with a damaged one": '{"dim": ',
    }[kind]
    path = dit_file(tmp_path, shape, config)
    found = configured(path)
    assert (found.num_heads, found.head_dim, found.dim) == (num_heads, 128, shape.dim)
    assert recognise(open_source(path)).supported == variant.startswith("wan2.1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_heads": 5}, {"num_heads": "12"}, {"eps": float("nan")}, {"eps": 0}, {"eps": "1e-6"}, {"text_len": 0},
        {"qk_norm": "rms"}, {"model_type": 3, "num_heads": True}, {"text_len": 512.0},
    ],
)  # fmt: skip
def test_a_senseless_config_counts_only_where_nothing_else_tells(tmp_path: Path, wrong) -> None:
    shape = expected.PUBLISHED["wan2.1-t2v-1.3b"]
    path = dit_file(tmp_path, shape, original(shape, 12) | wrong)
    assert configured(path).num_heads == 12
    path = dit_file(tmp_path, CUSTOM, original(CUSTOM, 4) | {"num_heads": 5} | wrong)
    with pytest.raises(CheckpointError, match="not the configuration of a Wan DiT"):
        configured(path)
    found = recognise(open_source(path))
    assert not found.supported
    assert "not the configuration of a Wan DiT" in found.note


def test_a_custom_width_needs_its_config(tmp_path: Path) -> None:
    path = dit_file(tmp_path, CUSTOM)
    with pytest.raises(CheckpointError, match="the number of heads is not known"):
        configured(path)
    found = recognise(open_source(path))
    assert (found.variant, found.supported) == ("wan2.1-t2v (custom)", False)
    assert found.note == (
        "its width 64 is of no published model, so the number of heads is not known; put its config.json beside it"
    )
    (tmp_path / "config.json").write_text("{")
    assert "damaged JSON" in recognise(open_source(path)).note
    (tmp_path / "config.json").write_text(json.dumps(original(CUSTOM, 4, num_layers=9)))
    assert "says num_layers 9, but the tensors" in recognise(open_source(path)).note
    (tmp_path / "config.json").write_text(json.dumps(original(CUSTOM, 4)))
    found = recognise(open_source(path))
    assert (found.supported, found.note) == (True, "")
    assert configured(path).num_heads == 4


def test_the_config_of_diffusers(tmp_path: Path) -> None:
    config = {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "ffn_dim": 128,
        "num_layers": 2,
        "eps": 1e-5,
        "qk_norm": "rms_norm_across_heads",
    }
    found = configured(dit_file(tmp_path, CUSTOM, config))
    assert (found.num_heads, found.eps, found.qk_norm) == (4, 1e-5, True)


def test_eps_of_the_original_config(tmp_path: Path) -> None:
    assert configured(dit_file(tmp_path, CUSTOM, original(CUSTOM, 4, eps=1e-5))).eps == 1e-5


def test_norms_are_those_that_the_tensors_have(tmp_path: Path) -> None:
    """Whatever a config says: a model without them could not take the tensors."""
    found = configured(
        dit_file(tmp_path, CUSTOM, original(CUSTOM, 4, qk_norm=False, cross_attn_norm=False))
    )
    assert found.qk_norm
    assert found.cross_attn_norm


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eps", 0.0), ("eps", -1e-6), ("eps", float("inf")), ("eps", float("nan")), ("eps", True), ("eps", "1e-6"),
        ("qk_norm", 1), ("cross_attn_norm", None), ("text_len", 0), ("text_len", 1.5), ("text_len", True),
        ("patch_size", (1, 2)), ("patch_size", (1, 0, 2)), ("patch_size", [1, 2, 2]), ("patch_size", 2),
        ("in_dim", 0), ("ffn_dim", "x"), ("out_dim", -1),
    ],
)  # fmt: skip
def test_fields_that_make_no_sense(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is"):
        dataclasses.replace(WanDiTConfig(), **{field: value})


def test_odd_tensors_are_an_error_not_a_crash(tmp_path: Path) -> None:
    shape = dataclasses.replace(expected.PUBLISHED["wan2.1-t2v-1.3b"], freq_dim=3)
    found = recognise(open_source(dit_file(tmp_path, shape)))
    assert not found.supported
    assert "freq_dim is 3, expected an even number" in found.note


IMAGE_SHAPES = {
    "i2v": dataclasses.replace(expected.PUBLISHED["wan2.1-i2v-14b"], num_layers=1),
    "flf2v": dataclasses.replace(expected.PUBLISHED["wan2.1-flf2v-14b"], num_layers=1),
}


def in_diffusers(folder: Path, shape: DiTShape) -> Path:
    tensors = {
        name: ("BF16", axes)
        for original_name, axes in expected.dit(shape).items()
        for name in from_original("denoiser", "diffusers", original_name)
    }
    return write_safetensors(folder / "dit.safetensors", tensors)


def in_comfyui(folder: Path, shape: DiTShape) -> Path:
    shapes = synthetic.prefixed("model.diffusion_model.", expected.dit(shape))
    return write_safetensors(folder / "dit.safetensors", synthetic.typed(shapes, "F16"))


def in_fp8(folder: Path, shape: DiTShape) -> Path:
    shapes = expected.dit(shape)
    table = synthetic.squeezed(shapes, "F8_E4M3", "F16", scales=("scale_weight",), marker=0)
    return write_safetensors(folder / "dit.safetensors", table)


def in_gguf(folder: Path, shape: DiTShape) -> Path:
    table = synthetic.typed(expected.dit(shape), "F16")
    return synthetic.write_gguf(folder / "dit.gguf", table, architecture="wan", metadata={})


@pytest.mark.parametrize("write", [dit_file, in_diffusers, in_comfyui, in_fp8, in_gguf])
@pytest.mark.parametrize("task", IMAGE_SHAPES)
def test_what_image_to_video_models_take(tmp_path: Path, task: str, write) -> None:
    path = write(tmp_path, IMAGE_SHAPES[task])
    found = configured(path)
    assert (found.model_type, found.in_dim, found.image_dim) == (task, 36, 1280)
    assert (found.num_given_channels, found.num_heads) == (20, 40)
    assert recognise(open_source(path)).supported
