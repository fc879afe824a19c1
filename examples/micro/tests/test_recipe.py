"""The whole recipe, tiny: order, gates between the phases, and starting again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from examples.micro.recipe import GateMissed, Recipe, run_recipe
from examples.micro.tests import tiny
from examples.micro.training import encode
from examples.micro.training.checkpoint import load_checkpoint
from examples.micro.training.encode import Encoding
from examples.micro.training.loop import Budget
from examples.micro.training.train_vae import PHASES

RECIPE = Recipe(
    vae=tuple(replace(phase, budget=Budget(steps=1)) for phase in PHASES.values()),
    encoding=Encoding(clips=8),
    dit=tiny.dit_training(2, save_seconds=1e9),
    vae_shape=tiny.VAE,
    dit_shape=tiny.DIT,
    round_trips=4,
    prompts=2,
    check_clips=1,
)


@pytest.mark.usefixtures("tiny_crops")
def test_the_recipe_stops_at_its_gate_goes_on_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CLIPS_PER_SHARD", 8)
    with pytest.raises(GateMissed, match=r"FAIL round trip: .* Train longer"):
        run_recipe(RECIPE, tmp_path, ranks=1, device="cpu")
    made = {path.name for path in tmp_path.glob("*.pt")}
    assert made == {"vae-curriculum.pt", "vae-joint.pt", "vae.pt"}
    assert not (tmp_path / "latents").exists()
    phases = [entry["phase"] for entry in load_checkpoint(tmp_path / "vae.pt", "vae")["history"]]
    assert phases == ["curriculum", "joint", "decoder"]
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in made}

    evaluation = run_recipe(RECIPE, tmp_path, ranks=1, device="cpu", ignore_gates=True)
    assert not evaluation.holds
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in made} == times
    assert load_checkpoint(tmp_path / "dit.pt", "dit")["progress"]["step"] == 2
    figures = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    names = [m["name"] for m in figures["measurements"]]
    assert names == ["VAE round trip", "held-out", "paraphrased", "paraphrased, seen"]
    card = (tmp_path / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| decoder | 1 |" in card
    assert "| prompts: shape |" in card
    assert (tmp_path / "sheets" / "held-out.png").is_file()

    trained = (tmp_path / "dit.pt").stat().st_mtime_ns
    with pytest.raises(GateMissed):
        run_recipe(RECIPE, tmp_path, ranks=1, device="cpu")
    assert (tmp_path / "dit.pt").stat().st_mtime_ns == trained


def test_the_pace_stretches_every_training() -> None:
    recipe = Recipe()
    slow, quick = recipe.paced(2.0), recipe.paced(0.01)
    assert [p.budget.seconds for p in slow.vae] == [2 * p.budget.seconds for p in recipe.vae]
    assert slow.dit.budget.seconds == 2 * recipe.dit.budget.seconds
    assert slow.encoding.clips == recipe.encoding.clips
    assert quick.encoding.clips == round(0.01 * recipe.encoding.clips)
