"""The denoising loop with a component of a few lines: what it calls, what it yields, how it fails."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from engine.pipelines import stages
from torch import Tensor

from engine.errors import RunFailed
from presets.library import load_preset
from presets.spec import RunSpec


class Gaussian:
    """The exact velocity towards a point: data = the mean of the prompt's states."""

    device = torch.device("cpu")
    latent_channels = 16

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.poison_at = math.inf

    def fingerprint(self) -> str:
        return "gaussian"

    def prepare(self, contexts: Sequence[Tensor]) -> Tensor:
        return torch.stack([c.mean() for c in contexts]).view(-1, 1, 1, 1, 1)

    def velocity(self, latents: Tensor, timestep: Tensor, conditioning: Tensor) -> Tensor:
        self.calls.append(len(latents))
        if len(self.calls) > self.poison_at:
            return torch.full_like(latents, torch.inf)
        return (latents - conditioning) / (timestep.float() / 1000).view(-1, 1, 1, 1, 1)


def spec(*overrides: str) -> RunSpec:
    return load_preset("micro", overrides)


def contexts(*values: float) -> list[Tensor]:
    return [torch.full((3, 8), value) for value in values]


def test_walks_the_whole_schedule_to_the_data() -> None:
    run = spec("scheduler.name=euler", "guidance.scale=1", "scheduler.steps=12")
    denoiser = Gaussian()
    steps = list(stages.denoise(denoiser, run, contexts(0.5), stages.initial_noise(run, denoiser)))
    assert [step.state.step for step in steps] == list(range(1, 13))
    assert denoiser.calls == [1] * 12
    assert [step.sigma for step in steps] == sorted((step.sigma for step in steps), reverse=True)
    assert (steps[-1].state.latents - 0.5).abs().max() < 0.05


def test_guidance_pushes_past_the_prompt() -> None:
    run = spec("guidance.scale=3", "scheduler.name=euler")
    denoiser = Gaussian()
    *_, last = stages.denoise(
        denoiser, run, contexts(0.5, 0.25), stages.initial_noise(run, denoiser)
    )
    assert denoiser.calls == [2] * 20
    assert float(last.state.latents.mean()) == pytest.approx(0.25 + 3 * 0.25, abs=0.05)


@pytest.mark.parametrize(
    ("dtype", "advice"), [("fp32", "another attention backend"), ("fp16", "dtype bf16 or fp32")]
)
def test_numbers_that_are_not_finite_stop_the_run_at_that_step(dtype: str, advice: str) -> None:
    run = spec(f"components.denoiser.dtype={dtype}", "guidance.scale=1")
    denoiser = Gaussian()
    denoiser.poison_at = 6
    steps = stages.denoise(denoiser, run, contexts(0.5), stages.initial_noise(run, denoiser))
    for _ in range(6):
        next(steps)
    message = f"step 7 of 20 .dtype {dtype}, attention sdpa.; try {advice}"
    with pytest.raises(RunFailed, match=message):
        next(steps)


def test_noise_depends_on_the_seed_alone() -> None:
    denoiser = Gaussian()
    torch.manual_seed(1)
    first = stages.initial_noise(spec("seed=4"), denoiser)
    state = torch.get_rng_state()
    again = stages.initial_noise(spec("seed=4", "prompt=other"), denoiser)
    assert first.shape == (1, 16, 5, 8, 8)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, stages.initial_noise(spec("seed=5"), denoiser))


def test_no_guidance_encodes_one_prompt() -> None:
    class Recorder:
        prompts: list[str] = []  # noqa: RUF012 - one test, one list

        def fingerprint(self) -> str:
            return ""

        def encode(self, prompt: str) -> Tensor:
            self.prompts.append(prompt)
            return torch.zeros(1, 8)

    recorder = Recorder()
    run = spec("prompt=a", "negative_prompt=b", "guidance.scale=1")
    assert len(stages.encode_prompts(recorder, run)) == 1
    assert len(stages.encode_prompts(recorder, spec("prompt=a", "negative_prompt=b"))) == 2
    assert recorder.prompts == ["a", "a", "b"]


def test_wan_noise_comes_from_the_denoisers_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second device here: what is looked at is which one the generator is asked for."""
    asked: list[str] = []
    make = torch.Generator

    def generator(device: torch.device) -> torch.Generator:
        asked.append(str(device))
        return make("cpu")

    monkeypatch.setattr(torch, "Generator", generator)
    denoiser = Gaussian()
    denoiser.device = torch.device("cpu", 0)
    stages.initial_noise(spec("noise=cpu"), denoiser)
    stages.initial_noise(spec("noise=wan"), denoiser)
    assert asked == ["cpu", "cpu:0"]


def test_a_broken_text_encoder_is_named() -> None:
    class Broken:
        def fingerprint(self) -> str:
            return ""

        def encode(self, prompt: str) -> Tensor:
            return torch.full((2, 8), torch.nan)

    with pytest.raises(RunFailed, match=r"text encoder's output is not finite \(dtype fp32\)"):
        stages.encode_prompts(Broken(), spec())


def test_a_broken_decode_is_not_a_black_video() -> None:
    class Broken:
        device = torch.device("cpu")
        latent_channels = 16

        def fingerprint(self) -> str:
            return ""

        def encode(self, video: Tensor) -> Tensor:
            raise NotImplementedError

        def decode(self, latents: Tensor, *, on_chunk=lambda done, total: None) -> Tensor:
            return torch.full((1, 3, 1, 8, 8), torch.nan)

    with pytest.raises(RunFailed, match="the decoded video is not finite"):
        stages.decode(Broken(), torch.zeros(1, 16, 1, 1, 1))
