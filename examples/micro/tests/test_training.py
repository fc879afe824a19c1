"""Every phase of the training trains, and goes on from a checkpoint as if it had never stopped."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.micro.tests import tiny
from examples.micro.training import encode
from examples.micro.training import train_vae as train_vae_module
from examples.micro.training.checkpoint import encoder_digest, load_checkpoint
from examples.micro.training.encode import Encoding, encode_clips
from examples.micro.training.latents import LatentSet
from examples.micro.training.loop import Budget, Progress, WeightAverage, learning_rate_factor
from examples.micro.training.parallel import Rank
from examples.micro.training.train_dit import train_dit
from examples.micro.training.train_vae import (
    CURRICULUM,
    PHASES,
    Crop,
    VAETraining,
    edge_mask,
    pick_crop,
    reconstruction_loss,
    render_crop,
    sample_with_stars,
    train_vae,
)


def assert_same(actual: Any, expected: Any, path: str = "") -> None:
    """Equal to the bit, through mappings and sequences; wall time apart."""
    if isinstance(expected, Mapping):
        assert actual.keys() == expected.keys(), path
        for key in expected:
            if key != "seconds":
                assert_same(actual[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), path
        for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, e, f"{path}[{index}]")
    elif isinstance(expected, Tensor):
        assert torch.equal(actual, expected), path
    else:
        assert actual == expected, path


class KeepStep:
    """Copies the checkpoint of one step aside, for a run to go on from."""

    def __init__(self, step: int, source: Path, target: Path) -> None:
        self.step, self.source, self.target = step, source, target

    def __call__(self, _: object, progress: Progress) -> None:
        if progress.step == self.step:
            shutil.copy(self.source, self.target)


def vae_training(phase: str, steps: int) -> VAETraining:
    changes = {"phase": phase, "budget": Budget(steps=steps), "save_seconds": 0.0}
    return VAETraining(**vars(PHASES[phase]) | changes)


@pytest.fixture(scope="module")
def trained_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vae") / "vae.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_vae_module, "CURRICULUM", tiny.cropped(CURRICULUM))
        train_vae(Rank(), vae_training("curriculum", 2), path, shape=tiny.VAE)
    return path


@pytest.mark.usefixtures("tiny_crops")
@pytest.mark.parametrize(
    ("phase", "steps", "stop"), [("curriculum", 3, 2), ("joint", 2, 1), ("decoder", 2, 1)]
)
def test_a_resumed_vae_training_equals_an_unbroken_one(
    phase: str, steps: int, stop: int, trained_vae: Path, tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole.pt", tmp_path / "resumed.pt"
    init = None if phase == "curriculum" else trained_vae
    settings = vae_training(phase, steps)
    keep = KeepStep(stop, whole, resumed)
    train_vae(Rank(), settings, whole, shape=tiny.VAE, init=init, on_save=keep)
    assert load_checkpoint(resumed, "vae")["progress"]["step"] == stop
    train_vae(Rank(), settings, resumed, resume=True)
    content = load_checkpoint(whole, "vae")
    assert_same(load_checkpoint(resumed, "vae"), content)
    assert content["progress"]["step"] == steps
    earlier = [] if init is None else ["curriculum"]
    assert [entry["phase"] for entry in content["history"]] == [*earlier, phase]


@pytest.mark.usefixtures("tiny_crops")
@pytest.mark.parametrize(("phase", "keeps"), [("joint", False), ("decoder", True)])
def test_only_the_decoder_phase_keeps_latents_valid(
    phase: str, keeps: bool, trained_vae: Path, tmp_path: Path
) -> None:
    train_vae(Rank(), vae_training(phase, 1), tmp_path / "vae.pt", init=trained_vae)
    before, after = load_checkpoint(trained_vae, "vae"), load_checkpoint(tmp_path / "vae.pt", "vae")
    assert (encoder_digest(after["ema"]) == encoder_digest(before["ema"])) == keeps
    assert not torch.equal(after["raw"]["conv2.weight"], before["ema"]["conv2.weight"])


def test_phases_that_do_not_fit_are_refused(trained_vae: Path, tmp_path: Path) -> None:
    out = tmp_path / "vae.pt"
    with pytest.raises(ValueError, match="joint phase needs trained weights"):
        train_vae(Rank(), vae_training("joint", 1), out)
    with pytest.raises(ValueError, match="starts from nothing"):
        train_vae(Rank(), vae_training("curriculum", 1), out, init=trained_vae)
    with pytest.raises(ValueError, match="holds the curriculum phase, cannot go on with decoder"):
        train_vae(Rank(), vae_training("decoder", 1), trained_vae, resume=True)
    assert not out.exists()


@pytest.mark.usefixtures("tiny_crops")
def test_a_training_that_diverges_keeps_its_last_checkpoint(
    trained_vae: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vae.pt"
    shutil.copy(trained_vae, out)
    settings = vae_training("joint", 3)
    wild = VAETraining(**vars(settings) | {"adam_lr": 1e38, "warmup_steps": 1})
    with pytest.raises(FloatingPointError, match="diverged"):
        train_vae(Rank(), wild, out, init=trained_vae)
    assert all(bool(t.isfinite().all()) for t in load_checkpoint(out, "vae")["raw"].values())


def test_the_curriculum_lengthens_its_clips() -> None:
    settings = vae_training("curriculum", 100)
    shares = (0.0, 0.2, 0.6, 0.9)
    assert [pick_crop(settings, spent, 1).frames for spent in shares] == [1, 5, 9, 9]
    assert pick_crop(settings, 0.9, 0) == Crop(2, 17, 48)
    assert CURRICULUM[-1][0] == 1
    frames = {pick_crop(vae_training("decoder", 9), 0.5, step).frames for step in range(3)}
    assert frames == {5, 9, 17}


def test_crops_have_their_shape_and_show_the_object() -> None:
    for crop in (Crop(6, 1, 32), Crop(3, 5, 64), Crop(2, 17, 48)):
        video = render_crop(crop, random.Random(1), star_share=0.0)
        assert video.shape == (crop.clips, 3, crop.frames, crop.window, crop.window)
        assert float(video.std((2, 3, 4)).amax()) > 0.1


def test_small_stars_are_oversampled() -> None:
    rng = random.Random(0)
    drawn = [sample_with_stars(rng, 0.4) for _ in range(1000)]
    stars = [a for a in drawn if a.shape == "star"]
    assert len(stars) / 1000 == pytest.approx(0.4 + 0.6 / 4, abs=0.05)
    assert sum(a.size == "small" for a in stars) / len(stars) == pytest.approx(0.68, abs=0.06)


def test_edges_and_gradients_cost_more() -> None:
    video = torch.full((1, 3, 2, 16, 16), -1.0)
    video[..., 4:10, 4:10] = 1
    mask = edge_mask(video)[0, 0, 0]
    expected = torch.zeros(16, 16)
    expected[2:12, 2:12] = 1
    expected[6:8, 6:8] = 0
    expected[[2, 2, 11, 11], [2, 11, 2, 11]] = 0
    assert torch.equal(mask, expected)
    shifted = video.roll(1, -1)
    plain = VAETraining(budget=Budget(steps=1))
    edges = VAETraining(budget=Budget(steps=1), edge_weight=4.0)
    slopes = VAETraining(budget=Budget(steps=1), gradient_weight=1.0)
    losses = [float(reconstruction_loss(shifted, video, s)) for s in (plain, edges, slopes)]
    assert losses[1] == pytest.approx(5 * losses[0])
    assert losses[2] > losses[0] > 0
    assert float(reconstruction_loss(video, video, edges)) == 0


def test_a_resumed_transformer_training_equals_an_unbroken_one(tmp_path: Path) -> None:
    latents = tiny.write_latents(tmp_path / "latents")
    whole, resumed = tmp_path / "whole.pt", tmp_path / "resumed.pt"
    keep = KeepStep(2, whole, resumed)
    train_dit(Rank(), tiny.dit_training(4), latents, whole, shape=tiny.DIT, on_save=keep)
    train_dit(Rank(), tiny.dit_training(4), latents, resumed, resume=True)
    content = load_checkpoint(whole, "dit")
    assert_same(load_checkpoint(resumed, "dit"), content)
    assert content["progress"]["step"] == 4
    moved = (content["raw"]["dit.head.head.weight"]).abs().max()  # starts at zero
    assert float(moved) > 0


def test_new_statistics_come_with_new_latents(tmp_path: Path) -> None:
    first = tmp_path / "first.pt"
    latents = tiny.write_latents(tmp_path / "a", encoder="a")
    train_dit(Rank(), tiny.dit_training(1), latents, first, shape=tiny.DIT)
    again, other = tmp_path / "again.pt", tmp_path / "other.pt"
    tiny.write_latents(tmp_path / "a", encoder="a", seed=1)
    train_dit(Rank(), tiny.dit_training(1), tmp_path / "a", again, init=first)
    train_dit(
        Rank(), tiny.dit_training(1), tiny.write_latents(tmp_path / "b", seed=2), other, init=first
    )
    means = [load_checkpoint(path, "dit")["latent_mean"] for path in (first, again, other)]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])
    assert [h["phase"] for h in load_checkpoint(other, "dit")["history"]] == ["dit", "dit"]


def test_interrupted_encoding_writes_the_same_shards(
    trained_vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CLIPS_PER_SHARD", 4)
    monkeypatch.setattr(encode, "CLIPS_PER_PASS", 2)
    settings = Encoding(clips=8, seed=3)
    encode_clips(Rank(), settings, trained_vae, tmp_path)
    first, second = sorted(tmp_path.glob("*.pt"))
    expected, untouched = load_checkpoint(second, "latents"), first.stat().st_mtime_ns
    second.unlink()
    encode_clips(Rank(), settings, trained_vae, tmp_path)
    assert_same(load_checkpoint(second, "latents"), expected)
    assert first.stat().st_mtime_ns == untouched
    data = LatentSet(tmp_path)
    data.refresh()
    assert data.latents.shape == (8, 16, 5, 8, 8)
    assert len(data.attributes) == 8


def test_latents_of_two_encoders_never_mix(trained_vae: Path, tmp_path: Path) -> None:
    tiny.write_latents(tmp_path, encoder="someone else's")
    with pytest.raises(ValueError, match="made by another VAE encoder"):
        encode_clips(Rank(), Encoding(clips=8), trained_vae, tmp_path)
    tiny.write_latents(tmp_path, encoder="a third one's", seed=1)
    with pytest.raises(ValueError, match="another VAE encoder"):
        LatentSet(tmp_path).refresh()
    with pytest.raises(ValueError, match="no latent shards"):
        LatentSet(tmp_path / "nowhere").refresh()


def test_checkpoints_of_another_kind_are_refused(trained_vae: Path) -> None:
    with pytest.raises(ValueError, match="expected a dit checkpoint of format 1"):
        load_checkpoint(trained_vae, "dit")


def test_budgets_end_by_time_or_by_steps() -> None:
    assert Budget(seconds=10).spent(5, 10**6) == 0.5
    assert Budget(seconds=10, steps=4).spent(5, 3) == 0.75
    assert Budget(seconds=100, steps=10).scaled(0.05) == Budget(5, 1)
    with pytest.raises(ValueError, match="needs a limit"):
        Budget()


def test_learning_rates_warm_up_and_fall_to_zero() -> None:
    def rate(step: int, spent: float) -> float:
        return learning_rate_factor(step, spent, warmup_steps=10, flat=0.5)

    assert rate(0, 0.0) == pytest.approx(0.1)
    assert rate(20, 0.3) == 1
    assert rate(20, 0.75) == 0.5
    assert rate(20, 1.0) == 0


def test_averaged_weights_are_in_place_for_a_while() -> None:
    weight = torch.zeros(3)
    average = WeightAverage({"w": weight}, decay=0.5)
    weight.fill_(1)
    average.update(step=10**6)
    with average.in_place():
        assert weight.tolist() == [0.5] * 3
    assert weight.tolist() == [1.0] * 3
