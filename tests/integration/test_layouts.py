"""Every layout of the micro model gives the bit-identical video of the shipped one, and is told for what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from engine.api import TextToVideo, Video
from engine.checkpoints.convert.convert import convert
from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.locate import locate
from engine.checkpoints.source import open_source
from engine.errors import CheckpointError
from tests.executing import SMALL
from tests.weights import layouts

SHORT = ["scheduler.steps=2", "seed=5", *SMALL]
KINDS = ("denoiser", "text_encoder", "vae")
SUFFIX = {"comfyui": ".safetensors", "gguf": ".gguf", "original": ".pth"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Video:
    return TextToVideo.from_preset("micro", SHORT, store=tmp_path_factory.mktemp("store"))()


def video_of(paths: Mapping[str, Path]) -> Video:
    overrides = [
        f"components.text_encoder.tokenizer={paths.get('tokenizer', locate('tokenizer', 'builtin:micro'))}",
        *(f"components.{kind}.checkpoint={paths[kind]}" for kind in KINDS if kind in paths),
    ]
    return TextToVideo.from_preset("micro", SHORT + overrides)()


def same(video: Video, other: Video) -> bool:
    return torch.equal(video.latents, other.latents) and torch.equal(video.frames, other.frames)


@pytest.mark.parametrize("dtype", ["keep", "fp32"])
@pytest.mark.parametrize("layout", ["original", "diffusers", "comfyui", "gguf"])
def test_what_our_converter_writes(shipped: Video, tmp_path: Path, layout: str, dtype: str) -> None:
    paths = {}
    for kind in KINDS:
        if layout == "gguf" and kind == "vae":
            continue  # nobody publishes one
        suffix = "" if (layout, kind) == ("original", "denoiser") else SUFFIX.get(layout, "")
        source = open_source(locate(kind, "builtin:micro"))
        target = tmp_path / f"{kind}{suffix}"
        paths[kind] = convert(source, target, layout=layout, dtype=dtype, shard_bytes=1 << 20)
        assert recognise(open_source(target)).component == kind
    assert same(video_of(paths), shipped)


@pytest.mark.parametrize(
    "write",
    [
        layouts.diffusers_folder,
        layouts.huggingface_umt5_folder,
        layouts.comfyui_folder,
        layouts.original_folder,
        layouts.kijai_folder,
        layouts.gguf_folder,
    ],
)
def test_what_other_programs_write(shipped: Video, tmp_path: Path, write) -> None:
    assert same(video_of(write(tmp_path / "files")), shipped)


def test_a_whole_repository_is_named_by_its_folder(shipped: Video, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    layouts.original_folder(folder)
    overrides = ["components.text_encoder.tokenizer="]
    overrides += [f"components.{kind}.checkpoint={folder}" for kind in KINDS]
    assert same(TextToVideo.from_preset("micro", SHORT + overrides)(), shipped)


@pytest.mark.parametrize("layout", ["comfyui", "gguf", "diffusers"])
def test_prompts_are_read_by_the_vocabulary_that_goes_along_with_the_encoder(
    shipped: Video, tmp_path: Path, layout: str
) -> None:
    """The prompt is in small letters, the one thing of which that of the micro model cannot say that it makes them."""
    folder = tmp_path / "in"
    folder.mkdir()
    encoder = shutil.copy(locate("text_encoder", "builtin:micro"), folder)
    table = json.loads(locate("tokenizer", "builtin:micro").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(table | {"normalizer": None}))
    # by way of ComfyUI's layout, in which it is inside of the file
    held = convert(open_source(Path(encoder)), tmp_path / "held.safetensors", layout="comfyui")
    target = tmp_path / "out" / f"encoder{SUFFIX.get(layout, '')}"
    convert(open_source(held), target, layout=layout, dtype="fp32" if layout == "gguf" else "keep")
    overrides = [
        "components.text_encoder.tokenizer=",
        f"components.text_encoder.checkpoint={target}",
    ]
    assert same(TextToVideo.from_preset("micro", SHORT + overrides)(), shipped)


@pytest.mark.parametrize(
    "config", [None, "{", '{"num_heads": 5, "dim": 1, "ffn_dim": 1, "num_layers": 1}']
)
def test_a_run_refuses_what_inspecting_says_it_would(tmp_path: Path, config: str | None) -> None:
    """The heads of a width that was not published are in no tensor: a guess would give another video."""
    path = tmp_path / "dit.safetensors"
    path.write_bytes(locate("denoiser", "builtin:micro").read_bytes())
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    found = recognise(open_source(path))
    assert not found.supported
    with pytest.raises(CheckpointError) as caught:
        video_of({"denoiser": path})
    assert found.note in str(caught.value)


def test_there_and_back_is_the_same_file(tmp_path: Path) -> None:
    """Through every layout and back to the original's: the bytes of the shipped tensors, and equal configs."""
    for kind in KINDS:
        source = open_source(locate(kind, "builtin:micro"))
        first = convert(source, tmp_path / f"{kind}.safetensors", layout="comfyui")
        there = convert(open_source(first), tmp_path / f"{kind}-there", layout="diffusers")
        back = convert(open_source(there), tmp_path / f"{kind}-back.safetensors", layout="comfyui")
        assert back.read_bytes() == first.read_bytes()
