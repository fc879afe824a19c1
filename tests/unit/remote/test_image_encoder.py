"""A CLIP of two layers, served: it speaks the contract, and its tokens are those that it gives here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints.known.expected import CLIPShape
from engine.checkpoints.known.expected import clip as tensors_of
from engine.components.providers import clip, remote
from engine.remote.conformance.check import check
from engine.serve.app import Server
from engine.serve.served import loaded
from presets.library.loading import load_preset
from presets.spec.components import ImageEncoderSpec
from store.index.index import open_index
from store.paths import prepare
from tests.servers.toy_server import answering

SHAPE = CLIPShape(width=160, layers=2, mlp=32, patch=4, tokens=17)


@pytest.mark.parametrize(("dtype", "fit"), [("fp32", "stretch"), ("bf16", "crop")])
def test_its_tokens_are_the_same_there_as_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, fit: str
) -> None:
    monkeypatch.setattr(remote, "_ASK_SECONDS", 60.0)
    prepare(tmp_path)
    path = tmp_path / "clip.safetensors"
    drawn = torch.Generator().manual_seed(0)
    numbers = {
        name: torch.randn(size, generator=drawn) * 0.1 for name, size in tensors_of(SHAPE).items()
    }
    save_file(numbers, path)
    settings = {"checkpoint": str(path), "device": "cpu", "dtype": dtype, "fit": fit}
    preset = load_preset(
        "micro", [f"components.image_encoder.{k}={v}" for k, v in settings.items()]
    )
    pictures = [torch.rand(3, 30, 47) * 2 - 1, torch.rand(3, 64, 20) * 2 - 1]
    with (
        open_index(tmp_path) as index,
        loaded(preset, ("image_encoder",), index) as served,
        answering(Server(served, max_body_bytes=1 << 20)) as url,
    ):
        assert [each for each in check(url) if each.wrong] == []
        here = ImageEncoderSpec(**settings)
        there = ImageEncoderSpec(name="remote", url=url)
        about, told = clip.describe(here, index), remote.image_encoder.describe(there, index)
        assert (told.identity, told.facts) == (about.identity, about.facts)
        tokens = clip.use(clip.load(here), here).encode(pictures)
        found = remote.image_encoder.load(there, told).encode(pictures)
        assert torch.equal(found, tokens)
        other = msgspec.structs.replace(here, fit="crop" if fit == "stretch" else "stretch")
        assert clip.describe(other, index).identity != told.identity
