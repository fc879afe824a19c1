"""The exported model: latent statistics folded exactly, files as the engine's loaders expect them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoints.formats.weight_file import read_weight_file
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.known.expected import vae_dim
from engine.checkpoints.layout import lay_out
from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.checkpoints.source import open_source
from engine.models.vae.wanvae import LATENTS_MEAN, LATENTS_STD, WanVAE, WanVAEConfig
from examples.micro.measures.sampling import load_exported
from examples.micro.model import export
from examples.micro.model.architecture import TextShape, build_dit, build_text_encoder, build_vae
from examples.micro.model.export import export_weights, fold_statistics, shipped_weights
from examples.micro.model.model_card import TEMPLATE
from examples.micro.tests import tiny
from tests.oracles.parity import randomise

PUBLISHED_MEAN = torch.tensor(LATENTS_MEAN, dtype=torch.float64).view(1, -1, 1, 1, 1)
PUBLISHED_STD = torch.tensor(LATENTS_STD, dtype=torch.float64).view(1, -1, 1, 1, 1)
EVALUATION = {
    "gates": [
        {"name": "round trip: shape", "value": 0.958, "least": 0.93, "holds": True},
        {"name": "round trip: star", "value": None, "least": 0.8, "holds": False},
    ],
    "measurements": [
        {"name": "held-out", "clips": 64, "scores": {"shape": 0.92, "size": None}},
    ],
}


def statistics() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(16, generator=generator, dtype=torch.float64)
    return mean, 0.3 + 3 * torch.rand(16, generator=generator, dtype=torch.float64)


def checkpoints() -> tuple[dict[str, Any], dict[str, Any]]:
    torch.manual_seed(0)
    vae, dit, text = build_vae(tiny.VAE), build_dit(tiny.DIT), build_text_encoder(TextShape())
    mean, std = statistics()
    weights = {f"dit.{name}": p.detach() for name, p in dit.named_parameters()}
    weights |= {f"text.{name}": p.detach() for name, p in text.named_parameters()}
    return (
        {"model": {"dim": 4}, "ema": {name: p.detach() for name, p in vae.named_parameters()}},
        {
            "model": {"dim": 32, "ffn_dim": 64, "num_heads": 1, "num_layers": 1},
            "ema": weights,
            "latent_mean": mean,
            "latent_std": std,
            "history": [{"phase": "dit", "step": 1234, "samples": 5678, "seconds": 600.0}],
        },
    )


@torch.no_grad()
def test_folding_is_exact_in_float64() -> None:
    plain, folded = (WanVAE(WanVAEConfig(dim=4)).double() for _ in range(2))
    randomise(plain, 1)
    mean, std = statistics()
    folded.load_state_dict(fold_statistics(plain.state_dict(), mean, std))
    own_mean, own_std = mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
    video = torch.rand(1, 3, 5, 16, 16, dtype=torch.float64) * 2 - 1

    moment, logvar = plain.encode_moments(video)
    expected = (moment - own_mean) / own_std
    published_moment, published_logvar = folded.encode_moments(video)
    latents = (published_moment - PUBLISHED_MEAN) / PUBLISHED_STD
    assert (latents - expected).abs().max() < 1e-12 * expected.abs().max()
    # the posterior keeps its width, measured in standard deviations of the latents
    width = (0.5 * published_logvar).exp() / PUBLISHED_STD
    assert torch.allclose(width, (0.5 * logvar).exp() / own_std, rtol=1e-12)

    noisy = latents + 0.1 * torch.randn(latents.shape, dtype=torch.float64)
    decoded = folded.decode_raw(noisy * PUBLISHED_STD + PUBLISHED_MEAN)
    wanted = plain.decode_raw(noisy * own_std + own_mean)
    assert wanted.std() > 0.01
    assert (decoded - wanted).abs().max() < 1e-11 * wanted.abs().max()


def test_published_statistics_fold_to_the_same_weights() -> None:
    vae = {name: p.detach().double() for name, p in build_vae(tiny.VAE).named_parameters()}
    folded = fold_statistics(vae, torch.tensor(LATENTS_MEAN), torch.tensor(LATENTS_STD))
    assert folded.keys() == vae.keys()
    for name, tensor in vae.items():
        assert torch.allclose(folded[name], tensor, rtol=1e-6, atol=1e-6), name


def test_the_config_has_the_published_fields_only(tmp_path: Path) -> None:
    export_weights(*checkpoints(), tmp_path)
    table = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert list(table) == [
        "_class_name", "model_type", "patch_size", "text_len", "in_dim", "dim", "ffn_dim",
        "freq_dim", "text_dim", "out_dim", "num_heads", "num_layers", "qk_norm",
        "cross_attn_norm", "eps",
    ]  # fmt: skip
    assert table["_class_name"] == "WanModel"
    file = tmp_path / "dit.safetensors"
    source = open_source(file)
    config = dit_config(source, lay_out(source))
    assert (config.dim, config.num_heads, config.num_layers, config.text_dim) == (32, 1, 1, 128)
    vae = tmp_path / "vae.safetensors"
    assert (
        vae_dim({name: tensor.shape for name, tensor in read_weight_file(vae).tensors.items()})
        == tiny.VAE.dim
    )


def test_files_are_ordinary_bf16_ones(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        size = export_weights(*checkpoints(), tmp_path / "weights")
    finally:
        os.umask(before)
    files = {path.name: path for path in (tmp_path / "weights").iterdir()}
    weights = {"text_encoder.safetensors", "dit.safetensors", "vae.safetensors", "tokenizer.json"}
    assert files.keys() == weights | {"config.json", "MODEL_CARD.md"}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o644}
    assert size == sum(files[name].stat().st_size for name in weights)
    for name in weights - {"tokenizer.json"}:
        assert {info.dtype for info in read_weight_file(files[name]).tensors.values()} == {"BF16"}


def test_the_engine_loads_what_was_exported(tmp_path: Path) -> None:
    vae, dit = checkpoints()
    export_weights(vae, dit, tmp_path)
    model = load_exported(tmp_path)
    wanted = shipped_weights(vae, dit)
    for module, part in ((model.dit, "dit"), (model.vae, "vae")):
        loaded = dict(module.named_parameters())
        assert loaded.keys() == wanted[part].keys()
        assert all(torch.equal(loaded[n], t.float()) for n, t in wanted[part].items())
    assert model.text_encoder.encode("a red circle").shape == (4, 128)


def test_exports_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_weights(*checkpoints(), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_model_that_is_too_large_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"has \d+ bytes, expected at most 1000"):
        export_weights(*checkpoints(), tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_the_card_states_world_sizes_training_and_gates(tmp_path: Path) -> None:
    vae, dit = checkpoints()
    export_weights(vae, dit, tmp_path, evaluation=EVALUATION, notes="Warm-started twice.\n")
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    numbers = sum(t.numel() for t in vae["ema"].values())
    for fact in (
        "license: apache-2.0",
        "foreground: red, green, blue, yellow, orange, purple, pink, white",
        "red on brown",
        f"width 4, 16 latent channels | {numbers:,} |",
        "| dit | 1,234 | 5,678 | 10 |",
        "Warm-started twice.",
        "| round trip: shape | 0.958 | 0.93 | yes |",
        "| round trip: star | - | 0.80 | no |",
        "| held-out | 64 | 0.920 | - |",
        "Nothing outside its world",
    ):
        assert fact in card, fact
    assert "{" not in card
    assert max(map(len, card.splitlines())) <= 140


def test_the_shipped_card_says_what_the_recipe_says() -> None:
    card = locate("denoiser", BUILTIN_MICRO).with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    said = [line for line in TEMPLATE.splitlines() if "{" not in line]
    assert [line for line in said if line not in card.splitlines()] == []


def test_a_card_without_records_says_so(tmp_path: Path) -> None:
    vae, dit = checkpoints()
    export_weights(vae, dit | {"history": []}, tmp_path)
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Not measured yet." in card
    assert "| phase |" not in card
